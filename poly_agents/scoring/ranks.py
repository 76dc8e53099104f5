"""Scores -> ranks and the best few."""

from typing import NamedTuple

import torch
from torch import Tensor

SORTED = 4096  # up to so many scores a full, stable sort costs nothing


class Top(NamedTuple):
    """The best scores and their columns, best first."""

    values: Tensor
    indices: Tensor


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Rank of each label, [B], counted from 1; 0 where there is none. Ties count against it.

    >>> label_ranks(torch.tensor([[0.1, 0.9, 0.9]]), torch.tensor([1]))
    tensor([2])
    """
    own = scores.gather(1, labels.clamp(min=0).unsqueeze(1))
    return (~(scores < own)).sum(1) * (labels >= 0)


def top(scores: Tensor, count: int, last: Tensor | None = None) -> Top:
    """The best of a line of scores, best first; equal scores keep their order where the line is short.

    Of equal scores those that `last` [C] marks come after the others.

    >>> top(torch.tensor([0.5, 0.9, 0.5]), 2, torch.tensor([True, False, False])).indices
    tensor([1, 2])
    """
    if len(scores) <= SORTED:
        order = torch.arange(len(scores), device=scores.device)
    else:
        shown = scores
        if last is not None:
            shown = torch.where(last, scores.nextafter(torch.full((), -torch.inf, device=scores.device)), scores)
        order = shown.topk(min(count, len(scores))).indices
    if last is not None:
        order = order[last[order].int().argsort(stable=True)]
    order = order[scores[order].argsort(descending=True, stable=True)[:count]]
    return Top(scores[order], order)
