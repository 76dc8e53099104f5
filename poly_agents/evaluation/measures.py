"""How well candidates are ranked: the field's measures, as pure functions.

Scores, relevance and mask are [B, C]; a candidate is right where its relevance is above 0. Everything follows from the
ranks of a context's P right candidates, r_1 < ... < r_P out of C, and a tie counts against the model: of equal scores
the less relevant candidate comes first, so one score for all puts the right ones last. NaN is the worst of scores for
a right candidate, the best for any other.

A measure of a context without any right candidate is 0; `measures` says NaN there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class RelevantRanks(NamedTuple):
    """The right candidates of B contexts, by rank, as many columns as the context with most of them has."""

    ranks: Tensor  # [B, P] float, rising, counted from 1; infinite where there are fewer
    columns: Tensor  # [B, P], -1 where there are fewer
    grades: Tensor  # [B, P] their relevance, 0 where there are fewer


def ranked(scores: Tensor, relevance: Tensor, mask: Tensor | None = None) -> RelevantRanks:
    """Where the right candidates stand; those that `mask` [B, C] leaves out are no candidates.

    >>> ranked(torch.tensor([[0.9, 0.5, 0.5, 0.1]]), torch.tensor([[0, 1, 0, 1]])).ranks
    tensor([[3., 4.]])
    """
    right = relevance > 0 if mask is None else (relevance > 0) & mask  # [B, C]
    if scores.isnan().any():
        scores = torch.where(scores.isnan(), torch.where(right, -torch.inf, torch.inf).to(scores.dtype), scores)
    rows, places = right.nonzero(as_tuple=True)
    counts = rows.bincount(minlength=len(scores))  # [B]
    slots = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    columns = torch.full((len(scores), max(1, *counts.tolist())), -1, device=rows.device)  # [B, P]
    columns[rows, slots] = places
    there = columns >= 0
    own = scores.gather(-1, columns.clamp(min=0))  # [B, P]
    grades = relevance.gather(-1, columns.clamp(min=0)).float() * there
    ranks = torch.empty_like(grades)
    for slot, line in enumerate(own.unbind(-1)):
        ahead = scores >= line.unsqueeze(-1)  # [B, C] itself and its ties too
        ranks[:, slot] = (ahead if mask is None else ahead & mask).count_nonzero(-1)
    slot = torch.arange(own.shape[-1], device=own.device)
    this, other = grades.unsqueeze(-1), grades.unsqueeze(-2)  # [B, P, 1], [B, 1, P]
    behind = (other > this) | ((other == this) & (slot > slot.unsqueeze(-1)))  # [B, P, P] where they are tied
    tied = (own.unsqueeze(-1) == own.unsqueeze(-2)) & there.unsqueeze(-2)
    ranks = (ranks - (tied & behind).sum(-1)).masked_fill(~there, torch.inf)
    ranks, order = ranks.sort(-1)
    return RelevantRanks(ranks, columns.gather(-1, order), grades.gather(-1, order))


def recall_any(ranks: Tensor, k: int) -> Tensor:
    """1 where a right candidate is among the best k: hits@k, and R_n@k of n candidates; [B].

    >>> recall_any(torch.tensor([[2.0, 3.0]]), 2)
    tensor([1.])
    """
    return (ranks <= k).any(-1).float()


def recall_share(ranks: Tensor, k: int) -> Tensor:
    """The right candidates among the best k, over all right ones: R_n@k as in retrieval; [B].

    >>> recall_share(torch.tensor([[2.0, 3.0]]), 2)
    tensor([0.5000])
    """
    return (ranks <= k).sum(-1) / ranks.isfinite().sum(-1).clamp(min=1)


def reciprocal_rank(ranks: Tensor) -> Tensor:
    """1 / r_1; its mean is MRR; [B].

    >>> reciprocal_rank(torch.tensor([[2.0, 3.0]]))
    tensor([0.5000])
    """
    return (1 / ranks).amax(-1)


def average_precision(ranks: Tensor) -> Tensor:
    """1/P sum_i i / r_i, the precision at each right candidate; its mean is MAP; [B].

    >>> average_precision(torch.tensor([[1.0, 4.0]]))
    tensor([0.7500])
    """
    i = torch.arange(1, ranks.shape[-1] + 1, device=ranks.device)
    return (i / ranks).sum(-1) / ranks.isfinite().sum(-1).clamp(min=1)


def ndcg(ranks: Tensor, grades: Tensor, k: int, exponential: bool = False) -> Tensor:
    """DCG over that of the best order, of the best k; [B].

        DCG = sum_i gain_i / log2(1 + r_i)  for r_i <= k;    gain = grade, or 2^grade - 1 where exponential

    >>> ndcg(torch.tensor([[1.0, 3.0]]), torch.tensor([[3.0, 0.0]]), 2)
    tensor([1.])
    """
    gains = grades.exp2() - 1 if exponential else grades
    best = torch.arange(1.0, ranks.shape[-1] + 1, device=ranks.device)
    dcg = (gains / (1 + ranks).log2() * (ranks <= k)).sum(-1)
    ideal = (gains.sort(-1, descending=True).values / (1 + best).log2() * (best <= k)).sum(-1)
    return torch.where(ideal > 0, dcg / ideal, 0.0)


def measures(ranks: Tensor, graded: RelevantRanks, ks: Sequence[int], exponential: bool = False) -> dict[str, Tensor]:
    """Every measure of B contexts by its name, [B] each; NaN where a context has no right candidate.

    `graded` is what NDCG is of; the ranks [B, P] of the right candidates are what all others are of.
    """
    found = {"rank": ranks.amin(-1), "mrr": reciprocal_rank(ranks), "map": average_precision(ranks)}
    found["p@1"] = recall_any(ranks, 1)
    found |= {f"recall_any@{k}": recall_any(ranks, k) for k in ks}
    found |= {f"recall_share@{k}": recall_share(ranks, k) for k in ks}
    none = ~ranks.isfinite().any(-1)
    found = {name: values.masked_fill(none, torch.nan) for name, values in found.items()}
    none = ~graded.ranks.isfinite().any(-1)
    gained = {f"ndcg@{k}": ndcg(graded.ranks, graded.grades, k, exponential).masked_fill(none, torch.nan) for k in ks}
    return found | gained
