"""From scores to what ParlAI gets: metrics, lines of a submission, replies. Every agent here uses these.

pool -> scores -> report -> replies
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from parlai.core.message import Message
from parlai.core.metrics import Metric
from parlai.core.torch_agent import Output
from torch import Tensor

from poly_agents.agents.repeats import Said
from poly_agents.agents.report import Evaluation, RankedExample, Scored
from poly_agents.errors import InputError
from poly_agents.scoring.ranks import top


class Answer(NamedTuple):
    """The best candidates for one context, best first."""

    texts: list[str]
    scores: list[float]


class Report(NamedTuple):
    """The metrics of B ranked contexts that have labels."""

    metrics: dict[str, list[Metric | None]]
    relevance: Tensor | None  # [B, C], above 0 where a candidate is right; None without labels


def report(evaluation: Evaluation, examples: Sequence[RankedExample], scored: Scored) -> Report:
    """Measure a batch whose contexts have labels."""
    relevance = scored.relevance([dict.fromkeys(example.right, 1.0) for example in examples])
    return Report(evaluation.record(examples, scored, relevance), relevance)


def submit(evaluation: Evaluation, examples: Sequence[RankedExample], scored: Scored, store: Any = None) -> None:
    """Add a batch to the file of `--submission`, if there is one. No labels are needed.

    Args:
        evaluation: holds the file.
        examples: the contexts.
        scored: their candidates.
        store: the store whose rows the candidates are; None: each example brings its own, with ids. A row has the `id`
            of its candidate, and in `same` those of others with the same text.

    Raises:
        ValueError: candidates or examples have no ids.
    """
    submission = evaluation.submission
    if not submission:
        return
    for number, (example, line) in enumerate(zip(examples, scored.scores, strict=True)):
        row = scored.pool.row(number)
        line = line[: len(row)]
        message = example.message
        example_id, task = message.get("example_id"), message.get("id", "the task")
        if store is not None:
            values, order = top(line, submission.format.limit)
            found = [(store[row[column]], value) for column, value in zip(order.tolist(), values.tolist(), strict=True)]
            ids, values = zip(*((i, v) for c, v in found for i in (c.get("id"), *c.get("same", ()))), strict=True)
            submission.add(example_id, ids, values, line.double().logsumexp(0).item(), task)
        elif scored.pool.index is None:
            raise InputError("--submission needs candidates with ids: the task's own (-ecands inline) or a store's")
        else:
            texts = (scored.pool.texts[candidate].strip() for candidate in row)
            score_of = dict(zip(texts, line.tolist(), strict=True))
            own = message.get("label_candidates") or ()
            ids = message.get("candidate_ids") or [None] * len(own)
            submission.add(example_id, ids, [score_of[text.strip()] for text in own], task=task)


def best_answers(
    scored: Scored, limit: int, said: Sequence[Said] | None = None, relevance: Tensor | None = None
) -> list[Answer]:
    """Return the best candidates of each context.

    Args:
        scored: B contexts with their candidates.
        limit: how many candidates of each.
        said: what is left out, unless nothing else is left.
        relevance: of equal scores the right candidates come last, [B, C], so ParlAI's hits@k do not reward a tie.
    """
    answers = []
    for number, line in enumerate(scored.scores):
        row = scored.pool.row(number)
        avoided = said[number] if said else ()
        last = None if relevance is None else relevance[number, : len(row)] > 0
        best, order = top(line[: len(row)], limit + len(avoided), last)
        pairs = [
            (scored.pool.texts[row[column]], score) for column, score in zip(order.tolist(), best.tolist(), strict=True)
        ]
        new = [pairs[place] for place in avoided.new([text for text, _ in pairs])] if avoided else pairs
        answers.append(Answer([text for text, _ in new[:limit]], [score for _, score in new[:limit]]))
    return answers


def output(chosen: Sequence[Answer], opt, draw: random.Random) -> Output:
    """Make what ParlAI's `eval_step` returns. `draw` samples the reply for `--inference topk`."""
    texts, scores = [answer.texts for answer in chosen], [answer.scores for answer in chosen]
    if opt["inference"] == "topk":
        replies = [draw.choice(row[: opt["topk"]]) for row in texts]
    else:
        replies = [row[0] for row in texts]
    result = Output(replies, texts, candidate_scores=scores)
    if opt["return_cand_scores"]:
        result["sorted_scores"] = scores
    if opt["show_candidates"] and not opt.get("interactive_mode"):
        result["ranking"] = [lines(answer, opt["show_candidates"]) for answer in chosen]
    return result


def count_with_said(limit: int, said: Sequence[Said] | None) -> int:
    """Return how many candidates to search for, so that `limit` are left without those that were already said."""
    most_said = max(map(len, said)) if said else 0
    return limit + most_said


def lines(answer: Answer, count: int) -> list[str]:
    """Format the best few as `   12.34  text`."""
    pairs = list(zip(answer.scores, answer.texts, strict=True))[:count]
    return [f"{score:9.3f}  {text}" for score, text in pairs]


def show(reply: Message, count: int) -> Message:
    """Append the best `count` candidates to the text of a reply in a chat. The history keeps the reply alone."""
    if count and reply.get("text_candidates"):
        shown = lines(Answer(reply["text_candidates"], reply["candidate_scores"]), count)
        reply.force_set("text", "\n".join([reply["text"], *shown]))
    return reply
