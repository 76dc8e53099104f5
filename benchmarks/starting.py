"""Compare where rankers start: the published way and the backbone, after the same number of examples.

    python benchmarks/starting.py --examples 3200 --contexts 1000

Each ranker is trained through `parlai train_model` on the same examples of chitchat, from the same MiniLM. Then it
ranks the first contexts of the test split, each with 20 candidates. Every ranker is compared with `bi` on the same
contexts: the difference of hits@1, its 95% bootstrap interval, and the p-value of a paired permutation test (10,000
random exchanges). Writes `starting.json` and `starting.md` into `benchmarks/results` after every ranker. A ranker that
is done is not run again, and a killed training resumes (`--folder` keeps the models).
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rankers import RESULTS, machine

from poly_agents.files.atomic import write_text

PARLAI = str(Path(sys.executable).with_name("parlai"))
COMMON = "-t poly_agents:chitchat --text-truncate 96 --label-truncate 32"
DRAWS = 10_000
PAPER = "--start paper"
SLOW_PAPER = f"{PAPER} --negatives 4 --negatives-by random -lr 1e-4"
RANKERS = {  # name -> flags, batch size
    "bi": ("-m poly_agents/bi", 64),
    "poly": ("-m poly_agents/poly", 64),
    "poly, paper": (f"-m poly_agents/poly {PAPER}", 64),
    "mix-b": ("-m poly_agents/mix --mix b", 64),
    "mix-b, paper": (f"-m poly_agents/mix --mix b --mix-cosine true {PAPER}", 64),
    "late": ("-m poly_agents/late", 64),
    "late, paper": (f"-m poly_agents/late {PAPER}", 64),
    "cross": ("-m poly_agents/cross", 16),
    "uni": ("-m poly_agents/uni", 16),
    "cross, paper": (f"-m poly_agents/cross {SLOW_PAPER}", 16),
    "uni, paper": (f"-m poly_agents/uni {SLOW_PAPER}", 16),
    "cross from the trained bi": ("-m poly_agents/cross --backbone {bi}", 16),
}


def run(command: str) -> float:
    """Run a command of ParlAI quietly. Returns its seconds."""
    print(f"$ parlai {command}", flush=True)
    begun = time.monotonic()
    done = subprocess.run([PARLAI, *command.split(), "--loglevel", "error"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return time.monotonic() - begun


def measure(name: str, folder: Path, examples: int, contexts: int) -> dict:
    """Train and evaluate one ranker. Returns seconds, and the rank of the response of each context."""
    flags, batch = RANKERS[name]
    place = folder / name.replace(", ", "-").replace(" ", "-")
    model, ranks = place / "model", place / "ranks.jsonl"
    flags = flags.format(bi=folder / "bi" / "model")
    training = run(
        f"train_model {flags} {COMMON} -mf {model} -bs {batch} --max-train-steps {examples // batch} --seed 1 "
        "--validation-every-n-epochs -1 --validation-max-exs 16 --short-final-eval true"
    )
    evaluation = run(f"eval_model -mf {model} {COMMON} -dt test -ne {contexts} -bs 50 --ranks-file {ranks}")
    rows = [json.loads(line) for line in ranks.read_text("utf-8").splitlines()]
    return {"ranks": [row["positives"][0]["rank"] for row in rows], "training": training, "evaluation": evaluation}


def compare(ranks: list[float], others: list[float]) -> dict:
    """Compare hits@1 of two rankers on the same contexts, by a paired permutation test and a bootstrap interval."""
    random = np.random.default_rng(0)
    difference = (np.array(ranks) == 1).astype(float) - (np.array(others) == 1)
    signs = random.choice([-1.0, 1.0], (DRAWS, len(difference)))
    exchanged = np.abs((signs * difference).mean(1)) >= abs(difference.mean()) - 1e-12
    resampled = difference[random.integers(0, len(difference), (DRAWS, len(difference)))].mean(1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {"difference": difference.mean(), "low": low, "high": high, "p": (1 + exchanged.sum()) / (1 + DRAWS)}


def table(results: dict[str, dict], examples: int, contexts: int) -> str:
    """Format the results as Markdown."""
    lines = [
        "| ranker | hits@1, % | MRR | against bi, points | 95% interval | p | training, s | evaluation, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in (name for name in RANKERS if name in results):
        found = results[name]
        ranks = np.array(found["ranks"])
        row = [name, f"{100 * (ranks == 1).mean():.1f}", f"{(1 / ranks).mean():.3f}"]
        if name == "bi":
            row += ["", "", ""]
        else:
            against = compare(found["ranks"], results["bi"]["ranks"])
            difference, low, high = (100 * against[key] for key in ("difference", "low", "high"))
            row += [f"{difference:+.1f}", f"{low:+.1f} to {high:+.1f}", f"{against['p']:.4f}"]
        row += [f"{found['training']:.0f}", f"{found['evaluation']:.0f}"]
        lines.append(f"| {' | '.join(row)} |")
    note = f"{examples:,} training examples, the first {contexts:,} contexts of chitchat's test split; {machine()}."
    return "\n".join([*lines, "", note, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=3200, help="training examples of each ranker")
    parser.add_argument("--contexts", type=int, default=1000, help="contexts of the test split")
    parser.add_argument("--folder", default="models/starting", help="where the models are kept")
    parser.add_argument("--only", nargs="*", choices=RANKERS, help="measure only these; bi comes first")
    arguments = parser.parse_args()
    budget = {"examples": arguments.examples, "contexts": arguments.contexts}
    path = RESULTS / "starting.json"
    saved = json.loads(path.read_text("utf-8")) if path.exists() else {}
    results = saved.get("results", {}) if saved.get("budget") == budget else {}
    for name in (name for name in RANKERS if name == "bi" or name in (arguments.only or RANKERS)):
        if name in results:
            continue
        results[name] = measure(name, Path(arguments.folder), **budget)
        write_text(path, json.dumps({"budget": budget, "machine": machine(), "results": results}) + "\n")
        write_text(RESULTS / "starting.md", table(results, **budget))
    print(table(results, **budget))


if __name__ == "__main__":
    main()
