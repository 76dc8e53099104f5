"""Cross-encoder (Humeau et al. 2020, https://arxiv.org/abs/1905.01969, section 4.3).

    y = first(T([ctxt, cand])),  s = y W

One joint run for every pair, so nothing but the candidate's ids can be kept. Another `--cross-head` puts a dense layer
and its activation before W, as the sequence classifiers of the encoder's family do, another `--reduction` takes more
than the first state. A checkpoint of a cross-encoder with one score (`num_labels=1`) brings both along, and its scores
are those before any sigmoid.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from poly_agents.encoders.backbone import reduced_states
from poly_agents.encoders.states import by_length
from poly_agents.options import option
from poly_agents.pretrained import classifiers
from poly_agents.scoring import heads
from poly_agents.scoring.ranker import Ranker
from poly_agents.scoring.reduction import REDUCTIONS, ReductionOptions
from poly_agents.text.tokens import Tokens

PAIRS = 16384  # joined at a time when nothing is to be learnt: bounds the memory of a large pool


@dataclass(frozen=True)
class CrossOptions(ReductionOptions):
    reduction: str = option(None, "token states to one vector", REDUCTIONS, fallback="first")
    cross_head: str = option(
        None,
        "linear: W alone (the paper); else dense, activation, W: pooled is tanh, normed is gelu and a norm",
        heads.HEADS,
        fallback="linear",
    )


class CrossRanker(Ranker):
    Options = CrossOptions
    defaults = {"negatives": 15}
    one_encoder = True

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        self.head = heads.make(self.options.cross_head, self.context_encoder.width)

    @classmethod
    def read_pretrained(cls, options, source, tokenizer):
        return classifiers.read_head(options, source, tokenizer)

    @classmethod
    def can_cache(cls, options):
        return False

    def positions_needed(self, context, candidate):
        return self.frame.pair_length + context + candidate

    def encode(self, candidates: Tokens) -> Tokens:
        return candidates

    def score_encoded(self, contexts: Tokens, kept: Tokens) -> Tensor:
        shape = len(contexts.ids), kept.ids.shape[1]
        pairs = torch.cartesian_prod(*(torch.arange(n, device=contexts.ids.device) for n in shape))  # [B * C, 2]
        return torch.cat([self.score_pairs(contexts, kept, part) for part in pairs.split(PAIRS)]).view(shape)

    def score_pairs(self, contexts: Tokens, kept: Tokens, pairs: Tensor) -> Tensor:
        """Scores [N] of N pairs (row of the contexts, column of the candidates)."""
        row, column = pairs.unbind(-1)
        candidates = kept.select((row if len(kept.ids) > 1 else torch.zeros_like(row), column))
        joint = self.frame.join(contexts.select(row), candidates)
        if self.options.reduction == "first":
            return self.head(by_length(self.context_encoder.first, joint)).squeeze(-1)
        return reduced_states(self.context_encoder, joint, self.score_states)

    def score_states(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """States of joint pairs [N, L, D] to a score each, [N]."""
        return self.head(self.options.reduce(hidden, mask)).squeeze(-1)
