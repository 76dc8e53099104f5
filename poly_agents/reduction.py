"""Token states to one vector: what a candidate, and a bi-encoder's context, is kept as."""

from dataclasses import dataclass

from torch import Tensor

from poly_agents import maths
from poly_agents.options import at_least, option
from poly_agents.ranker import RankerOptions


@dataclass(frozen=True)
class ReductionOptions(RankerOptions):
    reduction: str = option("mean", "token states to one vector", ("first", "mean", "first-m"))
    reduction_tokens: int = option(16, "m of --reduction first-m")

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "reduction_tokens", 1)

    def reduce(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Token states [N, L, D] to one vector each, [N, D]: the first, the mean, or the mean of the first m."""
        if self.reduction == "first":
            return hidden[:, 0]
        m = self.reduction_tokens if self.reduction == "first-m" else None
        return maths.mean(hidden[:, :m], mask[:, :m])
