"""Bi-, poly- and cross-encoder on chitchat after the same training time: quality, training speed, latency.

    python benchmarks/rankers.py --seconds 540

Each ranker is trained through `parlai train_model` for as many steps as it makes in the given time at the rate it is
first measured at, from the same MiniLM, then ranks the whole test split. Latency is one context at a time, with 20
candidates and with 10,000, encoded before. Writes `rankers.json`, `rankers.md` and `rankers.png` into
`benchmarks/results`; a stage that is done already is not run again (`--folder` keeps the models).
"""

import argparse
import json
import platform
import random
import statistics
import subprocess
import time
from pathlib import Path

import torch
from tqdm import tqdm

import poly_agents
from poly_agents.files import write_text
from poly_agents.ranks import label_ranks
from poly_agents.tasks.chitchat import examples

COMMON = ["-t", "poly_agents:chitchat", "--text-truncate", "96", "--label-truncate", "32", "--seed", "1"]
RANKERS = {
    "bi": "-m poly_agents/bi -bs 64",
    "poly-16": "-m poly_agents/poly --poly-codes 16 -bs 64",
    "poly-64": "-m poly_agents/poly --poly-codes 64 -bs 64",
    "poly-64 first-m": "-m poly_agents/poly --poly-codes 64 --poly-views first -bs 64",
    "cross": "-m poly_agents/cross -bs 16 --negatives 15",
}
RESULTS = Path(__file__).parent / "results"
POOL = 10_000


def train(name: str, model_file: Path, steps: int) -> float:
    """Train by the command line; examples per second of the second half of the log."""
    command = ["parlai", "train_model", *RANKERS[name].split(), *COMMON, "-mf", str(model_file)]
    command += ["--max-train-steps", str(steps), "--log-every-n-steps", "4", "--validation-every-n-epochs", "-1"]
    command += ["--validation-max-exs", "16", "--short-final-eval", "true"]
    print("$", " ".join(command), flush=True)
    subprocess.run(command, check=True, capture_output=True, text=True)
    reports = json.loads(Path(f"{model_file}.trainstats").read_text())["train_reports"]
    return statistics.median(report["exps"] for report in reports[len(reports) // 2 :])


def quality(model_file: Path) -> dict:
    """Ranks of the response among its 20 candidates, on the whole test split."""
    model = poly_agents.load(str(model_file))
    tests = examples("test", 4)
    texts = list(dict.fromkeys(text for example in tests for text in example.candidates))
    place = {text: number for number, text in enumerate(texts)}
    kept = model.encode(texts)
    contexts = model.context_ids(["\n".join(example.context) for example in tests])
    ranks = []
    for start in tqdm(range(0, len(tests), 64), desc=f"test {model_file.parent.name}", disable=None):
        part = tests[start : start + 64]
        index = torch.tensor([[place[text] for text in example.candidates] for example in part])
        labels = torch.tensor([example.candidates.index(example.response) for example in part])
        scores = model.ranker.score_texts(contexts[start : start + 64], kept, index)
        ranks += label_ranks(scores, labels).tolist()
    draw = random.Random(0)
    measures = {
        "hits@1": [float(r == 1) for r in ranks],
        "hits@5": [float(r <= 5) for r in ranks],
        "mrr": [1 / r for r in ranks],
    }
    found = {"examples": len(ranks)}
    for key, values in measures.items():
        means = sorted(statistics.fmean(draw.choices(values, k=len(values))) for _ in range(500))
        found[key] = [statistics.fmean(values), means[12], means[487]]
    return found


def latency(model_files: dict[str, Path], rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of one context against cached candidates, the rankers taking turns."""
    tests = examples("test", 4)
    responses = list(dict.fromkeys(e.response for e in examples("train", 4)))[:POOL]
    models = {name: poly_agents.load(str(path)) for name, path in model_files.items()}
    pools = {name: {n: model.encode(responses[:n]) for n in (20, POOL)} for name, model in models.items()}
    times: dict = {name: {20: [], POOL: []} for name in models}
    for turn in range(-2, rounds):
        for name, model in models.items():
            ids = model.context_ids(["\n".join(tests[turn + 2].context)])
            for size, kept in pools[name].items():
                if size == POOL and name == "cross" and turn not in (0, 1, 2):
                    continue  # a minute each
                start = time.perf_counter()
                model.ranker.score_texts(ids, kept)
                if turn >= 0:
                    times[name][size].append(1000 * (time.perf_counter() - start))
    return {name: {str(size): statistics.median(ms) for size, ms in by.items()} for name, by in times.items()}


def table(results: dict) -> str:
    """The results as Markdown."""

    def share(row: dict, key: str) -> str:
        mean, low, high = row[key]
        return f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

    lines = [
        f"| ranker | trained on | examples/s | hits@1/20 | hits@5/20 | MRR | ms, 20 cached | ms, {POOL:,} cached |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in results["rankers"].items():
        ms = row["ms"]
        lines.append(
            f"| {name} | {row['trained_on']:,} | {row['rate']:.1f} | {share(row, 'hits@1')} | "
            f"{share(row, 'hits@5')} | {share(row, 'mrr')} | {ms['20']:.1f} | {ms[str(POOL)]:,.0f} |"
        )
    note = (
        f"Each trained for {results['seconds']} s from the embedded MiniLM; test split of chitchat, "
        f"{next(iter(results['rankers'].values()))['examples']:,} contexts, percent with 95% bootstrap intervals. "
        f"{results['machine']}."
    )
    return "\n".join([*lines, "", note, ""])


def plot(results: dict, path: Path) -> None:
    """Quality against latency with a pool of cached candidates."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, row in results["rankers"].items():
        mean, low, high = (100 * share for share in row["hits@1"])
        axes.errorbar(row["ms"][str(POOL)], mean, [[mean - low], [high - mean]], marker="o", capsize=3, label=name)
    axes.set(xscale="log", xlabel=f"ms per context, {POOL:,} cached candidates", ylabel="hits@1/20, chitchat test")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def machine() -> str:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=540, help="training time of each ranker")
    parser.add_argument("--folder", type=Path, default=Path("models/benchmark"), help="where the models are kept")
    parser.add_argument("--rounds", type=int, default=30, help="contexts timed for each ranker")
    arguments = parser.parse_args()
    state_file = arguments.folder / f"rankers-{arguments.seconds}.json"
    state = json.loads(state_file.read_text()) if state_file.exists() else {}
    files = {name: arguments.folder / name.replace(" ", "-") / "model" for name in RANKERS}

    def keep(name: str, **found) -> None:
        state.setdefault(name, {}).update(found)
        write_text(state_file, json.dumps(state, indent=1))

    for name in RANKERS:
        if "rate" not in state.get(name, {}):
            keep(name, rate=train(name, arguments.folder / "rate" / name.replace(" ", "-"), 12))
    for name, path in files.items():
        if "trained_on" not in state[name]:
            size = int(RANKERS[name].split("-bs ")[1].split()[0])
            steps = round(state[name]["rate"] * arguments.seconds / size)
            train(name, path, steps)
            keep(name, trained_on=steps * size)
    for name, path in files.items():
        if "mrr" not in state[name]:
            keep(name, **quality(path))
    for name, ms in latency(files, arguments.rounds).items():
        keep(name, ms=ms)
    results = {"seconds": arguments.seconds, "machine": machine(), "rankers": {name: state[name] for name in RANKERS}}
    write_text(RESULTS / "rankers.json", json.dumps(results, indent=1) + "\n")
    write_text(RESULTS / "rankers.md", table(results))
    plot(results, RESULTS / "rankers.png")
    print(table(results))


if __name__ == "__main__":
    main()
