"""Report how well contexts are ranked: measures and their intervals to ParlAI, ranks and submissions to files."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from parlai.core.loader import load_teacher_module
from parlai.core.metrics import AverageMetric, Metric
from parlai.utils import logging
from torch import Tensor

from poly_agents.candidates import pool as pools
from poly_agents.candidates.pool import Pool
from poly_agents.errors import InputError
from poly_agents.evaluation.measures import RelevantRanks, measures, ranked, with_missed
from poly_agents.evaluation.ranks_file import RanksFile, finite
from poly_agents.evaluation.submissions import FORMATS, Submission, choose_format
from poly_agents.files.digests import text_digest
from poly_agents.options import Options, at_least, option
from poly_agents.scoring.ranks import top

RESAMPLES = 1000
ENDS = {"low": 0.025, "high": 0.975}
PARLAI_HITS = (1, 5, 10, 100)  # ParlAI computes these hits@k itself, from the order of the answered candidates


@dataclass(frozen=True)
class EvaluationOptions(Options):
    """Options of an evaluation: which measures are reported, and where results are written."""

    hits_at: str = option("1,2,5,10", "every k of recall_any@k (hits@k), recall_share@k and ndcg@k, comma-separated")
    ndcg_gain: str = option(
        "linear",
        "gain of a grade g in ndcg@k: linear is g (trec_eval), exponential is 2^g - 1",
        ("linear", "exponential"),
    )
    without_positive: str = option(
        "skip",
        "contexts with no right response among their candidates (--ignore-bad-candidates lets them in): skip leaves "
        "them out of every mean, as the benchmarks' scripts do; count makes them 0 in every measure but rank",
        ("skip", "count"),
    )
    eval_negatives: int = option(
        19,
        "how many responses of the same split each example is ranked against, besides its own, if the data brings no "
        "candidates; always the same ones. 0 refuses such data",
    )
    confidence: bool = option(False, "95%% intervals of every measure, by 1,000 resamples: NAME_low and NAME_high")
    ranks_file: str = option(
        "", "write a JSON line for each context: ranks and scores of its right candidates, and the best candidates"
    )
    submission: str = option("", "write a file for a leaderboard: the best candidates of each example, by their ids")
    submission_format: str = option(
        "auto", "format of --submission; auto: the one that the task's leaderboard takes", ("auto", *FORMATS)
    )

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "eval_negatives", 0)
        if not all(part.strip().isdecimal() and int(part) > 0 for part in self.hits_at.split(",")):
            raise InputError(f"--hits-at takes numbers from 1, comma-separated, got {self.hits_at!r}")

    @property
    def ks(self) -> list[int]:
        return sorted({int(part) for part in self.hits_at.split(",")})


class RankedExample(NamedTuple):
    """A context that is ranked, with what is known to be right."""

    context: str
    right: list[str]  # right responses, the main one first
    grades: dict[str, float] | None  # how good each candidate is, if the task says so
    message: Mapping[str, Any]  # as the task gave it

    @classmethod
    def of(cls, message: Mapping[str, Any], context: str) -> Self:
        """Read labels and grades of a message of ParlAI. Raises ValueError if grades and candidates do not match."""
        right = list(message.get("labels") or message.get("eval_labels") or ())
        return cls(context, right, grades_of(message), message)


class Scored(NamedTuple):
    """The candidates of B contexts and their scores."""

    pool: Pool
    scores: Tensor  # [B, C] on the CPU; minus infinity where a context has fewer candidates
    rows_of: Callable[[Sequence[str]], Sequence[int]] | None = None  # finds texts in a pool that has an index, a store
    repeats: Sequence[int] = ()  # columns whose texts earlier columns have: they are no candidates of their own

    @property
    def mask(self) -> Tensor | None:
        """Return which columns are candidates, [B, C]; None: all are."""
        if self.pool.index is None and not len(self.repeats):
            return None
        mask = torch.ones_like(self.scores, dtype=torch.bool) if self.pool.index is None else self.pool.index >= 0
        mask = mask.expand(len(self.scores), -1)
        return mask.index_fill(1, torch.as_tensor(self.repeats), False) if len(self.repeats) else mask

    def one(self, context: int) -> "Scored":
        """Return one context with its own candidates alone, B = 1."""
        row = self.pool.row(context)
        pool = Pool.without_ids(self.pool.texts, torch.tensor([list(row)]))
        return Scored(pool, self.scores[context : context + 1, : len(row)], self.rows_of, self.repeats)

    def texts(self, context: int) -> list[str]:
        """Return the candidates of a context, by column."""
        return [self.pool.texts[number] for number in self.pool.row(context)]

    def relevance(self, wanted: Sequence[Mapping[str, float]]) -> Tensor:
        """Return the grade of every candidate, [B, C], from the grades of some texts of each context."""
        return pools.relevance(self.pool, wanted, self.rows_of)


class Interval(Metric):
    """An end of the 95% interval of a mean, by Poisson bootstrap (Hanley and MacGibbon 2006).

        mean_b = sum_i w_bi x_i / sum_i w_bi,   w_bi ~ Poisson(1),   b = 1 .. 1000

    The ends are quantiles of these means. Sums of batches and of processes add up in any order, and the weights are
    drawn from the example's own text, so the interval is the same for every batch size and number of processes.
    Examples with equal context and labels get equal weights. ParlAI averages the ends over several tasks, which never
    makes them too narrow.
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


def resample_weights(key: str) -> np.ndarray:
    """Return how often an example is in each resample, [1000], drawn from its text."""
    seed = int.from_bytes(text_digest(key, 8))
    return np.random.default_rng(seed).poisson(1.0, RESAMPLES).astype(float)


class Evaluation:
    """Measures contexts batch by batch, and fills the files that were asked for."""

    @classmethod
    def of(cls, opt: Mapping[str, Any]) -> Self:
        """Make the evaluation that ParlAI's options ask for. Raises ValueError for a format that no task takes."""
        options = EvaluationOptions.of(opt)
        if options.submission:
            given = opt.get("override", opt).get("submission_format", "auto")  # a saved model has an older default
            options = replace(options, submission_format=choose_format(given, submission_formats(opt["task"])))
        return cls(options)

    def __init__(self, options: EvaluationOptions):
        self.options = options
        self.file = RanksFile(options.ranks_file) if options.ranks_file else None
        self.submission = Submission(options.submission, options.submission_format) if options.submission else None

    def record(
        self, examples: Sequence[RankedExample], scored: Scored, relevance: Tensor
    ) -> dict[str, list[Metric | None]]:
        """Measure B contexts, and write their lines of the ranks file.

        Args:
            examples: the contexts.
            scored: their candidates.
            relevance: above 0 where a candidate is right, [B, C]. Grades, where a task has them, are for NDCG alone.

        Returns:
            ParlAI's metrics by name, B of each; None where a context is in no mean.
        """
        ranks = ranked(scored.scores, relevance, scored.mask)
        graded = ranks
        if any(example.grades is not None for example in examples):
            grades = [dict.fromkeys(e.right, 1.0) if e.grades is None else e.grades for e in examples]
            graded = ranked(scored.scores, scored.relevance(grades), scored.mask)
        missed = [example.message.get("missed", ()) for example in examples]
        counts = torch.tensor([len(grades) for grades in missed])
        if counts.any():
            graded = with_missed(graded, missed)
        values = measures(ranks.ranks, graded, self.options.ks, self.options.ndcg_gain == "exponential", counts)
        values |= {f"hits@{k}": values[f"recall_any@{k}"] for k in self.options.ks if k not in PARLAI_HITS}
        if self.options.without_positive == "count":
            values |= {name: line.nan_to_num(0.0) for name, line in values.items() if name != "rank"}
        if self.file:
            self.file.write(self._rows(examples, scored, relevance, ranks))
        return self._metrics(examples, {name: line.tolist() for name, line in values.items()})

    def _metrics(
        self, examples: Sequence[RankedExample], values: dict[str, list[float]]
    ) -> dict[str, list[Metric | None]]:
        metrics: dict[str, list[Metric | None]] = {}
        for name, line in values.items():
            metrics[name] = [None if math.isnan(value) else AverageMetric(value) for value in line]
        if not self.options.confidence:
            return metrics
        weights = [resample_weights(json.dumps([example.context, *example.right])) for example in examples]
        for name, line in values.items():
            for end, quantile in ENDS.items():
                metrics[f"{name}_{end}"] = [
                    None if math.isnan(value) else Interval(quantile, value * weight, weight)
                    for value, weight in zip(line, weights, strict=True)
                ]
        return metrics

    def _rows(
        self, examples: Sequence[RankedExample], scored: Scored, relevance: Tensor, ranks: RelevantRanks
    ) -> list[dict[str, Any]]:
        """Return the lines of the ranks file."""
        lines = []
        for number, example in enumerate(examples):
            row, scores = scored.pool.row(number), scored.scores[number]
            texts = scored.pool.texts
            best, order = top(scores[: len(row)], max(self.options.ks), relevance[number, : len(row)] > 0)
            real = ranks.columns[number] >= 0
            columns = ranks.columns[number][real]
            positives = zip(columns.tolist(), ranks.ranks[number][real].tolist(), scores[columns].tolist(), strict=True)
            lines.append(
                {
                    "context": example.context,
                    "labels": example.right,
                    "candidates": len(row),
                    "positives": [
                        {"text": texts[row[c]], "rank": int(rank), "score": finite(s)} for c, rank, s in positives
                    ],
                    "top": [
                        {"text": texts[row[c]], "score": finite(s)}
                        for c, s in zip(order.tolist(), best.tolist(), strict=True)
                    ],
                }
            )
        return lines

    def close(self) -> None:
        """Finish the files, at the end of each task."""
        if self.file and self.file.close():
            logging.info(f"the ranks of every context are in {self.file.path}")
        if self.submission and self.submission.close():
            logging.info(f"the submission, in the format {self.options.submission_format}, is {self.submission.path}")


def submission_formats(tasks: str) -> dict[str, Sequence[str]]:
    """Return the formats that the leaderboard of each task takes. A task of others may have a run file, if it has ids.

    >>> submission_formats("poly_agents:mutual:plus")
    {'poly_agents:mutual:plus': ('mutual',)}
    """
    return {task: getattr(load_teacher_module(task), "SUBMISSIONS", ("trec",)) for task in tasks.split(",")}


def grades_of(message: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the grades of a message by text, or None if it has none. Equal texts get the best one.

    They are `grades`, one for each candidate, or else `label_grades`, one for each label.
    """
    if message.get("grades") is not None:
        grades, texts = message["grades"], message.get("label_candidates") or ()
    elif message.get("label_grades"):
        grades, texts = message["label_grades"], message.get("labels") or message.get("eval_labels") or ()
    else:
        return None
    if len(grades) != len(texts):
        raise InputError(f"an example of {message.get('id')} has {len(texts)} candidates and {len(grades)} grades")
    return {text: grade for text, grade in sorted(zip(texts, grades, strict=True), key=lambda pair: pair[1])}
