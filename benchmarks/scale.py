"""Time one context against 1,000 to 1,000,000 encoded candidates: every ranker, and every search of a real store.

    python benchmarks/scale.py --model models/demo/model --folder models/scale

First the poly-encoder paper's table of times: each ranker as it starts (weights change no time), batch 1, a context of
128 tokens, the ten best of the candidates; MiniLM, and BERT-base with random weights. Of a pool, some responses are
encoded and the others are means of two of them; a size is left out where it would take longer than `--longest` a
context. Then a trained poly-encoder (`--model`) over a store of `--size` distinct texts, turns of chitchat and splices
of two of them, all encoded: `exact`, `certified` and `fast`, with the shares they read, the recall, and the machine's
own limits for the same products and bytes. All that is compared takes turns; medians. Writes `scale.json`, `scale.md`
and `scale.png` into `benchmarks/results`.
"""

import argparse
import json
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rankers import RESULTS, machine
from tqdm import tqdm

import poly_agents
from poly_agents.candidates import search
from poly_agents.candidates.vectors import Vectors
from poly_agents.encoders.states import TokenStates, map_tensors
from poly_agents.files.atomic import write_text
from poly_agents.models import building
from poly_agents.rankers import ranker_class
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Ranker, Views
from poly_agents.tasks.chitchat import conversations, examples
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.tokens import pad

LENGTH = 126  # tokens of a context; with the special ones 128
SIZES = (1_000, 10_000, 100_000, 1_000_000)
ENCODED = 1_000  # candidates of a pool that are encoded
PARTS = ("build", "minilm", "base", "store")
COUNT = 10  # candidates that are asked for
MINILM = {
    "bi": ("bi", {}),
    "poly-16": ("poly", {"poly_codes": 16}),
    "poly-64": ("poly", {"poly_codes": 64}),
    "poly-360": ("poly", {"poly_codes": 360}),
    "poly-64, first-m": ("poly", {"poly_codes": 64, "poly_views": "first"}),
    "early": ("early", {}),
    "mix-a": ("mix", {"mix": "a"}),
    "mix-b": ("mix", {"mix": "b"}),
    "mix-c": ("mix", {"mix": "c"}),
    "late": ("late", {}),
    "ed2lm, candidate": ("ed2lm", {"ed2lm_encode": "candidate"}),
    "ed2lm, context": ("ed2lm", {"ed2lm_encode": "context"}),
    "uni": ("uni", {"uni_pool": 1000}),
    "cross": ("cross", {}),
}
BASE = {name: MINILM[name] for name in ("bi", "poly-16", "poly-64", "poly-360", "cross")}
BERT_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
Timed = Callable[[list[int]], object]


def contexts(tokenizer: Tokenizer) -> list[list[int]]:
    """Return the ids of contexts that are as long as allowed."""
    ids = tokenizer.ids_of(["\n".join(example.context) for example in examples("test", 6)])
    return [row[-LENGTH:] for row in ids if len(row) >= LENGTH]


def start(agent: str, options: dict, backbone: str, shape: dict | None) -> tuple[Ranker, Tokenizer]:
    """Make an untrained ranker with its tokenizer. With a `shape` its encoder is random."""
    published = {"start": "paper"} if ranker_class(agent).backbone_start else {}
    model = poly_agents.start(agent, backbone=backbone, **published, **options)
    if not shape:
        return model.ranker, model.tokenizer
    header = model.header()
    ranker = building.blank(header | {"backbone": header["backbone"] | shape}, model.tokenizer, "cpu").eval()
    for parameter in ranker.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return ranker, model.tokenizer


def mixed(kept, rows: int):
    """Make more rows, each the mean of two. Token states are repeated."""
    encoded = len(kept[0] if isinstance(kept, TokenStates) else kept)
    one, other = torch.randint(encoded, (2, rows), generator=torch.Generator().manual_seed(0))
    if isinstance(kept, TokenStates):
        return map_tensors(lambda part: part[one], kept)
    pairs = zip(one.split(9999), other.split(9999), strict=True)
    return torch.cat([(0.5 * kept[a] + 0.5 * kept[b]).to(kept.dtype) for a, b in pairs])


def scorer(ranker: Ranker, tokenizer: Tokenizer, responses: list[str], size: int) -> Timed:
    """Return a function that finds the ten best of `size` candidates for a context."""
    ids = [row[:32] for row in tokenizer.ids_of(responses)]
    kept = ranker.encode_ids(ids)
    if not ranker.can_cache(ranker.options):
        return lambda context: ranker.score_ids([context], kept).topk(COUNT)
    precision = str(ranker.candidate_encoder.dtype).removeprefix("torch.")
    vectors = Vectors.of(kept if size == len(ids) else mixed(kept, size), precision)

    @torch.no_grad()
    def best(context: list[int]):
        prepared = ranker.encode_contexts(pad([context]))
        if isinstance(prepared, Views):
            return search.exact(prepared, vectors, COUNT)
        return search.streamed_best(ranker, prepared, vectors, COUNT)

    return best


def spread(times: list[float]) -> list[float]:
    """Return the median, the 10th and the 90th percentile."""
    if len(times) < 2:
        return [times[0]] * 3
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    return [statistics.median(times), tenths[0], tenths[-1]]


def take_turns(scorers: dict[str, Timed], given: list, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each. A first round is not counted; what takes more than a second gets two rounds."""
    times: dict[str, list[float]] = {name: [] for name in scorers}
    for turn in range(-1, rounds):
        for name, score in scorers.items():
            if turn > 1 and times[name][0] > 1000:
                continue
            before = time.perf_counter()
            score(given[turn])
            if turn >= 0:
                times[name].append(1000 * (time.perf_counter() - before))
    return {name: spread(found) for name, found in times.items()}


def rankers(rows: dict, t5: str, shape: dict | None, longest: float, rounds: int, sizes) -> dict:
    """Time rankers against pools of several sizes. Returns name -> size -> milliseconds."""
    systems = {}
    for name, (agent, options) in rows.items():
        systems[name] = start(agent, options, t5 if agent == "ed2lm" else "minilm", shape)
    responses = list(dict.fromkeys(e.response for e in examples("train", 4)))[:ENCODED]
    given = {name: contexts(tokenizer) for name, (_, tokenizer) in systems.items()}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in systems}
    for size in sizes:
        scorers = {}
        for name, (ranker, tokenizer) in systems.items():
            before = found[name].get(str(size // 10))
            fits = ranker.can_cache(ranker.options) or size == ENCODED
            if fits and (size == SIZES[0] or (before and before[0] * 10 < 1000 * longest)):
                score, own = scorer(ranker, tokenizer, responses, size), given[name]
                scorers[name] = lambda turn, score=score, own=own: score(own[turn])
        for name, ms in take_turns(scorers, list(range(rounds)), rounds).items():
            found[name][str(size)] = ms
            print(f"{size:>9,}  {name:20} {ms[0]:10.1f} ms", flush=True)
    return found


def texts(size: int) -> Iterator[str]:
    """Generate distinct texts: turns of chitchat, then the first half of one with the second half of another."""
    real = list(dict.fromkeys(t for turns in conversations() for t in turns if 2 < len(t.split()) <= 30))
    seen, draw = set(real[:size]), random.Random(0)
    yield from real[:size]
    while len(seen) < size:
        one, other = draw.choice(real).split(), draw.choice(real).split()
        text = " ".join(one[: len(one) // 2 + 1] + other[len(other) // 2 :])
        if text not in seen:
            seen.add(text)
            yield text


def stores(model_file: str, folder: Path, size: int, rounds: int) -> dict:
    """Time searches of a real store, and the limits of the machine."""
    model = poly_agents.load(model_file)
    store = model.index(folder, texts(size), progress=True)
    vectors, torch_pages = store.vectors, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        prepared = [model.ranker.encode_contexts(pad([row])) for row in contexts(model.tokenizer)[:rounds]]
    one = [Views(p.vectors[:, :1]) for p in prepared]  # a single view: a bi-encoder's search
    how = {
        "exact": lambda p: search.exact(p, vectors, COUNT),
        "certified": lambda p: search.certified(p, vectors, COUNT),
        "fast": lambda p: search.fast(p, vectors, COUNT, search.SearchOptions().search_scored),
    }
    kind = prepared[0].vectors.to(vectors.segments[0]["vectors"].dtype)[0]  # [K, D]
    held = [segment["vectors"] for segment in vectors.segments]
    scorers = {f"poly, {name}": lambda turn, f=f: f(prepared[turn]) for name, f in how.items()}
    scorers |= {f"bi, {name}": lambda turn, f=f: f(one[turn]) for name, f in how.items()}
    scorers["the products alone"] = lambda turn: [part @ kind.T for part in held]
    scorers["reading the bytes"] = lambda turn: [part.view(torch.int64).sum() for part in held]
    scorers["plain float32, sliced"] = lambda turn: [
        maths.poly(prepared[turn].vectors, kept.float().unsqueeze(0)).topk(COUNT) for _, kept in vectors.slices(8192)
    ]
    times = take_turns(scorers, list(range(len(prepared))), len(prepared))
    rows = {}
    for side, views in {"poly": prepared, "bi": one}.items():
        truth = [search.exact(p, vectors, COUNT).rows[0].tolist() for p in views]
        for name, f in how.items():
            found = [f(p) for p in tqdm(views, desc=f"{side}, {name}", disable=None)]
            same = [len(set(a) & set(b.rows[0].tolist())) / COUNT for a, b in zip(truth, found, strict=True)]
            rows[f"{side}, {name}"] = {
                "recall": statistics.fmean(same),
                "read": statistics.fmean(f.read for f in found),
                "scored": statistics.fmean(f.scored for f in found),
            }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "size": len(store),
        "mb": store.size / 2**20,
        "before_mb": torch_pages / 1024,
        "peak_mb": peak,
        "ms": times,
        "rows": rows,
    }


def table(results: dict) -> str:
    sizes = [f"{size:,}" for size in SIZES]
    lines = []
    for title, key in (("MiniLM", "minilm"), ("BERT-base shape, random weights", "base")):
        if key not in results:
            continue
        lines += [f"| {title}, ms | {' | '.join(sizes)} |", f"| --- |{' ---: |' * len(sizes)}"]
        for name, by in results[key].items():
            cells = [f"{by[str(size)][0]:,.1f}" if str(size) in by else "" for size in SIZES]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    store = results["store"]
    lines += [
        f"| store of {store['size']:,} texts, {store['mb']:,.0f} MB | ms | 10-90% | recall@10 | read | scored |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, (median, low, high) in store["ms"].items():
        row = store["rows"].get(name)
        shares = [f"{row['recall']:.3f}", f"{row['read']:.2%}", f"{row['scored']:.3%}"] if row else [""] * 3
        lines.append(f"| {name} | {median:,.1f} | {low:,.1f} to {high:,.1f} | {' | '.join(shares)} |")
    return "\n".join([*lines, "", f"{results['machine']}.", ""])


def plot(results: dict, path: Path) -> None:
    """Plot milliseconds against the number of candidates."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    for number, (name, by) in enumerate(results["minilm"].items()):
        sizes = [int(size) for size in by]
        color, style = pyplot.get_cmap("tab10")(number % 10), "-" if number < 10 else "--"
        axes.plot(sizes, [by[str(size)][0] for size in sizes], style, marker="o", color=color, label=name)
    axes.set(xscale="log", yscale="log", xlabel="candidates", ylabel="ms per context, batch 1, 128 tokens")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a trained poly-encoder")
    parser.add_argument("--folder", type=Path, default=Path("models/scale"), help="where the store is kept")
    parser.add_argument("--size", type=int, default=1_000_000, help="texts of the store")
    parser.add_argument("--t5", default="google/flan-t5-small", help="backbone of ed2lm, by name or folder")
    parser.add_argument("--longest", type=float, default=20.0, help="seconds a context may take")
    parser.add_argument("--rounds", type=int, default=15, help="contexts timed")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="merged into what is there")
    arguments = parser.parse_args()
    path = RESULTS / "scale.json"
    results = json.loads(path.read_text()) if path.exists() and arguments.only else {}
    parts = arguments.only or ["minilm", "base", "store"]
    if "build" in parts:
        print(len(poly_agents.load(arguments.model).index(arguments.folder, texts(arguments.size))))
        return
    if "minilm" in parts:
        results["minilm"] = rankers(MINILM, arguments.t5, None, arguments.longest, arguments.rounds, SIZES)
    if "base" in parts:
        results["base"] = rankers(BASE, arguments.t5, BERT_BASE, arguments.longest, arguments.rounds, SIZES)
    if "store" in parts:
        results["store"] = stores(arguments.model, arguments.folder, arguments.size, arguments.rounds)
    results["machine"] = machine()
    write_text(path, json.dumps(results, indent=1) + "\n")
    if "store" in results:
        write_text(RESULTS / "scale.md", table(results))
        print(table(results))
    if "minilm" in results:
        plot(results, RESULTS / "scale.png")


if __name__ == "__main__":
    main()
