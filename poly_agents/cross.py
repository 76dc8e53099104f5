"""Cross-encoder (Humeau et al. 2020, https://arxiv.org/abs/1905.01969, section 4.3).

    y = first(T([ctxt, cand])),  s = y W

One joint run for every pair, so nothing but the candidate's ids can be kept. Other reductions of the states than the
first are ParlAI's (`--reduction`). `--cross-head pooled` puts a dense layer
and a tanh before W, as BERT's and RoBERTa's sequence classifiers do.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from poly_agents.agent import RankerAgent
from poly_agents.backbone import by_length
from poly_agents.options import option
from poly_agents.ranker import Ranker, states
from poly_agents.reduction import REDUCTIONS, ReductionOptions
from poly_agents.tokens import Tokens

PAIRS = 16384  # joined at a time when nothing is to be learnt: bounds the memory of a large pool


@dataclass(frozen=True)
class CrossOptions(ReductionOptions):
    reduction: str = option("first", "token states to one vector", REDUCTIONS)
    cross_head: str = option("linear", "linear: W alone (the paper); pooled: dense, tanh, W", ("linear", "pooled"))


class CrossRanker(Ranker):
    Options = CrossOptions
    joint = True

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        width = self.context_encoder.width
        pooled = [nn.Linear(width, width), nn.Tanh()] if options.cross_head == "pooled" else []
        self.head = nn.Sequential(*pooled, nn.Linear(width, 1))

    @classmethod
    def caches(cls, options):
        return False

    def span(self, context, candidate):
        return self.frame.pair_length + context + candidate

    def encode(self, candidates: Tokens) -> Tokens:
        return candidates

    def match(self, prepared: Tokens, kept: Tokens) -> Tensor:
        shape = len(prepared.ids), kept.ids.shape[1]
        pairs = torch.cartesian_prod(*(torch.arange(n, device=prepared.ids.device) for n in shape))  # [B * C, 2]
        return torch.cat([self.score_pairs(prepared, kept, part) for part in pairs.split(PAIRS)]).view(shape)

    def score_pairs(self, contexts: Tokens, kept: Tokens, pairs: Tensor) -> Tensor:
        """Scores [N] of N pairs (row of the contexts, column of the candidates)."""
        row, column = pairs.unbind(-1)
        candidates = kept.select((row if len(kept.ids) > 1 else torch.zeros_like(row), column))
        joint = self.frame.join(contexts.select(row), candidates)
        return self.head(self.read(joint)).squeeze(-1)

    def read(self, joint: Tokens) -> Tensor:
        """One vector a pair, [N, D]."""
        if self.options.reduction == "first":
            return by_length(self.context_encoder.first, joint)
        return states(self.context_encoder, joint, self.options.reduce)


class CrossAgent(RankerAgent):
    """`-m poly_agents/cross`"""

    ranker = CrossRanker
    defaults = {"negatives": 15}
