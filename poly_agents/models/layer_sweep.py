"""Every layer of a cross-encoder, and of a bi-encoder, as an embedding: what `parlai poly_layers` shows.

Ananthakrishnan et al. 2025 (https://arxiv.org/abs/2502.03552): early layers of the one embed better than the same
layers of the other. A cross-encoder reads each text paired with itself, a bi-encoder reads it alone; a text's vector is
the mean of a layer's states over its own tokens, and candidates are ranked by the cosine.
"""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from poly_agents.agents.teachers import Turn, turns
from poly_agents.encoders.states import by_length, padded_index
from poly_agents.files.atomic import replace, write_text
from poly_agents.models.textranker import TextRanker
from poly_agents.scoring import maths
from poly_agents.scoring.ranks import label_ranks
from poly_agents.text.tokens import Tokens, pad

TEXTS = 256  # run, or contexts ranked, at a time


def run(opt) -> str:
    """Rank the examples of a task, write the results, and return the table."""
    split = opt["datatype"].split(":")[0]
    count = opt["num_examples"] if opt["num_examples"] > 0 else None
    examples = list(islice((turn for turn in turns(opt, split) if turn.candidates), count))
    if not examples:
        raise ValueError(f"the {split} examples of {opt['task']} bring no candidates to rank")
    results = {"cross": rank(TextRanker.load(opt["cross_model"]), examples)}
    if opt.get("bi_model"):
        results["bi"] = rank(TextRanker.load(opt["bi_model"]), examples)
    out = Path(opt.get("out") or f"{opt['cross_model']}.layers")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "layers.json", json.dumps({"examples": len(examples), **results}, indent=1) + "\n")
    write_text(out / "layers.md", table(results))
    plot(results, out / "layers.png")
    best = max(results["cross"], key=lambda row: row["mrr"])["layer"]
    found = f"{len(examples):,} contexts; {out}/layers.png shows them. Best: --early-layer {max(best, 1)}"
    return f"{table(results)}\n{found}"


@torch.no_grad()
def rank(model: TextRanker, examples: Sequence[Turn]) -> list[dict[str, float]]:
    """hits@1, hits@5 and MRR of every layer, 0 being the embeddings."""
    lists = [list(dict.fromkeys(example.candidates)) for example in examples]
    texts = list(dict.fromkeys(text for row in lists for text in row))
    place = {text: number for number, text in enumerate(texts)}
    contexts = layer_vectors(model, model.context_ids([example.context for example in examples]))  # [B, J, D]
    candidates = layer_vectors(model, model.candidate_ids(texts))  # [N, J, D]
    index = padded_index([[place[text] for text in row] for row in lists])  # [B, C]
    labels = torch.tensor([row.index(example.response) for row, example in zip(lists, examples, strict=True)])  # [B]
    rows = []
    for layer in range(contexts.shape[1]):
        scores = torch.cat(
            [
                maths.dot(contexts[part, layer], candidates[index[part].clamp(min=0), layer])
                for part in torch.arange(len(index)).split(TEXTS)
            ]
        )
        ranks = label_ranks(scores.masked_fill(index < 0, -torch.inf), labels).float()
        shares = {"hits@1": ranks <= 1, "hits@5": ranks <= 5, "mrr": 1 / ranks}
        rows.append({"layer": layer} | {name: float(share.float().mean()) for name, share in shares.items()})
    return rows


def layer_vectors(model: TextRanker, ids: Sequence[Sequence[int]]) -> Tensor:
    """One unit vector for each of J layers of N texts, the embeddings first: [N, J, D]."""
    ranker = model.ranker
    encoder, frame = ranker.context_encoder, ranker.frame
    layers = range(len(encoder.layers) + 1)
    longest = (encoder.positions - frame.pair_length) // 2

    def vectors(tokens: Tokens) -> Tensor:
        own = frame.text_mask(tokens)
        return torch.stack([maths.mean(hidden, own) for hidden in encoder.hidden(tokens, layers)], 1)

    found = []
    for start in range(0, len(ids), TEXTS):
        text = pad([row[-longest:] for row in ids[start : start + TEXTS]]).to(ranker.device)
        framed = frame.join(text, text) if ranker.one_encoder else frame.wrap(text)
        found.append(normalize(by_length(vectors, framed), dim=-1).cpu())
    return torch.cat(found)


def table(results: dict) -> str:
    """The results as Markdown, a line for each layer."""
    names = list(results)
    head = " | ".join(f"{name} hits@1 | hits@5 | MRR" for name in names)
    lines = [f"| layer | {head} |", "| ---: |" + " ---: | ---: | ---: |" * len(names)]
    for layer in range(max(len(rows) for rows in results.values())):
        cells = []
        for rows in results.values():
            row = rows[layer] if layer < len(rows) else None
            cells += [f"{row[key]:.3f}" if row else "" for key in ("hits@1", "hits@5", "mrr")]
        lines.append(f"| {layer} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(results: dict, path: Path) -> None:
    """hits@1 by layer."""
    try:
        import matplotlib
    except ImportError:
        print("no plot without matplotlib: pip install 'poly_agents[bench]'")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, rows in results.items():
        axes.plot([row["layer"] for row in rows], [row["hits@1"] for row in rows], marker="o", label=f"{name}-encoder")
    axes.set(xlabel="layer (0: embeddings)", ylabel="hits@1")
    axes.legend()
    replace(path, lambda beside: figure.savefig(beside, dpi=120, format="png"))
