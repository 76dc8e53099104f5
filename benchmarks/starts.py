"""Measure what a command or a script costs before it does anything: processor time and wall time, beside ParlAI's own.

    python benchmarks/starts.py

Every command has a process of its own. All take turns for some rounds, and a figure is the median over the rounds. The
first round is not counted. "Beyond ParlAI" is the processor time less that of the same kind of command in ParlAI alone.
sentence-transformers loads the same MiniLM and encodes the same three texts. Writes `starts.json` and `starts.md` into
`benchmarks/results`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rankers import RESULTS, machine

import poly_agents
from poly_agents import zoo
from poly_agents.files.atomic import write_text

PARLAI = str(Path(sys.executable).with_name("parlai"))
LOAD_AND_RANK = "import poly_agents; poly_agents.load({model!r}).rank('how are you?', ['fine, and you?', 'it is blue'])"
PEER = (
    "from sentence_transformers import SentenceTransformer;"
    "SentenceTransformer({folder!r}, device='cpu').encode(['how are you?', 'fine, and you?', 'it is blue'])"
)


@dataclass(frozen=True)
class Start:
    """A command to time."""

    name: str
    command: list[str]
    beyond: str = ""  # the command of ParlAI alone that it is compared with
    plugin: bool = True


def starts(model: str, minilm: str) -> list[Start]:
    """List the commands. ParlAI alone runs with the plug-in switched off."""
    alone = "parlai train_model --help, ParlAI alone"
    python = [sys.executable, "-c"]
    ours = ["poly_zoo", *(f"{name} --help" for name in ("poly_zoo", "poly_index", "poly_mine", "poly_export"))]
    ours += ["train_model -m poly_agents/poly --help", "eval_model -m poly_agents/cross --help"]
    return [
        Start(alone, [PARLAI, "train_model", "--help"], plugin=False),
        *(Start(f"parlai {words}", [PARLAI, *words.split()], alone) for words in ours),
        Start("import torch", [*python, "import torch"]),
        Start("import poly_agents", [*python, "import poly_agents"]),
        Start("poly_agents.load and one rank", [*python, LOAD_AND_RANK.format(model=model)]),
        Start("SentenceTransformer and one encode", [*python, PEER.format(folder=minilm)]),
    ]


def run(start: Start) -> tuple[float, float]:
    """Run a command once. Returns its seconds of processor time, children included, and of wall time."""
    environment = os.environ | ({} if start.plugin else {"POLY_AGENTS_PLUGIN": "0"})
    before, begun = os.times(), time.monotonic()
    subprocess.run(start.command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after, wall = os.times(), time.monotonic() - begun
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return processor, wall


def table(rows: list[dict]) -> str:
    """Format the results as Markdown."""
    lines = ["| command | processor, s | beyond ParlAI, s | wall, s |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        beyond = "" if row["beyond"] is None else f"{row['beyond']:.2f}"
        lines.append(f"| `{row['name']}` | {row['processor']:.2f} | {beyond} | {row['wall']:.2f} |")
    return "\n".join([*lines, "", f"{machine()}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder, "model"))
        poly_agents.start("bi").save(model)
        every = starts(model, zoo.backbone("minilm"))
        seconds = {start.name: [] for start in every}
        for turn in range(arguments.rounds + 1):
            for start in every:
                measured = run(start)
                if turn:
                    seconds[start.name].append(measured)
            print(f"round {turn} of {arguments.rounds}", flush=True)
    medians = {
        name: [statistics.median(times) for times in zip(*pairs, strict=True)] for name, pairs in seconds.items()
    }
    rows = []
    for start in every:
        processor, wall = medians[start.name]
        beyond = processor - medians[start.beyond][0] if start.beyond else None
        rows.append({"name": start.name, "processor": processor, "beyond": beyond, "wall": wall})
    write_text(RESULTS / "starts.json", json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    write_text(RESULTS / "starts.md", table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
