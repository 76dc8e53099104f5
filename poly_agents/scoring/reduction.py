"""Token states -> one vector for each text."""

import dataclasses
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from poly_agents.errors import InputError
from poly_agents.options import at_least, option
from poly_agents.scoring import maths
from poly_agents.scoring.ranker_options import RankerOptions

REDUCTIONS = ("first", "last", "mean", "max", "sqrt", "first-m")


@dataclass(frozen=True)
class ReductionOptions(RankerOptions):
    """Options of rankers that make one vector of a text."""

    reduction: str = option(
        None,
        "how the states of a text's tokens become one vector: the first state; the last one, which a decoder needs; "
        "the mean; the largest of each dimension (max); the sum over the root of the length (sqrt); the mean of the "
        "first --reduction-tokens (first-m)",
        REDUCTIONS,
        fallback="mean",
    )
    reduction_tokens: int = option(16, "how many states --reduction first-m takes the mean of")

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "reduction_tokens", 1)

    def over_decoder(self) -> Self:
        if self.reduction in ("first", "first-m"):
            raise InputError(
                f"--reduction {self.reduction}: the backbone reads from left to right, so its first states know "
                "nothing of the rest of the text; give --reduction last or mean"
            )
        return dataclasses.replace(super().over_decoder(), reduction=self.reduction or "last")

    def reduce(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Reduce token states [N, L, D] with their mask [N, L] to one vector each, [N, D]."""
        if self.reduction == "first":
            return hidden[:, 0]
        if self.reduction == "last":
            last = (mask.sum(-1) - 1).clamp(min=0)  # [N]
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
        if self.reduction == "max":
            return hidden.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(-2)
        if self.reduction == "sqrt":
            return maths.mean(hidden, mask) * mask.sum(-1, keepdim=True).sqrt()
        m = self.reduction_tokens if self.reduction == "first-m" else None
        return maths.mean(hidden[:, :m], mask[:, :m])
