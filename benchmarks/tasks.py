"""Train and evaluate on real data sets through the `parlai` command line: bi, poly and cross for the same time.

    python benchmarks/tasks.py --data FOLDER --seconds 600 [--only wikiqa ...] [--rankers bi cross]

FOLDER holds `mutual`, `wikiqa`, `insuranceqa`, `ubuntu_irc` and `scifact`, each as its task in `tasks/` reads it. On
SciFact the ranker re-ranks the hundred documents that the untrained MiniLM finds in the corpus (`--beir-run`, made
here), trained on the training judgements. Writes `results/tasks.{json,md}`: hits@1 with its 95% interval, MAP, MRR and
NDCG@10 beside published numbers; data sets that are not run keep the rows they have. MiniLM was tuned on data that
resemble some of these before it came here.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from poly_agents.agents.teachers.reading import json_object
from poly_agents.candidates.search import Search, SearchOptions
from poly_agents.files.atomic import write_text
from poly_agents.tasks.beir import documents, write_run

RESULTS = Path(__file__).parent / "results"
PARLAI = Path(sys.executable).with_name("parlai")
QUIET = {"TOKENIZERS_PARALLELISM": "true", "PYTHONWARNINGS": "ignore"}
MEASURES = ("hits@1", "map", "mrr", "ndcg@10")
SPARE = "--evaltask poly_agents:chitchat"  # training evaluates on valid and test when it ends, some sets lack one
ENDS = ("low", "high")  # of the interval of hits@1
UNTRAINED = "MiniLM, untrained"
DEPTH = 100  # documents of a query that are ranked again
TAUGHT = 8  # of them, in training


@dataclass(frozen=True)
class Job:
    """A data set: how to read it, train on it and measure, and what was published on it."""

    task: str
    split: str
    lengths: str
    published: str
    inline: bool = False  # train against the candidates of the example, not against the batch's
    rankers: tuple[str, ...] = ("bi", "poly", "cross")


JOBS = {
    "mutual": Job("mutual", "valid", "200 50", "dev R@1 .657 (BERT), .695 (RoBERTa; Cui et al. 2020)", inline=True),
    "wikiqa": Job("wikiqa", "test", "32 96", "test MAP .652, MRR .665 (CNN); .920, .933 (TandA)", inline=True),
    "insuranceqa": Job("insuranceqa", "valid", "32 128", "test top-1 .653 (CNN, on other pools of 500)"),
    "ubuntu_irc": Job("ubuntu_irc", "valid", "128 48", "none on these candidates"),
    "scifact": Job(
        "beir", "test", "64 256", "NDCG@10 .688 (BM25, then a cross-encoder; Thakur et al. 2021)", True, ("cross",)
    ),
}


def parlai(command: str) -> None:
    """Print a command and run it. Raises CalledProcessError if it fails."""
    print(f"$ parlai {command}", flush=True)
    subprocess.run([PARLAI, *shlex.split(command)], check=True, env=os.environ | QUIET, stdout=subprocess.DEVNULL)


def first_stage(data: Path, out: Path) -> None:
    """Search the corpus for every query with the untrained encoder, and write the run."""
    from retrieval import untrained

    model = untrained("auto", 256)
    with tempfile.TemporaryDirectory() as folder:
        search = Search(model.index(Path(folder, "store"), documents(data)), SearchOptions())
        queries = [json_object(line) for line in (data / "queries.jsonl").read_text("utf-8").splitlines() if line]
        found = {row["_id"]: model.search(row["text"], search, DEPTH + 1) for row in queries}
    write_run(out, {query: [(each.candidate["id"], each.score) for each in best] for query, best in found.items()})


def train(job: Job, ranker: str, data: str, seconds: float, folder: Path) -> str:
    """Train one ranker for some seconds. Returns its model file."""
    text, label = job.lengths.split()
    size = "-bs 8" if ranker == "cross" else "-bs 32"
    inline = "-cands inline" if job.inline else ""
    parlai(
        f"train_model -m poly_agents/{ranker} {data} -mf {folder}/{ranker} {size} {inline} --text-truncate {text} "
        f"--label-truncate {label} --max-train-time {seconds} --warmup-updates 20 --validation-every-n-epochs -1 "
        f"--validation-max-exs 16 --short-final-eval true --ignore-bad-candidates true --loglevel warn {SPARE}"
    )
    return f"{folder}/{ranker}"


def evaluate(job: Job, model: str, data: str, examples: int, folder: Path) -> dict:
    """Return what `parlai eval_model` reports on the first examples."""
    report = folder / "report.json"
    parlai(
        f"eval_model {model} {data} -dt {job.split} -ne {examples} -bs 16 -ecands inline --ignore-bad-candidates true "
        f"--confidence true --report-filename {report} --loglevel warn"
    )
    found = json.loads(report.read_text())["report"]
    interval = {name: found[f"recall_any@1_{name}"] for name in ENDS}
    return {name: found[name] for name in MEASURES} | interval | {"contexts": found["exs"]}


def table(results: list[dict]) -> str:
    head = f"| data set | ranker | seconds | contexts | {' | '.join(MEASURES)} | published |"
    lines = [head, "| --- | --- | ---: | ---: |" + " ---: |" * len(MEASURES) + " --- |"]
    for row in results:
        cells = [f"{row[name]:.3f}" for name in MEASURES]
        cells[0] += f" ({row['low']:.3f} to {row['high']:.3f})"
        first = f"{row['data']} | {row['ranker']} | {row['seconds']:g} | {row['contexts']}"
        lines.append(f"| {first} | {' | '.join(cells)} | {row['published']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder for each data set")
    parser.add_argument("--seconds", type=float, default=600, help="of training, for each ranker")
    parser.add_argument("--examples", type=int, default=-1, help="evaluate on the first; -1: on all")
    parser.add_argument("--only", nargs="+", choices=JOBS, default=list(JOBS), help="these data sets alone")
    parser.add_argument("--rankers", nargs="+", choices=("bi", "poly", "cross"), help="these rankers alone")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the table goes")
    given = parser.parse_args()

    file = given.out / "tasks.json"
    before = json.loads(file.read_text()) if file.exists() else []
    results = [row for row in before if row["data"] not in given.only]
    for name in given.only:
        job, place = JOBS[name], given.data / name
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            data = taught = f"-t poly_agents:{job.task} --data-files {shlex.quote(str(place))}"
            if job.task == "beir":
                first_stage(place, folder / "run.txt")
                data, taught = (f"{data} --beir-run {folder}/run.txt --beir-top {top}" for top in (DEPTH, TAUGHT))
            text, label = job.lengths.split()
            start = f"-m poly_agents/bi --text-truncate {text} --label-truncate {label}"
            rows = {UNTRAINED: evaluate(job, start, data, given.examples, folder)}
            for ranker in given.rankers or job.rankers:
                model = train(job, ranker, taught, given.seconds, folder)
                rows[ranker] = evaluate(job, f"-mf {model}", data, given.examples, folder)
        for ranker, row in rows.items():
            seconds = 0 if ranker == UNTRAINED else given.seconds
            results.append({"data": name, "ranker": ranker, "seconds": seconds, "published": job.published} | row)
        write_text(file, json.dumps(results, indent=1) + "\n")
        write_text(given.out / "tasks.md", table(results))
    print(table(results))


if __name__ == "__main__":
    main()
