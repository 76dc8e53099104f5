"""Poly-encoder (Humeau et al. 2020, https://arxiv.org/abs/1905.01969, section 4.4 and appendix C).

    y^i    = sum_j softmax_j(c_i . h_j) h_j        m views of the context's token states h
    y_ctxt = sum_i softmax_i(y_cand . y^i) y^i     the candidate picks among them
    s      = y_ctxt . y_cand

No scaling by sqrt(d), no projections. The views are made by learnt codes c, or are the first m states, the last m, or
the last m and the first one (`--poly-views`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from poly_agents import maths
from poly_agents.agent import RankerAgent
from poly_agents.options import at_least, option
from poly_agents.ranker import Ranker, Views, states
from poly_agents.reduction import ReductionOptions
from poly_agents.tokens import Tokens

VIEWS = ("codes", "first", "last", "last-first")


@dataclass(frozen=True)
class PolyOptions(ReductionOptions):
    poly_codes: int = option(64, "m, the number of context views")
    poly_views: str = option(
        "codes", "learnt codes, or the first m states, the last m, the last m and the first", VIEWS
    )

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "poly_codes", 1)


class PolyRanker(Ranker):
    Options = PolyOptions

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        if options.poly_views == "codes":
            # Small: every view starts near the mean of the states, yet no two are the same.
            self.codes = nn.Parameter(torch.randn(options.poly_codes, self.context_encoder.width) * 0.05)  # [K, D]

    def encode(self, candidates: Tokens) -> Tensor:
        framed = self.frame.wrap(candidates, self.frame.candidate_prompt)
        return states(self.candidate_encoder, framed, self.vector)  # [N, D]

    def prepare(self, contexts: Tokens) -> Views:
        framed = self.frame.wrap(contexts, self.frame.context_prompt)
        return Views(states(self.context_encoder, framed, self.views), self.real_views(framed.mask))

    def match(self, prepared: Views, kept: Tensor) -> Tensor:
        return maths.poly(prepared.vectors, kept, prepared.mask)  # [B, C]

    def vector(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Token states of candidates to what is kept of each: [N, L, D] -> [N, D]."""
        return self.options.reduce(hidden, mask)

    def views(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """m views of the states [N, L, D] of each row: [N, K, D]. A short row's missing ones are repeats."""
        if self.options.poly_views == "codes":
            return maths.attend(self.codes, hidden, mask)
        index = self.positions(mask).clamp(min=0, max=hidden.shape[1] - 1)  # [N, K]
        return hidden.gather(1, index.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))

    def real_views(self, mask: Tensor) -> Tensor | None:
        """Which views are real ones: [N, K], or None where all are."""
        if self.options.poly_views == "codes":
            return None
        positions = self.positions(mask)
        return (positions >= 0) & (positions < mask.sum(-1, keepdim=True))

    def positions(self, mask: Tensor) -> Tensor:
        """The state that each view is, [N, K]; outside of the text where there is none."""
        m = torch.arange(self.options.poly_codes, device=mask.device)
        lengths = mask.sum(-1, keepdim=True)  # [N, 1]
        if self.options.poly_views == "first":
            return m.expand(len(mask), -1)
        last = lengths - 1 - m  # [N, K]
        if self.options.poly_views == "last":
            return last
        # The first state, unless it is among the last m already.
        first = torch.where(lengths > len(m), 0, -1)
        return torch.cat([last, first], -1)


class PolyAgent(RankerAgent):
    """`-m poly_agents/poly`"""

    ranker = PolyRanker
