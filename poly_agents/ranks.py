"""Scores -> ranks and the best few."""

import torch
from torch import Tensor

SORTED = 4096  # up to so many scores a full, stable sort costs nothing


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Rank of each label, [B], counted from 1; 0 where there is none. Ties keep the candidates' order.

    >>> label_ranks(torch.tensor([[0.1, 0.9, 0.9]]), torch.tensor([2]))
    tensor([2])
    """
    columns = labels.clamp(min=0).unsqueeze(1)
    own = scores.gather(1, columns)
    before = torch.arange(scores.shape[1], device=scores.device) < columns
    ranks = 1 + ((scores > own) | ((scores == own) & before)).sum(1)
    return ranks * (labels >= 0)


def top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best of a line of scores, best first; equal scores keep their order where the line is short."""
    if len(scores) <= SORTED:
        values, order = scores.sort(descending=True, stable=True)
        return values[:count], order[:count]
    return scores.topk(min(count, len(scores)))
