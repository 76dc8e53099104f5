"""Write files for leaderboards: the best candidates of every example, in the format of each benchmark.

    parlai eval_model -mf MODEL -t poly_agents:mutual -dt test --submission answers.txt

The format is the one that the task's leaderboard takes. Examples and candidates are named by their ids. A task gives
them in the fields `example_id` and `candidate_ids` of its messages, and a file of `-fcp` as the `id` of each candidate.
Labels are not needed.

    dstc7    a JSON list of {"example-id", "candidate-ranking": [{"candidate-id", "confidence"}]}, the best 100
             (https://ibm.github.io/dstc-noesis); the confidences of all candidates of an example add up to 1
    msmarco  `query TAB passage TAB rank`, the best 1,000
    mutual   `example TAB A TAB C TAB B TAB D`, all candidates, best first (https://github.com/Nealcly/MuTual)
    trec     `query Q0 document rank score tag`, the best 1,000, as trec_eval and BEIR's tools read it
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import NamedTuple

from poly_agents import processes
from poly_agents.errors import InputError
from poly_agents.files import atomic

Id = str | int


class Ranking(NamedTuple):
    """The best candidates of one example."""

    example: Id
    candidates: list[Id]  # best first
    scores: list[float]  # one for each candidate
    total: float  # log of the sum of exp(score) over all candidates of the example

    def rows(self) -> list[tuple[int, Id, float]]:
        """Return rank, candidate and score, best first.

        >>> Ranking("q1", ["d7", "d2"], [0.5, 0.1], 1.0).rows()
        [(1, 'd7', 0.5), (2, 'd2', 0.1)]
        """
        return list(zip(range(1, len(self.scores) + 1), self.candidates, self.scores, strict=True))


# --- formats ----------------------------------------------------------------------------------------------------------


def dstc7(rankings: Sequence[Ranking]) -> str:
    """Write the format of DSTC7. A confidence is a candidate's share of the softmax over all scores of the example."""
    listed = [
        {
            "example-id": ranking.example,
            "candidate-ranking": [
                {"candidate-id": candidate, "confidence": math.exp(score - ranking.total)}
                for _, candidate, score in ranking.rows()
            ],
        }
        for ranking in rankings
    ]
    return json.dumps(listed, indent=1) + "\n"


def msmarco(rankings: Sequence[Ranking]) -> str:
    """Write the format of MS MARCO.

    >>> msmarco([Ranking("q1", ["d7"], [0.5], 0.5)])
    'q1\\td7\\t1\\n'
    """
    return "".join(f"{r.example}\t{candidate}\t{rank}\n" for r in rankings for rank, candidate, _ in r.rows())


def mutual(rankings: Sequence[Ranking]) -> str:
    """Write the format of MuTual.

    >>> mutual([Ranking("test_1", ["B", "A", "D", "C"], [3.0, 2.0, 1.0, 0.0], 3.4)])
    'test_1\\tB\\tA\\tD\\tC\\n'
    """
    return "".join("\t".join(map(str, (ranking.example, *ranking.candidates))) + "\n" for ranking in rankings)


def trec(rankings: Sequence[Ranking]) -> str:
    """Write the format of trec_eval.

    >>> trec([Ranking("q1", ["d7"], [0.5], 0.5)])
    'q1 Q0 d7 1 0.500000 poly_agents\\n'
    """
    return "".join(
        f"{r.example} Q0 {candidate} {rank} {score:.6f} poly_agents\n"
        for r in rankings
        for rank, candidate, score in r.rows()
    )


class SubmissionFormat(NamedTuple):
    """The file format of a leaderboard."""

    write: Callable[[Sequence[Ranking]], str]
    limit: int  # candidates of an example, at most
    columns: bool  # ids are columns of a line, so they have no spaces


FORMATS = {
    "dstc7": SubmissionFormat(dstc7, 100, False),
    "msmarco": SubmissionFormat(msmarco, 1000, True),
    "mutual": SubmissionFormat(mutual, 4, True),
    "trec": SubmissionFormat(trec, 1000, True),
}


def choose_format(given: str, allowed: Mapping[str, Sequence[str]]) -> str:
    """Choose the format of a file.

    Args:
        given: a name of `FORMATS`, or `auto`: the first that all tasks allow.
        allowed: the formats of each task's leaderboard, by the name of the task.

    Raises:
        ValueError: a task has no such format, or none at all.

    >>> choose_format("auto", {"msmarco": ["msmarco", "trec"], "beir": ["trec"]})
    'trec'
    """
    for task, formats in allowed.items():
        if not formats:
            raise InputError(
                f"--submission: {task} has no ids that a leaderboard knows; --ranks-file writes the ranks of any task"
            )
        if given not in ("auto", *formats):
            raise InputError(
                f"--submission-format {given} is not for {task}: give {' or '.join(formats)}, or leave it out"
            )
    shared = [name for name in FORMATS if all(name in formats for formats in allowed.values())]
    first = next(iter(allowed.values()))[0]
    if not shared:
        raise InputError(f"--submission: {', '.join(allowed)} have no format in common; evaluate one task at a time")
    return given if given != "auto" else first if first in shared else shared[0]


# --- the file ---------------------------------------------------------------------------------------------------------


class Submission:
    """The file that an evaluation writes when a task is finished. Rankings of a later task are added to it.

    Several processes write one file, in the order of the examples.
    """

    def __init__(self, path: str, format_name: str):
        self.path, self.format = path, FORMATS[format_name]
        self.written: list[Ranking] = []
        self.new: list[Ranking] = []  # rankings of this process since the last `close`

    def add(
        self,
        example: Id | None,
        candidates: Sequence[Id | None],
        scores: Sequence[float],
        total: float | None = None,
        task: str = "the task",
    ) -> None:
        """Add the ranking of an example. Only as many candidates are kept as the format takes.

        Args:
            example: id of the example.
            candidates: ids of its candidates, in any order.
            scores: their scores.
            total: log of the sum of exp(score) over all candidates. None: there are no other candidates.
            task: name of the task, for the error.

        Raises:
            ValueError: the example or a candidate has no id, or one that the format cannot hold.
        """
        if example is None or any(candidate is None for candidate in candidates):
            raise InputError(
                f"--submission: {'an example' if example is None else 'a candidate'} of {task} has no id that a "
                "leaderboard knows; --ranks-file writes the ranks of any task"
            )
        if self.format.columns and (bad := [i for i in (example, *candidates) if len(str(i).split()) != 1]):
            raise InputError(f"--submission: the id {bad[0]!r} of {task} is empty or has a space: no column takes it")
        total = log_sum_exp(scores) if total is None else total
        order = sorted(range(len(candidates)), key=lambda place: -scores[place])[: self.format.limit]
        self.new.append(Ranking(example, [candidates[i] for i in order], [scores[i] for i in order], total))

    def close(self) -> bool:
        """Write the file. Every process has to call this, equally often. Returns False if there is nothing new."""
        parts = processes.all_gather(self.new)
        gathered = [ranking for ranking in chain(*zip_longest(*parts)) if ranking]  # each had every n-th example
        self.new = []
        if gathered:
            self.written += gathered
            if processes.rank() == 0:
                atomic.write_text(self.path, self.format.write(self.written))
        return bool(gathered)


def log_sum_exp(scores: Sequence[float]) -> float:
    """Compute the logarithm of the sum of exp(score).

    >>> log_sum_exp([0.0, 0.0]) == math.log(2)
    True
    """
    largest = max(scores)
    return largest + math.log(math.fsum(math.exp(score - largest) for score in scores))
