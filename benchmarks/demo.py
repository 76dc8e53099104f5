"""Run the main job in about three minutes, on any machine, through the `parlai` command line. `make demo` calls this.

Measures the machine and plans by that how long to train. Evaluates BM25 and the untrained MiniLM on chitchat, trains a
poly-encoder, evaluates it, and chats with it.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rankers import machine

from poly_agents import zoo
from poly_agents.learning.training import TrainingBatch, TrainingOptions, step
from poly_agents.models import building, opening
from poly_agents.models.textranker import TextRanker
from poly_agents.rankers import options_of
from poly_agents.tasks import chitchat
from poly_agents.text.tokens import pad

PARLAI = Path(sys.executable).with_name("parlai")
TASK = "-t poly_agents:chitchat"
TEXT, LABEL = 96, 32  # tokens
LENGTHS = f"--text-truncate {TEXT} --label-truncate {LABEL}"
BATCH = 64
EVAL_BATCH = 20  # small, so that a slow machine has something to say every ten seconds
MEASURING, TRAINING, EVALUATION = 10, 80, 20  # seconds
EXAMPLES = range(200, 1001)  # contexts of valid that are evaluated
PROGRESS = re.compile(r"(time:\d+s .*|[\d.]+% complete .*)")
CHAT = [
    "hi, what are you studying?",
    "i study biology. do you like music?",
    "the guitar. and you?",
]
QUIET = {"TOKENIZERS_PARALLELISM": "true", "PYTHONWARNINGS": "ignore"}


@dataclass(frozen=True)
class Plan:
    """How much to train and to evaluate on this machine."""

    steps: int  # of training, with 64 examples each
    examples: int  # of valid


def plan() -> Plan:
    """Time up to three training steps, and print what this machine can do."""
    print("measuring this machine ...", flush=True)
    options = options_of("poly", {})
    source = zoo.backbone(options.source)
    tokenizer = opening.pretrained_tokenizer(source)
    ranker = building.start("poly", options, source, tokenizer, building.default_device()).train()
    model = TextRanker(ranker, tokenizer, TEXT, LABEL)
    examples = chitchat.examples("valid", 4)[:BATCH]
    contexts = pad(model.context_ids(["\n".join(example.context) for example in examples]))
    responses = pad(model.candidate_ids([example.response for example in examples]))
    batch = TrainingBatch(contexts, responses, None, torch.arange(BATCH))
    seconds = []
    while len(seconds) < 3 and sum(seconds) < MEASURING:
        begun = time.monotonic()
        step(ranker, TrainingOptions(), batch)
        seconds.append(time.monotonic() - begun)
    step_seconds = min(seconds)
    steps = max(5, round(TRAINING / step_seconds))
    examples = round(EVALUATION * BATCH / step_seconds, -2)
    examples = int(min(max(examples, EXAMPLES.start), EXAMPLES[-1]))
    products = str(ranker.context_encoder.dtype).removeprefix("torch.")
    print(
        f"{machine()}, {products}: a step of {BATCH} examples takes "
        f"{step_seconds:.2f} s. So it trains {steps} steps and evaluates {examples} contexts.",
        flush=True,
    )
    return Plan(steps, examples)


def parlai(command: str) -> None:
    """Print a command and run it. Its progress is shown every ten seconds. Raises CalledProcessError if it fails."""
    print(f"\n\033[1m$ parlai {command}\033[0m", flush=True)
    words = [PARLAI, *shlex.split(command), "--log-every-n-secs", "10"]
    with subprocess.Popen(words, env=os.environ | QUIET, stdout=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := PROGRESS.search(line):
                print(f"  {found[0]}", flush=True)
    if process.returncode:
        print("".join(lines[-20:]), file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, words)


def chat(model_file: str) -> None:
    """Say what is in CHAT to a model, and print the conversation."""
    command = f"interactive -mf {model_file} --show-candidates 3 --loglevel error"
    print(f"\n\033[1m$ parlai {command}\033[0m", flush=True)
    said = "\n".join([*CHAT, "[EXIT]", ""])
    subprocess.run([PARLAI, *shlex.split(command)], check=True, env=os.environ | QUIET, input=said, text=True)


def evaluate(model: str, examples: int) -> dict:
    """Return the report of `parlai eval_model` on the first examples of valid."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        parlai(f"eval_model {model} {TASK} -dt valid -ne {examples} -bs {EVAL_BATCH} --report-filename {report}")
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
    parser.add_argument("--steps", type=int, help="training steps of 64 examples, instead of as many as fit")
    parser.add_argument("--examples", type=int, help="examples of valid to evaluate on, instead of as many as fit")
    arguments = parser.parse_args()
    begun = time.monotonic()
    folder = Path(arguments.model_file).parent
    for old in folder.glob(f"{Path(arguments.model_file).name}*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    planned = plan()
    steps, examples = arguments.steps or planned.steps, arguments.examples or planned.examples
    reports = {"BM25": evaluate("-m poly_agents/bm25", examples)}
    reports["MiniLM, untrained"] = evaluate(f"-m poly_agents/bi {LENGTHS}", examples)
    parlai(
        f"train_model -m poly_agents/poly {TASK} {LENGTHS} -mf {arguments.model_file} -bs {BATCH} "
        f"--max-train-steps {steps} --validation-every-n-epochs -1 --validation-max-exs 64 --short-final-eval true "
        f"--eval-batchsize {EVAL_BATCH}"
    )
    reports["poly-encoder, 64 codes, trained"] = evaluate(f"-mf {arguments.model_file}", examples)
    chat(arguments.model_file)
    print(f"\nchitchat valid, {examples} contexts, {steps * BATCH:,} training examples\n")
    print(table(reports))
    print(f"\n{time.monotonic() - begun:.0f} s in all. `make chat` starts a chat with {arguments.model_file}.")


if __name__ == "__main__":
    main()
