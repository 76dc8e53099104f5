"""Compare all rankers on chitchat after the same training time: quality, training speed, latency.

    python benchmarks/rankers.py --seconds 240 --t5 google/flan-t5-small

Each ranker is trained through `parlai train_model` for as many steps as it makes in the given time at the rate it is
first measured at, from the same MiniLM (`ed2lm`: from a T5), then ranks the first contexts of the test split. One
cross-encoder is trained for 1,200 steps: it is the teacher of the distilled ones, and `early` and the infused
bi-encoder take their layers from it. Latency is one context at a time, with 20 and with 1,000 candidates, encoded
before, all rankers taking turns. Writes `rankers.json`, `rankers.md` and `rankers.png` into `benchmarks/results`; a
stage that is done is not run again (`--folder` keeps the models); several processes can share the work (`--only`).
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
from poly_agents.files.atomic import write_text
from poly_agents.scoring.ranks import label_ranks
from poly_agents.tasks.chitchat import examples

COMMON = ["-t", "poly_agents:chitchat", "--text-truncate", "96", "--label-truncate", "32"]
TEACHER = "cross, the teacher"
TEACHER_STEPS = 1200
PAPER = "--start paper"  # this table compares the published systems; `starting.py` compares where they start
SLOW = f"{PAPER} --negatives-by random -lr 1e-4"
POLY = f"-m poly_agents/poly --poly-codes 64 -bs 64 {PAPER}"
CROSS = f"-m poly_agents/cross -bs 16 --negatives 3 {SLOW}"
DISTILLED = "--negatives 7 --distill-weight 0.5 --teacher-model {teacher}"
# In so little time the text's likelihood, over a vocabulary of 32,000, would leave nothing for the ranking.
ED2LM = "-m poly_agents/ed2lm --backbone {t5} -bs 16 --negatives 7 --ed2lm-text-weight 0 -lr 2e-3"
RANKERS = {
    TEACHER: CROSS,
    "bi": "-m poly_agents/bi -bs 64",
    "poly-64": POLY,
    **{f"mix-{kind}": f"-m poly_agents/mix --mix {kind} --mix-cosine true -bs 64 {PAPER}" for kind in "abc"},
    "late": f"-m poly_agents/late -bs 64 {PAPER}",
    "uni": f"-m poly_agents/uni --uni-pool 1000 -bs 16 --negatives 15 {SLOW}",
    "cross": CROSS,
    "early, no training": "-m poly_agents/early --cross-model {teacher} --early-layer {layer}",
    "bi, 2 layers, infused": "-m poly_agents/bi --layers 2 --init-cross {teacher} -bs 64",
    "bi, 2 layers, backbone": "-m poly_agents/bi --layers 2 -bs 64",
    "bi, 2 layers, random": "-m poly_agents/bi --layers 2 --init-random true -bs 64",
    "bi, distilled": f"-m poly_agents/bi -bs 64 {DISTILLED}",
    "poly-64, distilled": f"{POLY} {DISTILLED}",
    "ed2lm, candidate": f"{ED2LM} --ed2lm-encode candidate",
    "ed2lm, context": f"{ED2LM} --ed2lm-encode context",
}
RESULTS = Path(__file__).parent / "results"
POOL = 1_000
FEW_ROUNDS = ("uni", "cross", TEACHER, "ed2lm, candidate", "ed2lm, context")  # a few rounds are enough


def train(command: str, model_file: Path, steps: int) -> float:
    """Train through the command line. Returns examples a second, from the second half of the log."""
    line = ["parlai", "train_model", *command.split(), *COMMON, "-mf", str(model_file)]
    line += [
        "--seed",
        "1",
        "--max-train-steps",
        str(steps),
        "--log-every-n-steps",
        "2",
        "--validation-every-n-epochs",
        "-1",
    ]
    line += ["--validation-max-exs", "16", "--short-final-eval", "true"]
    print("$", " ".join(line), flush=True)
    subprocess.run(line, check=True, capture_output=True, text=True)
    reports = json.loads(Path(f"{model_file}.trainstats").read_text())["train_reports"]
    return statistics.median(report["exps"] for report in reports[len(reports) // 2 :])


def untrained(command: str, model_file: Path) -> None:
    """Save a ranker that is not trained."""
    from parlai.core.agents import create_agent
    from parlai.core.params import ParlaiParser

    opt = ParlaiParser(True, True).parse_args([*command.split(), *COMMON])
    create_agent(opt).save(str(model_file))


def best_layer(cross: Path, bi: Path) -> int:
    """Find the layer of a cross-encoder that embeds best, on the first 1,000 contexts of valid; save the sweep."""
    line = ["parlai", "poly_layers", "--cross-model", str(cross), "--bi-model", str(bi), "--out", str(RESULTS)]
    line += ["-t", "poly_agents:chitchat", "-ne", "1000"]
    print("$", " ".join(line), flush=True)
    subprocess.run(line, check=True, capture_output=True, text=True)
    rows = json.loads((RESULTS / "layers.json").read_text())["cross"]
    return max(rows[1:], key=lambda row: row["mrr"])["layer"]


def quality(model_file: Path, contexts: int) -> dict:
    """Rank the response among its 20 candidates, on the first contexts of the test split."""
    model = poly_agents.load(str(model_file))
    tests = examples("test", 4)[:contexts]
    texts = list(dict.fromkeys(text for example in tests for text in example.candidates))
    place = {text: number for number, text in enumerate(texts)}
    kept = model.encode(texts)
    ids = model.context_ids(["\n".join(example.context) for example in tests])
    ranks = []
    for start in tqdm(range(0, len(tests), 64), desc=f"test {model_file.parent.name}", disable=None):
        part = tests[start : start + 64]
        index = torch.tensor([[place[text] for text in example.candidates] for example in part])
        labels = torch.tensor([example.candidates.index(example.response) for example in part])
        scores = model.ranker.score_ids(ids[start : start + 64], kept, index)
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
    """Return the median milliseconds of one context against cached candidates. The rankers take turns."""
    tests = examples("test", 4)
    responses = list(dict.fromkeys(e.response for e in examples("train", 4)))[:POOL]
    models = {name: poly_agents.load(str(path)) for name, path in model_files.items()}
    pools = {name: {n: model.encode(responses[:n]) for n in (20, POOL)} for name, model in models.items()}
    times: dict = {name: {20: [], POOL: []} for name in models}
    for turn in range(-2, rounds):
        for name, model in models.items():
            ids = model.context_ids(["\n".join(tests[turn + 2].context)])
            for size, kept in pools[name].items():
                if size == POOL and name in FEW_ROUNDS and turn not in (0, 1, 2):
                    continue
                start = time.perf_counter()
                model.ranker.score_ids(ids, kept)
                if turn >= 0:
                    times[name][size].append(1000 * (time.perf_counter() - start))
    return {name: {str(size): statistics.median(ms) for size, ms in by.items()} for name, by in times.items()}


def table(results: dict) -> str:
    """Write the results as Markdown."""

    def share(row: dict, key: str) -> str:
        mean, low, high = row[key]
        return f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

    lines = [
        f"| ranker | trained on | examples/s | hits@1/20 | hits@5/20 | MRR | ms, 20 | ms, {POOL:,} |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in results["rankers"].items():
        ms, rate = row["ms"], f"{row['rate']:.1f}" if row["rate"] else ""
        lines.append(
            f"| {name} | {row['trained_on']:,} | {rate} | {share(row, 'hits@1')} | "
            f"{share(row, 'hits@5')} | {share(row, 'mrr')} | {ms['20']:.1f} | {ms[str(POOL)]:,.0f} |"
        )
    counts = [row["examples"] for row in results["rankers"].values()]
    fewer = "".join(f" ({n}: {r['examples']:,})" for n, r in results["rankers"].items() if r["examples"] < max(counts))
    note = (
        f"Each trained for {results['seconds']} s on one core, the teacher longer; first {max(counts):,} contexts"
        f"{fewer} of chitchat's test split, percent with 95% "
        f"bootstrap intervals; ms for a context against candidates encoded before. {results['machine']}."
    )
    return "\n".join([*lines, "", note, ""])


def plot(results: dict, path: Path) -> None:
    """Plot quality against latency with a pool of cached candidates."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    for number, (name, row) in enumerate(results["rankers"].items()):
        mean, low, high = (100 * share for share in row["hits@1"])
        color, marker = pyplot.get_cmap("tab10")(number % 10), "osD"[number // 10]
        axes.errorbar(
            row["ms"][str(POOL)], mean, [[mean - low], [high - mean]], marker=marker, capsize=3, color=color, label=name
        )
    axes.set(xscale="log", xlabel=f"ms per context, {POOL:,} cached candidates", ylabel="hits@1/20, chitchat test")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def machine() -> str:
    """Describe the machine that the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def measure(name: str, arguments, folder: Path, places: dict[str, str]) -> None:
    """Measure the rate of one ranker, train it and measure its quality. What is done already is skipped."""
    path = folder / "state.json"
    state = json.loads(path.read_text()) if path.exists() else {}
    command = RANKERS[name].format(**places)

    def keep(**found) -> None:
        state.update(found)
        write_text(path, json.dumps(state, indent=1))

    if "no training" in name:
        if "rate" not in state:
            untrained(command, folder / "model")
            keep(rate=None, trained_on=0)
    elif "trained_on" not in state:
        size = int(command.split("-bs ")[1].split()[0])
        untaught = folder.with_name(folder.name.removesuffix("-distilled")) / "state.json"
        if untaught != path:  # as many steps as without the teacher; its scores take time of their own
            steps = json.loads(untaught.read_text())["trained_on"] // size
            keep(rate=train(command, folder / "model", steps), trained_on=steps * size)
        else:
            if "rate" not in state:
                keep(rate=train(command, folder / "rate" / "model", 8))
            steps = TEACHER_STEPS if name == TEACHER else round(state["rate"] * arguments.seconds / size)
            train(command, folder / "model", steps)
            keep(trained_on=steps * size)
    if "mrr" not in state:
        keep(**quality(folder / "model", arguments.contexts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=240, help="training time of each ranker")
    parser.add_argument("--folder", type=Path, default=Path("models/benchmark"), help="where the models are kept")
    parser.add_argument("--contexts", type=int, default=1000, help="of the test split, for quality")
    parser.add_argument("--rounds", type=int, default=30, help="contexts timed for each ranker")
    parser.add_argument("--t5", default="google/flan-t5-small", help="backbone of ed2lm, by name or folder")
    parser.add_argument("--only", nargs="+", choices=RANKERS, help="measure these, write no table")
    arguments = parser.parse_args()
    folders = {name: arguments.folder / name.replace(",", "").replace(" ", "-") for name in RANKERS}
    teacher = folders[TEACHER] / "model"
    for name in arguments.only or RANKERS:
        places = {"teacher": str(teacher), "t5": arguments.t5}
        if "{layer}" in RANKERS[name]:
            places["layer"] = str(best_layer(teacher, folders["bi"] / "model"))
        measure(name, arguments, folders[name], places)
    if arguments.only:
        return
    states = {name: json.loads((folder / "state.json").read_text()) for name, folder in folders.items()}
    times = latency({name: folder / "model" for name, folder in folders.items()}, arguments.rounds)
    rankers = {name: state | {"ms": times[name]} for name, state in states.items()}
    results = {"seconds": arguments.seconds, "machine": machine(), "rankers": rankers}
    write_text(RESULTS / "rankers.json", json.dumps(results, indent=1) + "\n")
    write_text(RESULTS / "rankers.md", table(results))
    plot(results, RESULTS / "rankers.png")
    print(table(results))


if __name__ == "__main__":
    main()
