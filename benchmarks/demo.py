"""Run the main job in six minutes through the `parlai` command line. `make demo` calls this.

Evaluates TF-IDF and the untrained MiniLM on chitchat, trains a poly-encoder, evaluates it, and chats with it.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARLAI = Path(sys.executable).with_name("parlai")
TASK = "-t poly_agents:chitchat"
LENGTHS = "--text-truncate 96 --label-truncate 32"
CHAT = [
    "hi, how are you?",
    "just studying for my exams. any plans for the weekend?",
    "nice, what kind of music do you like?",
]
QUIET = {"TOKENIZERS_PARALLELISM": "true", "PYTHONWARNINGS": "ignore"}


def parlai(command: str, **options) -> subprocess.CompletedProcess:
    """Print a command and run it. Raises CalledProcessError if it fails."""
    print(f"\n\033[1m$ parlai {command}\033[0m", flush=True)
    return subprocess.run([PARLAI, *shlex.split(command)], check=True, env=os.environ | QUIET, **options)


def evaluate(model: str, examples: int) -> dict:
    """Return the report of `parlai eval_model` on the first examples of valid."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        parlai(
            f"eval_model {model} {TASK} -dt valid -ne {examples} -bs 50 --report-filename {report} --loglevel warn",
            stdout=subprocess.DEVNULL,
        )
        return json.loads(report.read_text())["report"]


def table(reports: dict[str, dict]) -> str:
    """Format hits@1/20, MRR and milliseconds per context, one model per line."""
    lines = [f"{'':32}{'hits@1/20':>10}{'MRR':>8}{'ms per context':>16}"]
    for name, report in reports.items():
        ms = report["ms"] if "ms" in report else 1000 / report["exps"]
        lines.append(f"{name:32}{report['hits@1']:10.3f}{report['mrr']:8.3f}{ms:16.1f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model-file", default="models/demo/model", help="where to save the trained model; an old one is replaced"
    )
    parser.add_argument("--steps", type=int, default=100, help="training steps of 64 examples")
    parser.add_argument("--examples", type=int, default=1000, help="examples of valid to evaluate on")
    arguments = parser.parse_args()
    begun = time.monotonic()
    folder = Path(arguments.model_file).parent
    for old in folder.glob(f"{Path(arguments.model_file).name}*"):
        old.unlink()
    reports = {"TF-IDF": evaluate("-m poly_agents/tfidf", arguments.examples)}
    reports["MiniLM, untrained"] = evaluate(f"-m poly_agents/bi {LENGTHS}", arguments.examples)
    parlai(
        f"train_model -m poly_agents/poly {TASK} {LENGTHS} -mf {arguments.model_file} -bs 64 "
        f"--max-train-steps {arguments.steps} --validation-every-n-epochs -1 --validation-max-exs 64 "
        "--short-final-eval true --loglevel report"
    )
    reports["poly-encoder, 64 codes, trained"] = evaluate(f"-mf {arguments.model_file}", arguments.examples)
    parlai(
        f"interactive -mf {arguments.model_file} --show-candidates 3 --loglevel error",
        input="\n".join([*CHAT, "[EXIT]", ""]),
        text=True,
    )
    print(f"\nchitchat valid, {arguments.examples} contexts, {arguments.steps * 64:,} training examples\n")
    print(table(reports))
    print(f"\n{time.monotonic() - begun:.0f} s in all. `make chat` starts a chat with {arguments.model_file}.")


if __name__ == "__main__":
    main()
