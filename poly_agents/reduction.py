"""Token states to one vector: what a candidate, and a bi-encoder's context, is kept as."""

from dataclasses import dataclass

import torch
from torch import Tensor

from poly_agents import maths
from poly_agents.options import at_least, option
from poly_agents.ranker import RankerOptions

REDUCTIONS = ("first", "mean", "first-m", "max")


@dataclass(frozen=True)
class ReductionOptions(RankerOptions):
    reduction: str = option("mean", "token states to one vector", REDUCTIONS)
    reduction_tokens: int = option(16, "m of --reduction first-m")

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "reduction_tokens", 1)

    def reduce(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Token states [N, L, D] to one vector each, [N, D]: the first, the largest numbers, a mean of all or m."""
        if self.reduction == "first":
            return hidden[:, 0]
        if self.reduction == "max":
            return hidden.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1)
        m = self.reduction_tokens if self.reduction == "first-m" else None
        return maths.mean(hidden[:, :m], mask[:, :m])
