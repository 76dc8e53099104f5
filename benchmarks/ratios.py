"""Measure the speed-ups that the papers report: each fast system and the slow one it replaces, in one run.

    python benchmarks/ratios.py --deep FOLDER --t5 google/flan-t5-small --scifact FOLDER

`--deep` is a 12-layer encoder by name or folder, `--scifact` a folder with SciFact in BEIR's format (corpus.jsonl,
queries.jsonl; plain or gzipped). Untrained weights take the same time as trained ones, so nothing is trained. Every
figure is the median of interleaved runs of one context, or query, against candidates that were encoded before. Writes
`ratios.json` and `ratios.md` into `benchmarks/results`.
"""

import argparse
import gzip
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rankers import RESULTS, machine
from torch import Tensor
from tqdm import tqdm

import poly_agents
from poly_agents.files.atomic import write_text
from poly_agents.rankers import ranker_class
from poly_agents.tasks.chitchat import examples

CANDIDATES = 1000
T5_CANDIDATES = 200  # a T5 that reads a thousand documents beside a query takes minutes


class System:
    """An untrained ranker with its tokenizer."""

    def __init__(self, agent: str, backbone: str, **options):
        published = {"start": "paper"} if ranker_class(agent).backbone_start else {}
        model = poly_agents.start(agent, backbone=backbone, **published, **options)
        self.tokenizer, self.ranker = model.tokenizer, model.ranker

    def encode(self, texts: Sequence[str], length: int) -> None:
        """Run texts, cut to `length` tokens, through the encoder."""
        self.ranker.encode_ids([ids[:length] for ids in self.tokenizer.ids_of(texts)])

    def scorer(self, texts: Sequence[str], length: int, newest: int) -> Callable[[str], Tensor]:
        """Encode texts, cut to `length` tokens. Returns a scorer of contexts, cut to their `newest` tokens."""
        kept = self.ranker.encode_ids([ids[:length] for ids in self.tokenizer.ids_of(texts)], progress=True)
        return lambda context: self.ranker.score_ids([self.tokenizer.ids(context)[-newest:]], kept)


class CrossAttention(System):
    """The T5 that ED2LM is compared with. Its encoder reads both texts together, its decoder makes a single step."""

    def __init__(self, backbone: str):
        super().__init__("ed2lm", backbone, ed2lm_encode="context")

    def scorer(self, texts, length, newest):
        documents = [ids[:length] for ids in self.tokenizer.ids_of(texts)]
        nothing = self.ranker.encode_ids([[]])  # all that the decoder is given beside what was encoded

        def score(query: str) -> Tensor:
            own = self.tokenizer.ids(query)[-newest:]
            return self.ranker.score_ids([own + document for document in documents], nothing)  # [C, 1]

        return score


def measure(scorers: dict[str, Callable[[str], Tensor]], contexts: Sequence[str], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each. They take turns, and their first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in scorers}
    for turn in tqdm(range(-1, rounds), desc=", ".join(scorers), disable=None):
        for name, score in scorers.items():
            start = time.perf_counter()
            score(contexts[turn])
            if turn >= 0:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def scifact(folder: Path) -> tuple[list[str], list[str]]:
    """Read queries and documents of SciFact."""

    def rows(name: str) -> list[dict]:
        path = folder / name
        data = path.read_bytes() if path.exists() else gzip.decompress(Path(f"{path}.gz").read_bytes())
        return [json.loads(line) for line in data.decode().splitlines()]

    documents = [f"{row['title']}. {row['text']}" for row in rows("corpus.jsonl")[:T5_CANDIDATES]]
    return [row["text"] for row in rows("queries.jsonl")], documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deep", help="a 12-layer encoder, by name or folder", required=True)
    parser.add_argument("--t5", default="google/flan-t5-small", help="by name or folder")
    parser.add_argument("--scifact", type=Path, help="folder with corpus.jsonl and queries.jsonl", required=True)
    parser.add_argument("--rounds", type=int, default=7, help="contexts timed")
    arguments = parser.parse_args()
    contexts = ["\n".join(example.context) for example in examples("test", 4)]
    contexts = [context for context in contexts if len(context) > 600]  # as long as they are cut: 128 tokens
    responses = list(dict.fromkeys(example.response for example in examples("train", 4)))[:CANDIDATES]
    rows = []

    def row(what: str, paper: float, slow: str, fast: str, found: dict[str, float]) -> None:
        ratio = found[slow] / found[fast]
        rows.append({"what": what, "paper": paper, "ours": ratio, "slow_ms": found[slow], "fast_ms": found[fast]})
        print(rows[-1], flush=True)

    systems = {"cross": System("cross", "minilm")} | {f"mix-{v}": System("mix", "minilm", mix=v) for v in "abc"}
    found = measure({k: s.scorer(responses, 32, 128) for k, s in systems.items()}, contexts, arguments.rounds)
    for variant, paper in {"a": 113.0, "b": 89.6, "c": 84.8}.items():
        row(f"cross / mix-{variant}, 1,000 responses", paper, "cross", f"mix-{variant}", found)

    deep = {"12 layers": System("bi", arguments.deep), "2 layers": System("bi", arguments.deep, layers=2)}
    one = {name: system.scorer(responses[:20], 32, 128) for name, system in deep.items()}
    found = measure(one, contexts, 10 * arguments.rounds)
    row("dual encoder, 12 / 2 layers, one context", 5.15, "12 layers", "2 layers", found)
    many = {name: lambda _, system=system: system.encode(contexts[:64], 128) for name, system in deep.items()}
    found = measure(many, contexts, arguments.rounds)
    row("dual encoder, 12 / 2 layers, 64 contexts", 5.15, "12 layers", "2 layers", found)

    queries, documents = scifact(arguments.scifact)
    t5 = {"cross-attention": CrossAttention(arguments.t5)}
    t5 |= {f"ed2lm, {side}": System("ed2lm", arguments.t5, ed2lm_encode=side) for side in ("candidate", "context")}
    found = measure({k: s.scorer(documents, 384, 64) for k, s in t5.items() if k != "ed2lm, context"}, queries, 2)
    row("T5 / ED2LM, query against 200 documents", 6.8, "cross-attention", "ed2lm, candidate", found)
    found = measure({k: s.scorer(responses[:T5_CANDIDATES], 32, 128) for k, s in t5.items()}, contexts, 2)
    for side in ("candidate", "context"):
        row(f"T5 / ED2LM, {side} encoded, 200 responses", 6.8, "cross-attention", f"ed2lm, {side}", found)

    lines = ["| | paper | here | slow, ms | fast, ms |", "| --- | ---: | ---: | ---: | ---: |"]
    for r in rows:
        lines.append(f"| {r['what']} | {r['paper']}x | {r['ours']:.1f}x | {r['slow_ms']:,.0f} | {r['fast_ms']:,.1f} |")
    text = "\n".join([*lines, "", f"{machine()}.", ""])
    write_text(RESULTS / "ratios.json", json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    write_text(RESULTS / "ratios.md", text)
    print(text)


if __name__ == "__main__":
    main()
