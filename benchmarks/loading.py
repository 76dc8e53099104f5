"""Measure how long a 12-layer model takes to load, and how much memory it adds: ParlAI's files and ours.

    python benchmarks/loading.py

ParlAI makes a poly-encoder of the size of its published ones (two encoders of 12 layers, 768 wide, 12 heads, 1,024
positions, a BPE dictionary of 55,000 words) with random weights and saves it. It is loaded from the formats of torch
after and before 1.6 and from ours, in float32 and bfloat16, and by ParlAI itself; each time in a process of its own
that has imported everything, with the files in the system's cache. Memory is the peak of what is resident while
loading, less what was resident before. Writes `loading.json` and `loading.md` into `benchmarks/results`.
"""

import argparse
import itertools
import json
import os
import statistics
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rankers import RESULTS, machine

from poly_agents.files.atomic import write_text

WORDS = 55_000


def make(folder: Path) -> dict[str, str]:
    """Save the same weights in three formats. Returns name -> model file."""
    import torch
    from parlai.core.agents import create_agent
    from parlai.core.params import ParlaiParser

    import poly_agents
    from poly_agents.zoo.catalogue import PARLAI_AGENTS, PARLAI_OPTIONS

    files = {name: str(folder / name / "model") for name in ("zip", "pickle", "ours")}
    for name in ("zip", "pickle"):
        (folder / name).mkdir(parents=True)
        write_dictionary(files[name])
    where = {"model_file": files["zip"], "dict_file": f"{files['zip']}.dict"}
    published = PARLAI_OPTIONS | PARLAI_AGENTS["poly"] | {"model": "transformer/polyencoder", "gpu": -1}
    create_agent(ParlaiParser(True, True).parse_kwargs(**published, **where)).save(files["zip"])
    write_text(f"{files['pickle']}.opt", Path(f"{files['zip']}.opt").read_text())
    torch.save(torch.load(files["zip"], weights_only=True), files["pickle"], _use_new_zipfile_serialization=False)
    poly_agents.load(files["zip"], "float32").save(files["ours"])
    return files


def write_dictionary(path: str) -> None:
    """Write a BPE dictionary of words of four letters, and the merges that make them."""
    letters = string.ascii_lowercase[:17]
    pairs = ["".join(pair) for pair in itertools.product(letters, repeat=2)]
    words = ["__null__", "__start__", "__unk__", "__newln__", *letters]
    merges = [f"{pair[0]} {pair[1]}" for pair in pairs]
    for one, two in itertools.islice(itertools.product(pairs, repeat=2), (WORDS - len(words)) // 2):
        words += [f"{one}{two}@@", f"{one}{two}"]
        merges.append(f"{one} {two}")
    write_text(f"{path}.dict", "".join(f"{word}\t1\n" for word in words))
    write_text(f"{path}.dict.codecs", "\n".join(["#version: 0.2", *merges]) + "\n")


def resident(kind: str) -> int:
    """Return resident memory in bytes: `VmRSS` is now, `VmHWM` the peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024


def load(path: str, how: str) -> None:
    """Load a model once, and print seconds and bytes as JSON."""
    from parlai.core.agents import create_agent_from_model_file
    from parlai.utils import logging

    import poly_agents.agents.ranker_agent  # what loading needs is imported before it is timed
    import poly_agents.models.textranker

    logging.disable()
    Path(path).read_bytes()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    start = time.perf_counter()
    model = create_agent_from_model_file(path) if how == "ParlAI" else poly_agents.load(path, how)
    seconds, peak = time.perf_counter() - start, resident("VmHWM") - before
    kept = resident("VmRSS") - before
    print(json.dumps({"seconds": seconds, "peak": peak, "kept": kept, "made": type(model).__name__}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", nargs=2, metavar=("FILE", "HOW"), help="load one in this process")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each row, of which the median is taken")
    arguments = parser.parse_args()
    if arguments.load:
        load(*arguments.load)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = make(Path(folder))
        for name, how in [*itertools.product(files, ("float32", "bfloat16")), ("zip", "ParlAI"), ("pickle", "ParlAI")]:
            line = [sys.executable, __file__, "--load", files[name], how]
            done = [subprocess.run(line, capture_output=True, text=True, check=True) for _ in range(arguments.rounds)]
            found = [json.loads(run.stdout.splitlines()[-1]) for run in done]
            middle = {key: statistics.median(run[key] for run in found) for key in ("seconds", "peak", "kept")}
            rows.append({"file": name, "how": how, "size": os.path.getsize(files[name])} | middle)
            print(rows[-1], flush=True)
    names = {"zip": "ParlAI's", "pickle": "ParlAI's, before torch 1.6", "ours": "ours"}
    lines = ["| file | MB | loaded | s | peak, MB | of the file |", "| --- | ---: | --- | ---: | ---: | ---: |"]
    for row in rows:
        how = "by ParlAI" if row["how"] == "ParlAI" else row["how"]
        peak, size = row["peak"] / 2**20, row["size"] / 2**20
        lines.append(
            f"| {names[row['file']]} | {size:,.0f} | {how} | {row['seconds']:.1f} | {peak:,.0f} | {peak / size:.2f} |"
        )
    text = "\n".join([*lines, "", f"A poly-encoder with two encoders of 12 layers; {machine()}.", ""])
    write_text(RESULTS / "loading.json", json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    write_text(RESULTS / "loading.md", text)
    print(text)


if __name__ == "__main__":
    main()
