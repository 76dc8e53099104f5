"""Scores -> ranks and the best few."""

import operator
from typing import NamedTuple, SupportsIndex

import torch
from torch import Tensor

from poly_agents.errors import InputError

SORTED = 4096  # up to so many scores are sorted in full, which costs nothing


class Top(NamedTuple):
    """The best scores and their columns, best first."""

    values: Tensor  # [K]
    indices: Tensor  # [K]


def check_top(top: SupportsIndex) -> int:
    """Return how many of the best are asked for. Raises ValueError unless it is a whole number of at least 1.

    >>> check_top(5)
    5
    """
    try:
        count = operator.index(top)
    except TypeError:
        count = 0
    if isinstance(top, bool) or count < 1:
        raise InputError(f"top says how many of the best to return, a whole number from 1 on; got {top!r}")
    return count


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the rank of each context's label. Ties count against the label.

    Args:
        scores: [B, C].
        labels: columns [B], -1 for a context without a label.

    Returns:
        Ranks [B], counted from 1; 0 without a label.

    >>> label_ranks(torch.tensor([[0.1, 0.9, 0.9]]), torch.tensor([1]))
    tensor([2])
    """
    label_scores = scores.gather(1, labels.clamp(min=0).unsqueeze(1))
    return (~(scores < label_scores)).sum(1) * (labels >= 0)


def top(scores: Tensor, count: int, last: Tensor | None = None) -> Top:
    """Return the best scores of one context, best first.

    Equal scores keep their order if there are at most `SORTED` of them.

    Args:
        scores: [C].
        count: how many to return.
        last: [C] bool. Of equal scores the marked ones come after the others.

    >>> top(torch.tensor([0.5, 0.9, 0.5]), 2, torch.tensor([True, False, False])).indices
    tensor([1, 2])
    """
    if len(scores) <= SORTED:
        order = torch.arange(len(scores), device=scores.device)
    else:
        lowered = scores
        if last is not None:
            lowered = torch.where(last, scores.nextafter(torch.full((), -torch.inf, device=scores.device)), scores)
        order = lowered.topk(min(count, len(scores))).indices
    if last is not None:
        order = order[last[order].int().argsort(stable=True)]
    order = order[scores[order].argsort(descending=True, stable=True)[:count]]
    return Top(scores[order], order)
