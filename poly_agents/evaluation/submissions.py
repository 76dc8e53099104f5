"""Files for leaderboards: what is ranked best for every example, as each benchmark takes it.

    parlai eval_model -mf MODEL -t poly_agents:mutual -dt test --submission answers.txt --submission-format mutual

A task names its examples and candidates in the fields `example_id` and `candidate_ids` of its messages; a pool of
`-fcp` names its candidates by the `id` they have in it. Labels are not needed.

    dstc7    a JSON list of {"example-id", "candidate-ranking": [{"candidate-id", "confidence"}]}, the best 100
             (https://ibm.github.io/dstc-noesis); confidence is a candidate's share of the softmax over all scores
    msmarco  `query TAB passage TAB rank`, the best 1,000
    mutual   `example TAB A TAB C TAB B TAB D`, all of them, best first (https://github.com/Nealcly/MuTual)
    trec     `query Q0 document rank score tag`, the best 1,000: what trec_eval and BEIR's tools read
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from poly_agents import processes
from poly_agents.files import atomic

Id = str | int


class Ranking(NamedTuple):
    """The best candidates of one example."""

    example: Id
    candidates: list[Id]  # best first
    scores: list[float]  # theirs
    total: float  # log of the sum of exp(score) over all candidates

    def rows(self) -> list[tuple[int, Id, float]]:
        return list(zip(range(1, len(self.scores) + 1), self.candidates, self.scores, strict=True))


def dstc7(rankings: Sequence[Ranking]) -> str:
    """Confidences of an example add up to 1 over all its candidates."""
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
    return "".join(f"{r.example}\t{candidate}\t{rank}\n" for r in rankings for rank, candidate, _ in r.rows())


def mutual(rankings: Sequence[Ranking]) -> str:
    """
    >>> mutual([Ranking("test_1", ["B", "A", "D", "C"], [3.0, 2.0, 1.0, 0.0], 3.4)])
    'test_1\\tB\\tA\\tD\\tC\\n'
    """
    return "".join("\t".join(map(str, (ranking.example, *ranking.candidates))) + "\n" for ranking in rankings)


def trec(rankings: Sequence[Ranking]) -> str:
    """
    >>> trec([Ranking("q1", ["d7"], [0.5], 0.5)])
    'q1 Q0 d7 1 0.500000 poly_agents\\n'
    """
    return "".join(
        f"{r.example} Q0 {candidate} {rank} {score:.6f} poly_agents\n"
        for r in rankings
        for rank, candidate, score in r.rows()
    )


class SubmissionFormat(NamedTuple):
    write: Callable[[Sequence[Ranking]], str]
    limit: int  # candidates of an example, at most


FORMATS = {
    "dstc7": SubmissionFormat(dstc7, 100),
    "msmarco": SubmissionFormat(msmarco, 1000),
    "mutual": SubmissionFormat(mutual, 4),
}
FORMATS["trec"] = SubmissionFormat(trec, 1000)


class Submission:
    """The file that an evaluation fills: written when a task is through, a later task is added.

    Several processes make one file, in the order of the examples.
    """

    def __init__(self, path: str, name: str):
        self.path, self.format = path, FORMATS[name]
        self.rankings: list[Ranking] = []
        self.new: list[Ranking] = []

    def add(self, message: Mapping[str, Any], ids: Sequence[Id | None], scores: Sequence[float], total: float) -> None:
        """Candidates of a message's example, in any order, and the `total` that their probabilities are of."""
        example = message.get("example_id")
        if example is None or any(candidate is None for candidate in ids):
            raise ValueError(
                f"--submission: {'an example' if example is None else 'a candidate'} of {message.get('id')} has no id "
                "that a leaderboard knows; --ranks-file writes the ranks of any task"
            )
        order = sorted(range(len(ids)), key=lambda place: -scores[place])[: self.format.limit]
        self.new.append(Ranking(example, [ids[i] for i in order], [scores[i] for i in order], total))

    def add_own(self, message: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """The candidates that a message brings, by the scores of their texts; equal texts have one score."""
        texts = message.get("label_candidates") or ()
        ids = message.get("candidate_ids") or [None] * len(texts)
        own = [scores[text.strip()] for text in texts]
        self.add(message, ids, own, log_sum_exp(own))

    def close(self) -> None:
        """Write all there is; called by every process, as often by each."""
        parts = processes.all_gather(self.new)
        found = [ranking for ranking in chain(*zip_longest(*parts)) if ranking]  # each process had every n-th example
        self.new = []
        if found:
            self.rankings += found
            if processes.rank() == 0:
                atomic.write_text(self.path, self.format.write(self.rankings))


def log_sum_exp(scores: Sequence[float]) -> float:
    most = max(scores)
    return most + math.log(math.fsum(math.exp(score - most) for score in scores))
