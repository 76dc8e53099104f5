"""Token states to one vector: what a candidate, and a bi-encoder's context, is kept as."""

from dataclasses import dataclass

import torch
from torch import Tensor

from poly_agents.options import at_least, option
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import RankerOptions

REDUCTIONS = ("first", "mean", "max", "sqrt", "first-m")


@dataclass(frozen=True)
class ReductionOptions(RankerOptions):
    reduction: str = option(None, "token states to one vector", REDUCTIONS, fallback="mean")
    reduction_tokens: int = option(16, "m of --reduction first-m")

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "reduction_tokens", 1)

    def reduce(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Token states [N, L, D] to one vector each, [N, D].

        The first; the mean; the largest of each number; the sum by the root of how many (sqrt); the mean of the first
        m.
        """
        if self.reduction == "first":
            return hidden[:, 0]
        if self.reduction == "max":
            return hidden.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(-2)
        if self.reduction == "sqrt":
            return maths.mean(hidden, mask) * mask.sum(-1, keepdim=True).sqrt()
        m = self.reduction_tokens if self.reduction == "first-m" else None
        return maths.mean(hidden[:, :m], mask[:, :m])
