"""Texts and vectors for all sides, and the check that they compute the same."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from rankers import machine
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from poly_agents import zoo
from poly_agents.models import opening
from poly_agents.tasks.chitchat import conversations, examples
from poly_agents.text.tokenizer import Tokenizer
from sides.ours import mixed, new_ranker
from sides.parlai import Parlai, bert
from sides.sentence_transformers import SentenceTransformers
from sides.side import CANDIDATE, LONG, with_separators

CLS, SEP = 101, 102  # ids of MiniLM's special tokens; padding is 0
NEGATIVES = 3  # wrong candidates of an example on which the cross-encoder trains
ENCODED = 1024  # texts of the pool that are really encoded; the others get means of two of their vectors


def prepare(folder: Path, quick: bool) -> dict:
    """Write texts and vectors for all sides, and return what the results say about them.

    Returns:
        `machine`; `limit`, the side that runs at the machine's limit in our precision; `pool`, its size; `differences`
        between the sides; `flop` of encoding a text and mean number of `tokens`, by kind of text.
    """
    tokenizer = opening.pretrained_tokenizer(zoo.backbone("minilm"))
    texts = choose_texts(tokenizer, 2000 if quick else 100_000)
    pool = texts.pop("pool")
    (folder / "data.json").write_text(json.dumps(texts | {"pairs": pool[:20_000]}))
    (folder / "pool.txt").write_text("\n".join(pool) + "\n")
    write_training_examples(folder / "train.jsonl")
    precision = write_pool_vectors(folder, pool)
    side = Parlai(folder, quick)
    return {
        "machine": machine(),
        "limit": f"products, {precision}",
        "pool": len(pool),
        "differences": differences(side),
        "flop": {length: flop(tokenizer, side.data[length][:500]) for length in ("short", "long")},
        "tokens": {name: mean_length(tokenizer, rows[:500]) for name, rows in side.data.items()},
    }


def choose_texts(tokenizer: Tokenizer, pool_size: int) -> dict[str, list[str]]:
    """Return short and long candidates, contexts and a pool of candidates, all of chitchat."""
    turns = list(dict.fromkeys(turn for conversation in conversations() for turn in conversation))
    tokens = dict(zip(turns, map(len, tokenizer.ids_of(turns)), strict=True))
    contexts = ["\n".join(example.context) for split in ("test", "valid") for example in examples(split, 4)]
    contexts = list(dict.fromkeys(contexts))
    sizes = dict(zip(contexts, map(len, tokenizer.ids_of(contexts)), strict=True))
    return {
        "short": [turn for turn in turns if 8 <= tokens[turn] <= 12],
        "long": [context.replace("\n", " ") for context in contexts if 88 <= sizes[context] <= 108],
        "contexts": [context for context in contexts if LONG - 6 <= sizes[context] <= LONG],
        "pool": [turn for turn in turns if 3 <= tokens[turn] <= CANDIDATE][:pool_size],
    }


def write_training_examples(path: Path) -> None:
    """Write examples with their own wrong candidates, for the cross-encoders."""
    train = examples("train", 4)[:4000]
    with path.open("w") as file:
        for number, example in enumerate(train):
            others = [train[(number + 7 * step) % len(train)].response for step in range(1, NEGATIVES + 1)]
            row = {"context": example.context, "response": example.response, "candidates": [example.response, *others]}
            file.write(json.dumps(row) + "\n")


def write_pool_vectors(folder: Path, pool: Sequence[str]) -> str:
    """Encode the pool for the peers, in their formats. Return the precision in which poly_agents encodes."""
    model = new_ranker("bi", "auto")
    vectors = mixed(model.encode(pool[:ENCODED]), len(pool)).float()  # [C, D]
    torch.save(vectors, folder / "pool.pt")
    ids = padded(model.candidate_ids(pool))
    for kind, encoded in {"bi": vectors, "poly": vectors.unsqueeze(0)}.items():
        torch.save(ids, folder / f"{kind}.pool.vecs")
        torch.save(encoded, folder / f"{kind}.pool.encs")
    return str(model.ranker.context_encoder.dtype).removeprefix("torch.")


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Frame texts with [CLS] and [SEP], and pad them to one length. Returns int64 [N, L]."""
    return pad_sequence([torch.tensor([CLS, *row, SEP]) for row in rows], batch_first=True)


def mean_length(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Return the mean number of tokens of a text, with [CLS] and [SEP]."""
    return sum(len(row) + 2 for row in tokenizer.ids_of(texts)) / len(texts)


def flop(tokenizer: Tokenizer, texts: Sequence[str], layers: int = 6, width: int = 384) -> float:
    """Return the mean FLOP of encoding a text, counting products only.

    A layer has 12 D^2 weights, which meet every token, and its attention takes 4 D L FLOP a token.
    """
    lengths = [len(row) + 2 for row in tokenizer.ids_of(texts)]
    return sum(layers * (24 * width**2 * n + 4 * width * n**2) for n in lengths) / len(lengths)


@torch.no_grad()
def differences(parlai: Parlai) -> dict[str, float]:
    """Return the largest differences in float32 between poly_agents and the peers, in token states and scores."""
    peer = SentenceTransformers(parlai.folder, parlai.quick)
    tokenizer = opening.pretrained_tokenizer(zoo.backbone("minilm"))
    ids = padded(tokenizer.ids_of(parlai.data["contexts"][:4] + parlai.data["short"][:4]))  # [N, L]
    mask = ids > 0
    states = bert()(input_ids=ids, attention_mask=mask.long()).last_hidden_state  # [N, L, D]
    found = {}
    for kind in ("bi", "poly", "cross"):
        ours = new_ranker(kind, "float32")
        agent = parlai.agent(kind, "-dt valid -ecands inline --return-cand-scores true", LONG)
        own = ours.ranker.tensors()
        if kind == "poly":
            agent.model.codes.copy_(own["codes"])
            there = agent.model.encoder_ctxt(ids)[0]  # [N, L, D]
            found["ParlAI, token states"] = float((there - states)[mask].abs().max())
        if kind == "cross":
            for name in ("weight", "bias"):
                getattr(agent.model.linear_layer, name).copy_(own[f"head.0.{name}"])
        found[f"ParlAI, {kind} scores, relative"] = score_difference(parlai, agent, ours)
    texts = parlai.data["short"][:8] + parlai.data["contexts"][:2]
    vectors = normalize(new_ranker("bi", "float32", label=LONG).encode(texts), dim=-1)  # [N, D]
    there = peer.encoder().encode(list(map(with_separators, texts)), convert_to_tensor=True, show_progress_bar=False)
    found["sentence-transformers, vectors"] = float((there - vectors).abs().max())
    there = peer.cross_encoder().model.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    found["sentence-transformers, token states of the cross-encoder"] = float((there - states)[mask].abs().max())
    return found


def score_difference(parlai: Parlai, agent, ours) -> float:
    """Return the largest difference of an agent's scores from ours, as a share of our largest score."""
    context, candidates = parlai.context(0), parlai.candidates(0)
    agent.observe({"id": "user", "text": context, "label_candidates": candidates, "episode_done": True})
    reply = agent.act()
    theirs = dict(zip(reply["text_candidates"], reply["sorted_scores"].tolist(), strict=True))
    scores = [(ranked.score, theirs[ranked.text]) for ranked in ours.rank(context, candidates)]
    return max(abs(one - other) for one, other in scores) / max(abs(one) for one, _ in scores)
