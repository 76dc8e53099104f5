"""Rank with every layer of a cross-encoder and of a bi-encoder. `parlai poly_layers` is the command.

Ananthakrishnan et al. 2025 (https://arxiv.org/abs/2502.03552): early layers of a cross-encoder embed better than the
same layers of a bi-encoder. A cross-encoder reads each text paired with itself, a bi-encoder reads it alone. The vector
of a text is the mean of a layer's states over the text's own tokens, and candidates are ranked by the cosine.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from poly_agents.encoders.states import by_length, padded_index
from poly_agents.files.atomic import replace, write_text
from poly_agents.models.textranker import TextRanker
from poly_agents.scoring import maths
from poly_agents.scoring.ranks import label_ranks
from poly_agents.text.tokens import Tokens, pad
from poly_agents.text.turns import ResponseExample

TEXTS = 256  # texts that are encoded, or contexts that are ranked, at a time
MEASURES = ("hits@1", "hits@5", "mrr")
Rows = list[dict[str, float]]  # for each layer its number, 0 for the embeddings, and the measures


def run(models: Mapping[str, TextRanker], examples: Sequence[ResponseExample], out: Path) -> str:
    """Rank with every layer of some models and write layers.json, layers.md and layers.png.

    Args:
        models: models by the names that the tables give them; `cross` is one of them.
        examples: those to rank; each has candidates.
        out: the folder to write to.

    Returns:
        The table, and which layer of the cross-encoder is best.
    """
    results = {name: rank(model, examples) for name, model in models.items()}
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "layers.json", json.dumps({"examples": len(examples), **results}, indent=1) + "\n")
    write_text(out / "layers.md", table(results))
    drawn = plot(results, out / "layers.png")
    where = f"{out}/layers.png shows them" if drawn else "pip install 'poly_agents[bench]' for a plot of them"
    best = max(results["cross"], key=lambda row: row["mrr"])["layer"]
    return f"{table(results)}\n{len(examples):,} contexts; {where}. Best: --early-layer {max(best, 1)}"


@torch.no_grad()
def rank(model: TextRanker, examples: Sequence[ResponseExample]) -> Rows:
    """Measure the ranking by every layer of a model. The response must be among the candidates."""
    pools = [list(dict.fromkeys(example.candidates)) for example in examples]
    texts = list(dict.fromkeys(text for pool in pools for text in pool))
    number = {text: row for row, text in enumerate(texts)}
    index = padded_index([[number[text] for text in pool] for pool in pools])  # [B, C]
    labels = torch.tensor([pool.index(example.response) for pool, example in zip(pools, examples, strict=True)])  # [B]
    contexts = layer_vectors(model, model.context_ids([example.context for example in examples]))  # [B, J, D]
    candidates = layer_vectors(model, model.candidate_ids(texts))  # [N, J, D]
    rows = []
    for layer in range(contexts.shape[1]):
        scores = torch.cat(
            [
                maths.dot(contexts[part, layer], candidates[index[part].clamp(min=0), layer])
                for part in torch.arange(len(index)).split(TEXTS)
            ]
        )
        ranks = label_ranks(scores.masked_fill(index < 0, -torch.inf), labels).float()
        values = ranks <= 1, ranks <= 5, 1 / ranks
        means = [float(value.float().mean()) for value in values]
        rows.append({"layer": layer} | dict(zip(MEASURES, means, strict=True)))
    return rows


def layer_vectors(model: TextRanker, ids: Sequence[Sequence[int]]) -> Tensor:
    """Embed texts by every layer of a model.

    Args:
        model: a cross-encoder, or a ranker that encodes texts alone.
        ids: bare ids of N texts. Of a text that is too long the end is kept.

    Returns:
        A unit vector for each of J layers, [N, J, D]. The first is of the embeddings.
    """
    ranker = model.ranker
    encoder, frame = ranker.context_encoder, ranker.frame
    layers = range(len(encoder.layers) + 1)
    longest = (encoder.positions - frame.pair_length) // 2

    def vectors(tokens: Tokens) -> Tensor:
        own = frame.text_mask(tokens)
        return torch.stack([maths.mean(hidden, own) for hidden in encoder.hidden(tokens, layers)], 1)

    parts = []
    for start in range(0, len(ids), TEXTS):
        text = pad([row[-longest:] for row in ids[start : start + TEXTS]]).to(ranker.device)
        framed = frame.join(text, text) if ranker.one_encoder else frame.wrap(text)
        parts.append(normalize(by_length(vectors, framed), dim=-1).cpu())
    return torch.cat(parts)


def table(results: Mapping[str, Rows]) -> str:
    """Format the results as a Markdown table with a line for each layer."""
    head = " | ".join(f"{name} hits@1 | hits@5 | MRR" for name in results)
    lines = [f"| layer | {head} |", "| ---: |" + " ---: | ---: | ---: |" * len(results)]
    for layer in range(max(len(rows) for rows in results.values())):
        cells = []
        for rows in results.values():
            cells += [f"{rows[layer][name]:.3f}" if layer < len(rows) else "" for name in MEASURES]
        lines.append(f"| {layer} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(results: Mapping[str, Rows], path: Path) -> bool:
    """Draw hits@1 by layer as a PNG file. Returns False if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, rows in results.items():
        axes.plot([row["layer"] for row in rows], [row["hits@1"] for row in rows], marker="o", label=f"{name}-encoder")
    axes.set(xlabel="layer (0: embeddings)", ylabel="hits@1")
    axes.legend()
    replace(path, lambda beside: figure.savefig(beside, dpi=120, format="png"))
    return True
