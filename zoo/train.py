"""Train the zoo's own models by their commands in the catalogue. `make zoo` runs this.

    python -m poly_agents.zoo.train --out models/zoo

Each model is trained with `parlai train_model` and evaluated on the test split with 95% intervals. Then the folder
OUT/NAME is prepared for publishing, with card and digests. `POLY_AGENTS_ZOO=OUT` lets `zoo:poly_agents/NAME/model` find
it. Models that are there already are kept. The digests it prints go into the catalogue once the folders are published.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from poly_agents.zoo.catalogue import OURS
from poly_agents.zoo.checks import SUMS

PARLAI = Path(sys.executable).with_name("parlai")
QUICK = "--validation-every-n-epochs -1 --validation-max-exs 64 --short-final-eval true --loglevel report"


def parlai(command: str) -> None:
    """Print a command and run it. Raises CalledProcessError if it fails."""
    print(f"\n$ parlai {command}", flush=True)
    subprocess.run([PARLAI, *shlex.split(command)], check=True)


def make(name: str, out: Path, work: Path, more: str, examples: int) -> None:
    """Train, evaluate and prepare one model.

    Args:
        name: of the model in the catalogue.
        out: where its folder goes.
        work: where it is trained.
        more: further options for its command.
        examples: how many of the test split to evaluate on; -1: all.
    """
    entry, model = OURS[name], work / name / "model"
    report = model.with_name("report.json")
    train = entry.source.command.removeprefix("parlai ")
    parlai(f"{train} {QUICK} -mf {model} {more}")
    parlai(
        f"eval_model -mf {model} -t poly_agents:chitchat -dt test -ne {examples} -bs 50 --confidence true "
        f"--report-filename {report} --loglevel warn"
    )
    parlai(f"poly_zoo publish {out / name} -mf {model} --report {report} --license {entry.licence.lower()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("models/zoo"), help="where the prepared folders go")
    parser.add_argument("--work", type=Path, default=Path("models/zoo-work"), help="where models are trained")
    parser.add_argument("--only", nargs="+", choices=list(OURS), default=list(OURS), help="train only these")
    parser.add_argument("--steps", type=int, help="training steps of each, for a quick trial")
    parser.add_argument("--examples", type=int, default=-1, help="how many test examples to evaluate on; -1: all")
    parser.add_argument("--more", default="", help="further options for train_model, in quotes")
    arguments = parser.parse_args()
    more = f"--max-train-steps {arguments.steps} {arguments.more}" if arguments.steps else arguments.more
    for name in arguments.only:
        if not (arguments.out / name / SUMS).is_file():
            make(name, arguments.out, arguments.work, more, arguments.examples)
    for name in arguments.only:
        print(f"\n{name}")
        print((arguments.out / name / SUMS).read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
