"""poly_agents against its peers: the same weights, the same texts, the same machine, in one run.

    python benchmarks/peers.py            # about 13 minutes on two cores
    python benchmarks/peers.py --quick    # a look at whether all of it still runs; its figures mean nothing

The peers are ParlAI's own bi-, poly- (64 codes) and cross-encoder, with MiniLM's weights copied into them, and
sentence-transformers with the same MiniLM, in float32 (its default) and in bfloat16. Before anything is timed, token
states and scores of all sides are compared, and the run stops where they differ. What is measured:

    train       examples a second, chitchat, batches of 64, negatives from the batch; cross: 16, with 3 negatives
    evaluate    contexts a second with 20 inline candidates, chitchat valid, ParlAI's loop of eval_model on both sides
    encode      candidates a second, of about 12 and of about 100 tokens
    chat        milliseconds to the best of 100,000 cached candidates, for a context of about 128 tokens
    pairs       pairs a second of a cross-encoder, a context of about 128 tokens with 100 candidates
    memory      the largest resident set of the process, for every side and job

Every side of a job has a process of its own; they take turns, and in every round another one comes first. A figure is
the median over the rounds with the range from 10% to 90%; the first turn of each side is not counted. The vectors of
the 100,000 candidates are made by poly_agents for all sides (1,024 of them encoded, the others means of two of these):
the time of a reply does not depend on them. The machine's own limits, products and reads a second, take part in the
encoding of long texts. Writes `peers.json`, `peers.md` and `peers.png` into `benchmarks/results`.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
OURS, PYTHON, OURS32 = "poly_agents", "poly_agents, Python", "poly_agents, float32"
PARLAI = "ParlAI"
ST, ST16 = "sentence-transformers", "sentence-transformers, bfloat16"
LIMITS = ("products, bfloat16", "products, float32", "memory")
SIDES = (OURS, PYTHON, OURS32, PARLAI, ST, ST16)
TOLERANCE = 1e-3  # of token states and scores of different sides
MOST = 25  # rounds


@dataclass(frozen=True)
class Job:
    """A piece of work that every side does in turn: one of its methods, with an argument."""

    method: str
    argument: str
    sides: tuple[str, ...]
    unit: str

    @property
    def name(self) -> str:
        return f"{self.method}, {self.argument}"


LOOPS = (OURS, OURS32, PARLAI)
ALL = (OURS, OURS32, PARLAI, ST, ST16)
JOBS = [
    *(Job("train", kind, LOOPS, "examples/s") for kind in ("bi", "poly", "cross")),
    *(Job("evaluate", kind, LOOPS, "contexts/s") for kind in ("bi", "poly", "cross")),
    Job("encode", "short", ALL, "texts/s"),
    Job("encode", "long", ALL + LIMITS, "texts/s"),
    Job("chat", "bi", (OURS, PYTHON, OURS32, PARLAI, ST, ST16), "ms"),
    Job("chat", "poly", (OURS, PYTHON, OURS32, PARLAI), "ms"),
    Job("pairs", "cross", (OURS, PYTHON, OURS32, PARLAI, ST, ST16), "pairs/s"),
]


class Worker:
    """A process that prepares one side of a job, and works when it is its turn."""

    def __init__(self, target: str, *arguments):
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=run, args=(target, there, *arguments), daemon=True)
        self.process.start()
        there.close()

    def receive(self):
        try:
            return self.pipe.recv()
        except EOFError:
            raise RuntimeError("a side has ended early; what it says is above") from None

    def turn(self, number: int) -> float:
        """Let the process work for a turn. Returns units of work a second."""
        self.pipe.send(number)
        return self.receive()

    def end(self) -> int:
        """End the process and return its peak memory in bytes."""
        self.pipe.send(None)
        peak = self.receive()
        self.process.join()
        return peak


def run(target: str, *arguments) -> None:
    """Run a function of `sides/serving.py`, in the new process. The process that starts it imports nothing large.

    Linux never reports a child's peak memory as less than its parent's.
    """
    from sides import serving

    getattr(serving, target)(*arguments)


def measure(job: Job, arguments, folder: Path) -> dict[str, dict]:
    """Run a job. Returns the rates of all rounds and the peak memory in bytes, by side."""
    given = job.method, job.argument, folder, arguments.quick, arguments.threads
    workers = {side: Worker("serve", side, *given) for side in job.sides}
    for worker in workers.values():
        worker.receive()
    rates: dict[str, list[float]] = {side: [] for side in workers}
    for worker in workers.values():
        worker.turn(0)
    least, most = (2, 2) if arguments.quick else (arguments.rounds, MOST)
    begun, rounds = time.monotonic(), 0
    while rounds < least or (rounds < most and time.monotonic() - begun < arguments.seconds):
        rounds += 1
        first = rounds % len(job.sides)
        for side in job.sides[first:] + job.sides[:first]:
            rates[side].append(workers[side].turn(rounds))
    return {side: {"rates": rates[side], "peak": worker.end()} for side, worker in workers.items()}


def spread(rates: Sequence[float], unit: str) -> list[float]:
    """Return the median, the 10th and the 90th percentile, in the unit of the job."""
    values = sorted(1000 / rate if unit == "ms" else rate for rate in rates)
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return [statistics.median(values), tenths[0], tenths[-1]]


def number(value: float) -> str:
    """Format a number with at least three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def figure(found: Sequence[float]) -> str:
    return f"{number(found[0])} [{number(found[1])}, {number(found[2])}]"


def limits(results: dict) -> list[str]:
    """Report the limits of the machine, and how near our encoding comes to them."""
    long = results["jobs"].get("encode, long")
    if not long:
        return []
    of = {name: [value / 1e9 for value in long["sides"][name]["figure"]] for name in LIMITS}
    lines = [
        f"The machine's limits in the same rounds: {figure(of[LIMITS[0]])} GFLOP/s in bfloat16 and "
        f"{figure(of[LIMITS[1]])} in float32 (products of 2,048 x 2,048), {figure(of[LIMITS[2]])} GB/s read.",
    ]
    for name, job in results["jobs"].items():
        if not name.startswith("encode"):
            continue
        work = results["flop"][name.removeprefix("encode, ")] / 1e9
        shares = []
        for side, limit in ((OURS, results["limit"]), (OURS32, LIMITS[1]), (PARLAI, LIMITS[1]), (ST, LIMITS[1])):
            rate = job["sides"][side]["figure"][0] * work
            shares.append(f"{side} {rate:.0f} GFLOP/s, {100 * rate / of[limit][0]:.0f}% of {limit.split(', ')[1]}")
        lines.append(f"{name}: {'; '.join(shares)}.")
    return lines


def tables(results: dict) -> str:
    """Write the results as Markdown: speed, memory, limits, and that all sides compute the same."""
    sides = [side for side in SIDES if any(side in job["sides"] for job in results["jobs"].values())]
    head = [f"| | | {' | '.join(sides)} |", f"| --- | --- |{' ---: |' * len(sides)}"]
    speed, memory = [*head], [*head]
    for name, job in results["jobs"].items():
        cells = [job["sides"].get(side) for side in sides]
        speed.append(f"| {name} | {job['unit']} | {' | '.join(figure(c['figure']) if c else '' for c in cells)} |")
        peaks = [f"{cell['peak'] / 1e6:,.0f}" if cell else "" for cell in cells]
        memory.append(f"| {name} | MB | {' | '.join(peaks)} |")
    same = ", ".join(f"{what} {value:.1e}" for what, value in results["differences"].items())
    tokens = results["tokens"]
    return "\n\n".join(
        [
            f"{results['machine']}. Median [10%, 90%] of interleaved turns; the same weights and texts on all sides.",
            "\n".join(speed),
            "Peak of memory of the process:",
            "\n".join(memory),
            *limits(results),
            f"Tokens on average: short {tokens['short']:.0f}, long {tokens['long']:.0f}, contexts of chat and pairs "
            f"{tokens['contexts']:.0f}, candidates of pairs {tokens['pairs']:.0f}; "
            f"pool of the chat {results['pool']:,}. Largest differences in float32: {same}.",
        ]
    )


def plot(results: dict, path: Path) -> None:
    """Plot the speed of every side as a multiple of that of poly_agents, and its memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    jobs = results["jobs"]
    size = 13, 0.75 * len(jobs) + 1.5
    shown, (left, right) = pyplot.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    height = 0.8 / len(SIDES)
    for place, side in enumerate(SIDES):
        color = pyplot.get_cmap("tab10")(place)
        left.plot([], [], "o", color=color, label=side)
        for row, job in enumerate(jobs.values()):
            if side not in job["sides"]:
                continue
            mine, own = job["sides"][OURS]["figure"][0], job["sides"][side]
            speed, *ends = (mine / value if job["unit"] == "ms" else value / mine for value in own["figure"])
            y = row + (place - len(SIDES) / 2 + 0.5) * height
            left.plot([min(ends), max(ends)], [y, y], color=color, linewidth=1)
            left.plot(speed, y, "o", color=color, markersize=4)
            left.annotate(
                number(own["figure"][0]), (max(ends), y), (5, 0), textcoords="offset points", va="center", fontsize=7
            )
            right.barh(y, own["peak"] / 1e9, height, color=color)
    left.axvline(1, color="black", linewidth=0.8)
    left.set(xscale="log", xlabel="speed, poly_agents = 1", yticks=range(len(jobs)))
    for axis in (left.xaxis.set_major_formatter, left.xaxis.set_minor_formatter):
        axis("{x:g}")
    left.set_yticklabels([f"{name}\n{job['unit']}" for name, job in jobs.items()])
    left.grid(axis="x", which="both", linewidth=0.3)
    left.invert_yaxis()
    right.set(xlabel="peak memory, GB")
    shown.legend(loc="outside lower center", ncols=3, frameon=False)
    shown.suptitle(results["machine"], fontsize=9)
    shown.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="everything in small and twice; not for figures")
    parser.add_argument("--threads", type=int, help="of torch, in every process; by default torch's own choice")
    parser.add_argument("--seconds", type=float, default=30, help="of rounds for each job")
    parser.add_argument("--rounds", type=int, default=5, help=f"at least, whatever time they take; {MOST} at most")
    parser.add_argument("--only", nargs="+", choices=[job.name for job in JOBS], metavar="JOB", help="these jobs alone")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    os.environ |= {"TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "true", "PYTHONWARNINGS": "ignore"}
    arguments.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worker = Worker("prepare", folder, arguments.quick, arguments.threads)
        results = worker.receive() | {"quick": arguments.quick, "jobs": {}}
        worker.process.join()
        for what, value in results["differences"].items():
            print(f"{what}: largest difference {value:.1e}", flush=True)
        if (worst := max(results["differences"].values())) > TOLERANCE:
            raise SystemExit(f"the sides do not compute the same: they differ by {worst:.1e}, allowed is {TOLERANCE}")
        for job in JOBS:
            if arguments.only and job.name not in arguments.only:
                continue
            found = measure(job, arguments, folder)
            own = {side: {"figure": spread(each["rates"], job.unit)} | each for side, each in found.items()}
            results["jobs"][job.name] = {"unit": job.unit, "sides": own}
            print(f"{job.name}, {job.unit}, {len(found[OURS]['rates'])} rounds", flush=True)
            for side, each in own.items():
                print(f"    {side:34}{figure(each['figure']):>36}{each['peak'] / 1e6:10,.0f} MB", flush=True)
            results["seconds"] = round(time.monotonic() - begun)
            (arguments.out / "peers.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.out / "peers.md").write_text(tables(results) + "\n")
    plot(results, arguments.out / "peers.png")
    print(f"\n{tables(results)}\n\n{results['seconds']} s in all.")


if __name__ == "__main__":
    main()
