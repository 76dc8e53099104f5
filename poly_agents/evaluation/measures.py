"""Measure how well candidates are ranked, as pure functions.

Scores, relevance and mask are [B, C]. A candidate is right if its relevance is above 0. Every measure follows from the
ranks of a context's P right candidates, r_1 < ... < r_P out of C. A tie counts against the model: of equal scores the
less relevant candidate comes first, so equal scores for all put the right candidates last. NaN counts as the lowest
score for a right candidate, and as the highest for any other.

A measure is 0 for a context without a right candidate. `measures` returns NaN there, so that a mean can leave it out.
Right responses that nobody can find, because their texts are lost, are `missed`: they count in recall, MAP and NDCG as
right ones that were never ranked, and a context that has no others is 0.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class RelevantRanks(NamedTuple):
    """The right candidates of B contexts, best rank first. P is the largest number of them that a context has."""

    ranks: Tensor  # [B, P] float, rising, from 1; infinite if a context has fewer
    columns: Tensor  # [B, P] their columns in the scores; -1 if a context has fewer
    grades: Tensor  # [B, P] their relevance; 0 if a context has fewer


def ranked(scores: Tensor, relevance: Tensor, mask: Tensor | None = None) -> RelevantRanks:
    """Rank the right candidates.

    Args:
        scores: [B, C].
        relevance: [B, C], above 0 for right candidates.
        mask: False for columns that are no candidates, [B, C]. None: all are.

    >>> ranked(torch.tensor([[0.9, 0.5, 0.5, 0.1]]), torch.tensor([[0, 1, 0, 1]])).ranks
    tensor([[3., 4.]])
    """
    right = relevance > 0 if mask is None else (relevance > 0) & mask  # [B, C]
    if scores.isnan().any():
        scores = torch.where(scores.isnan(), torch.where(right, -torch.inf, torch.inf).to(scores.dtype), scores)
    columns = columns_of(right)  # [B, P]
    real = columns >= 0
    own = scores.gather(-1, columns.clamp(min=0))  # [B, P]
    grades = relevance.gather(-1, columns.clamp(min=0)).float() * real
    ranks = torch.empty_like(grades)
    for slot, score in enumerate(own.unbind(-1)):
        ahead = scores >= score.unsqueeze(-1)  # [B, C] the candidate itself and its ties too
        ranks[:, slot] = (ahead if mask is None else ahead & mask).count_nonzero(-1)
    # Of right candidates with equal scores, those that come after a candidate do not count against it.
    slot = torch.arange(own.shape[-1], device=own.device)
    this, other = grades.unsqueeze(-1), grades.unsqueeze(-2)  # [B, P, 1], [B, 1, P]
    after = (other > this) | ((other == this) & (slot > slot.unsqueeze(-1)))  # [B, P, P]
    tied = (own.unsqueeze(-1) == own.unsqueeze(-2)) & real.unsqueeze(-2)
    ranks = (ranks - (tied & after).sum(-1)).masked_fill(~real, torch.inf)
    ranks, order = ranks.sort(-1)
    return RelevantRanks(ranks, columns.gather(-1, order), grades.gather(-1, order))


def with_missed(found: RelevantRanks, missed: Sequence[Sequence[float]]) -> RelevantRanks:
    """Add right responses that are not ranked, of which each context may have some.

    Args:
        found: those that are ranked.
        missed: the grades of the others, one list for each context.

    >>> found = ranked(torch.tensor([[0.9, 0.5]]), torch.tensor([[0, 1]]))
    >>> with_missed(found, [[3.0]])
    RelevantRanks(ranks=tensor([[2., inf]]), columns=tensor([[ 1, -1]]), grades=tensor([[1., 3.]]))
    """
    width = max(map(len, missed))
    grades = torch.tensor([[*row, *[0.0] * (width - len(row))] for row in missed])  # [B, width]
    return RelevantRanks(
        torch.cat([found.ranks, torch.full_like(grades, torch.inf)], -1),
        torch.cat([found.columns, torch.full(grades.shape, -1)], -1),
        torch.cat([found.grades, grades], -1),
    )


def columns_of(right: Tensor) -> Tensor:
    """List the columns of [B, C] that are True: [B, P], filled up with -1, P at least 1.

    >>> columns_of(torch.tensor([[True, False, True], [False, True, False]]))
    tensor([[ 0,  2],
            [ 1, -1]])
    """
    rows, places = right.nonzero(as_tuple=True)
    counts = rows.bincount(minlength=len(right))  # [B]
    slots = torch.arange(len(rows), device=right.device) - (counts.cumsum(0) - counts)[rows]
    columns = torch.full((len(right), max(1, *counts.tolist())), -1, device=right.device)
    columns[rows, slots] = places
    return columns


def recall_any(ranks: Tensor, k: int) -> Tensor:
    """Return 1 if a right candidate is among the best k, else 0: hits@k, or R_n@k of n candidates, [B].

    `ranks` [B, P] are those of `RelevantRanks`, here and below.

    >>> recall_any(torch.tensor([[2.0, 3.0]]), 2)
    tensor([1.])
    """
    return (ranks <= k).any(-1).float()


def recall_share(ranks: Tensor, k: int, missed: Tensor | int = 0) -> Tensor:
    """Return the share of the right candidates that are among the best k: recall@k as in retrieval, [B].

    `missed` is the number of right responses that are not ranked, [B], here and below.

    >>> recall_share(torch.tensor([[2.0, 3.0]]), 2)
    tensor([0.5000])
    """
    return (ranks <= k).sum(-1) / (ranks.isfinite().sum(-1) + missed).clamp(min=1)


def reciprocal_rank(ranks: Tensor) -> Tensor:
    """Return 1 / r_1, [B]. Its mean is MRR.

    >>> reciprocal_rank(torch.tensor([[2.0, 3.0]]))
    tensor([0.5000])
    """
    return (1 / ranks).amax(-1)


def average_precision(ranks: Tensor, missed: Tensor | int = 0) -> Tensor:
    """Return the mean precision at the right candidates, 1/P sum_i i / r_i, [B]. Its mean is MAP.

    >>> average_precision(torch.tensor([[1.0, 4.0]]))
    tensor([0.7500])
    """
    i = torch.arange(1, ranks.shape[-1] + 1, device=ranks.device)
    return (i / ranks).sum(-1) / (ranks.isfinite().sum(-1) + missed).clamp(min=1)


def ndcg(ranks: Tensor, grades: Tensor, k: int, exponential: bool = False) -> Tensor:
    """Return the DCG of the best k, divided by the DCG of the best order, [B].

        DCG = sum_i gain_i / log2(1 + r_i)  for r_i <= k;    gain = grade, or 2^grade - 1 if `exponential`

    >>> ndcg(torch.tensor([[1.0, 3.0]]), torch.tensor([[3.0, 0.0]]), 2)
    tensor([1.])
    """
    gains = grades.exp2() - 1 if exponential else grades
    best = torch.arange(1.0, ranks.shape[-1] + 1, device=ranks.device)
    dcg = (gains / (1 + ranks).log2() * (ranks <= k)).sum(-1)
    ideal = (gains.sort(-1, descending=True).values / (1 + best).log2() * (best <= k)).sum(-1)
    return torch.where(ideal > 0, dcg / ideal, 0.0)


def measures(
    ranks: Tensor,
    graded: RelevantRanks,
    ks: Sequence[int],
    exponential: bool = False,
    missed: Tensor | int = 0,
) -> dict[str, Tensor]:
    """Compute every measure of B contexts.

    Args:
        ranks: ranks of the right candidates, [B, P]: for all measures but NDCG.
        graded: ranks and grades of the candidates with a grade, the missed ones included: for NDCG.
        ks: every k of the measures at k.
        exponential: the gain of NDCG is 2^grade - 1.
        missed: the number of right responses that are not ranked, [B].

    Returns:
        Measures by name, [B] each. They are NaN for a context without a right candidate, unless it has missed ones:
        then all but the rank are 0.
    """
    values = {"rank": ranks.amin(-1), "mrr": reciprocal_rank(ranks), "map": average_precision(ranks, missed)}
    values["p@1"] = recall_any(ranks, 1)
    values |= {f"recall_any@{k}": recall_any(ranks, k) for k in ks}
    values |= {f"recall_share@{k}": recall_share(ranks, k, missed) for k in ks}
    none_right = ~ranks.isfinite().any(-1)
    unknown = none_right & (torch.as_tensor(missed) == 0)
    values = {name: value.masked_fill(unknown, torch.nan) for name, value in values.items()}
    values["rank"] = values["rank"].masked_fill(none_right, torch.nan)
    none_graded = ~(graded.grades > 0).any(-1)
    for k in ks:
        gain = ndcg(graded.ranks, graded.grades, k, exponential)
        values[f"ndcg@{k}"] = gain.masked_fill(none_graded, torch.nan)
    return values
