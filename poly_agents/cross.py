"""Cross-encoder (Humeau et al. 2020, https://arxiv.org/abs/1905.01969, section 4.3).

    y = first(T([ctxt, cand])),  s = y W

One joint run for every pair, so nothing but the candidate's ids can be kept. Another `--cross-head` puts a dense layer
and its activation before W, as the sequence classifiers of the encoder's family do; a checkpoint of a cross-encoder
with one score (`num_labels=1`) brings its head along, and its scores are those before any sigmoid.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from poly_agents import heads, maths
from poly_agents.agent import RankerAgent
from poly_agents.backbone import by_length
from poly_agents.options import option
from poly_agents.ranker import Ranker, RankerOptions
from poly_agents.tokens import Tokens

PAIRS = 16384  # joined at a time when nothing is to be learnt: bounds the memory of a large pool


@dataclass(frozen=True)
class CrossOptions(RankerOptions):
    cross_head: str = option(
        None,
        "linear: W alone (the paper); else dense, activation, W: pooled is tanh, normed is gelu and a norm",
        heads.HEADS,
        otherwise="linear",
    )


class CrossRanker(Ranker):
    Options = CrossOptions
    joint = True

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        self.head = heads.make(self.options.cross_head, self.context_encoder.width)
        self.averages = self.options.cross_head == "normed-mean"

    @classmethod
    def find(cls, options, source, tokenizer):
        return heads.find(options.cross_head, source, tokenizer)

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
        if self.averages:
            return by_length(lambda part: self.rate_states(self.context_encoder(part), part.mask), joint)
        return self.head(by_length(self.context_encoder.first, joint)).squeeze(-1)

    def rate_states(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """States of joint pairs [N, L, D] to a score each, [N]."""
        return self.head(maths.mean(hidden, mask) if self.averages else hidden[:, 0]).squeeze(-1)


class CrossAgent(RankerAgent):
    """`-m poly_agents/cross`"""

    ranker = CrossRanker
    defaults = {"negatives": 15}
