"""What an evaluation reports of every ranked context, to ParlAI and to a file: measures, their intervals, the ranks."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from parlai.core.metrics import AverageMetric, Metric
from torch import Tensor

from poly_agents import processes
from poly_agents.evaluation.measures import RelevantRanks, measures, ranked
from poly_agents.evaluation.submissions import FORMATS, Submission
from poly_agents.options import Options, option
from poly_agents.scoring.ranks import top

RESAMPLES = 1000
ENDS = {"low": 0.025, "high": 0.975}
PARLAI_HITS = (1, 5, 10, 100)  # its own hits@k, which go by the order of the candidates that are answered


@dataclass(frozen=True)
class EvaluationOptions(Options):
    """What is measured, and where it goes."""

    hits_at: str = option("1,2,5,10", "every k of recall_any@k (hits@k), recall_share@k and ndcg@k, parted by commas")
    ndcg_gain: str = option(
        "linear", "of a grade g in ndcg@k; linear: g (trec_eval), exponential: 2^g - 1", ("linear", "exponential")
    )
    without_positive: str = option(
        "skip",
        "contexts without a right response among their candidates, where --ignore-bad-candidates lets them in; skip: "
        "they are in no mean, as in the benchmarks' scripts, count: they are 0 in every mean but rank's",
        ("skip", "count"),
    )
    confidence: bool = option(False, "95%% intervals, by 1,000 resamples, of every measure: NAME_low, NAME_high")
    ranks_file: str = option(
        "", "a JSON line for each evaluated context: its right candidates' ranks and scores, and the best candidates"
    )

    submission: str = option("", "write a file for a leaderboard: the best candidates of each example, by their ids")
    submission_format: str = option("trec", "of --submission; which of them a task's is, tasks/README.md says", FORMATS)

    def __post_init__(self):
        super().__post_init__()
        if not all(part.strip().isdecimal() and int(part) > 0 for part in self.hits_at.split(",")):
            raise ValueError(f"--hits-at takes numbers from 1, parted by commas, got {self.hits_at!r}")

    @property
    def ks(self) -> list[int]:
        return sorted({int(part) for part in self.hits_at.split(",")})


class Interval(Metric):
    """An end of the 95% interval of a mean, by Poisson bootstrap (Hanley and MacGibbon 2006).

        mean_b = sum_i w_bi x_i / sum_i w_bi,   w_bi ~ Poisson(1),   b = 1 .. 1000

    The ends are quantiles of the means. Sums of batches and of processes add up, in any order, and the weights are
    drawn from the example's own text: the interval is the same for every batch size and number of processes. Examples
    alike in context and labels weigh as one. Of several tasks ParlAI averages the ends: never too narrow.
    """

    __slots__ = ("quantile", "sums", "weights")
    macro_average = True

    def __init__(self, quantile: float, sums: np.ndarray, weights: np.ndarray):
        self.quantile, self.sums, self.weights = quantile, sums, weights

    def __add__(self, other: "Interval | None") -> "Interval":
        if other is None:
            return self
        return Interval(self.quantile, self.sums + other.sums, self.weights + other.weights)

    def value(self) -> float:
        drawn = self.weights > 0  # a resample of few examples may have none
        if not drawn.any():
            return math.nan
        return float(np.quantile(self.sums[drawn] / self.weights[drawn], self.quantile))


def draw(key: str) -> np.ndarray:
    """How often an example is in each resample, [1000]."""
    seed = int.from_bytes(hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8).digest())
    return np.random.default_rng(seed).poisson(1.0, RESAMPLES).astype(float)


class RankedContext(NamedTuple):
    """One context that was ranked."""

    context: str
    labels: Sequence[str]
    text: Callable[[int], str]  # of a column


class Evaluation:
    """Measures contexts, batch by batch."""

    def __init__(self, options: EvaluationOptions):
        self.options = options
        self.file = RanksFile(options.ranks_file) if options.ranks_file else None
        self.submission = Submission(options.submission, options.submission_format) if options.submission else None

    def record(
        self,
        asked: Sequence[RankedContext],
        scores: Tensor,
        right: Tensor,
        mask: Tensor | None,
        grades: Tensor | None = None,
    ) -> dict[str, list[Metric | None]]:
        """ParlAI's metrics of B contexts by name, from scores, relevance and mask [B, C]; None: not in the mean."""
        places = ranked(scores, right, mask)
        graded = places if grades is None else ranked(scores, grades, mask)
        found = measures(places.ranks, graded, self.options.ks, self.options.ndcg_gain == "exponential")
        found |= {f"hits@{k}": found[f"recall_any@{k}"] for k in self.options.ks if k not in PARLAI_HITS}
        if self.options.without_positive == "count":
            found |= {name: values.nan_to_num(0.0) for name, values in found.items() if name != "rank"}
        if self.file:
            self.file.write(self._rows(asked, scores, right, mask, places))
        metrics: dict[str, list[Metric | None]] = {}
        weights = [draw(json.dumps([a.context, *a.labels])) for a in asked] if self.options.confidence else None
        for name, values in ((name, values.tolist()) for name, values in found.items()):
            metrics[name] = [None if math.isnan(x) else AverageMetric(x) for x in values]
            if weights:
                parts = [None if math.isnan(x) else (x * w, w) for x, w in zip(values, weights, strict=True)]
                for end, quantile in ENDS.items():
                    metrics[f"{name}_{end}"] = [part and Interval(quantile, *part) for part in parts]
        return metrics

    def _rows(self, asked, scores: Tensor, right: Tensor, mask: Tensor | None, places: Ranked) -> list[dict[str, Any]]:
        count = max(self.options.ks)
        sizes = [scores.shape[-1]] * len(asked) if mask is None else mask.sum(-1).tolist()
        rows = []
        for number, (one, size) in enumerate(zip(asked, sizes, strict=True)):
            values, order = top(scores[number, :size], count, right[number, :size] > 0)
            there = places.columns[number] >= 0
            columns = places.columns[number][there]
            positives = zip(
                columns.tolist(), places.ranks[number][there].tolist(), scores[number][columns].tolist(), strict=True
            )
            rows.append(
                {
                    "context": one.context,
                    "labels": list(one.labels),
                    "candidates": size,
                    "positives": [{"text": one.text(c), "rank": int(r), "score": finite(s)} for c, r, s in positives],
                    "top": [
                        {"text": one.text(c), "score": finite(s)}
                        for c, s in zip(order.tolist(), values.tolist(), strict=True)
                    ],
                }
            )
        return rows

    def close(self) -> None:
        """A task is evaluated: its files are whole."""
        if self.file:
            self.file.close()
        if self.submission:
            self.submission.close()


class RanksFile:
    """JSON lines, written to FILE.part, which takes the name FILE when a task is through; later tasks are added.

    With several processes each has its own: FILE.0, FILE.1, ...
    """

    def __init__(self, path: str):
        self.path = Path(path if processes.count() == 1 else f"{path}.{processes.rank()}")
        self.part = Path(f"{self.path}.part")
        self.mode = "w"
        self.open: TextIO | None = None

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Lines appear whole, a batch at a time."""
        if not self.open:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.mode == "a":
                os.replace(self.path, self.part)
            self.open = self.part.open(self.mode, encoding="utf-8")
        self.open.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self.open.flush()

    def close(self) -> None:
        """Give what was written its name."""
        if self.open:
            self.open.close()
            os.replace(self.part, self.path)
            self.open, self.mode = None, "a"


def labels_of(message: Mapping[str, Any]) -> list[str]:
    """The right responses of a message, the main one first."""
    return list(message.get("labels") or message.get("eval_labels") or ())


def grades_of(message: Mapping[str, Any]) -> dict[str, float] | None:
    """The grade of each candidate of a message that brings `grades`; of equal candidates the best."""
    if message.get("grades") is None:
        return None
    grades, texts = message["grades"], message.get("label_candidates") or ()
    if len(grades) != len(texts):
        raise ValueError(f"an example of {message.get('id')} has {len(texts)} candidates and {len(grades)} grades")
    return {text: grade for text, grade in sorted(zip(texts, grades, strict=True), key=lambda pair: pair[1])}


def finite(score: float) -> float | None:
    """JSON has no infinity."""
    return score if math.isfinite(score) else None
