"""Cross-encoder (Humeau et al. 2020, https://arxiv.org/abs/1905.01969, section 4.3).

    y = first(T([ctxt, cand])),  s = y W

Context and candidate are encoded jointly, so nothing of a candidate can be cached. Another `--cross-head` puts a dense
layer and an activation before W, as the sequence classifiers of the encoder's family do. Another `--reduction` takes
more than the first state; over a decoder it is the last one, which alone knows the whole pair. A pretrained
cross-encoder with one score (`num_labels=1`) brings its own head and reduction, and the scores here are its scores
before any sigmoid.

With `--start backbone` the pair is `[CLS] ctxt [SEP] [CLS] cand [SEP]`, and both texts' positions start at 0. A
learned bias is added to the attention between the texts. The score is that of `scoring/starts.py`: at first the cosine
of their mean states, as a bi-encoder scores.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from poly_agents.encoders import arrow, layers
from poly_agents.encoders.backbone import reduced_states
from poly_agents.encoders.states import by_length
from poly_agents.options import option
from poly_agents.pretrained import classifiers
from poly_agents.scoring import heads
from poly_agents.scoring.ranker import Ranker
from poly_agents.scoring.reduction import REDUCTIONS, ReductionOptions
from poly_agents.scoring.starts import PairScore, StartOptions
from poly_agents.text.tokens import Tokens

PAIRS = 16384  # pairs that are joined at a time, to bound the memory that a large pool needs


@dataclass(frozen=True)
class CrossOptions(StartOptions, ReductionOptions):
    """Options of the cross-encoder."""

    reduction: str = option(
        None,
        "how the states of a pair's tokens become one vector: the first state, as in the paper; the last one, which a "
        "decoder needs; the mean; the largest of each dimension (max); the sum over the root of the length (sqrt); the "
        "mean of the first --reduction-tokens (first-m)",
        REDUCTIONS,
        fallback="first",
    )
    cross_head: str = option(
        None,
        "layers that make the score of that vector; linear: W alone, as in the paper; the others have a dense layer "
        "before W, with tanh (pooled), gelu, relu, or gelu and a norm (normed)",
        heads.HEADS,
        fallback="linear",
    )


class CrossRanker(Ranker):
    """Score each pair by encoding context and candidate as one text."""

    Options = CrossOptions
    defaults = {"negatives": 4, "negatives_by": "mixed", "learningrate": 5e-5}
    one_encoder = True
    backbone_start = {"start": "backbone"}

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        if self.options.from_backbone:
            self.layers = layers.read(self.context_encoder.model)
            self.pair = PairScore(self.context_encoder)
        else:
            self.head = heads.make(self.options.cross_head, self.context_encoder.width)

    @classmethod
    def can_cache(cls, options):
        return False

    @classmethod
    def read_pretrained(cls, options, source, tokenizer):
        return classifiers.read_head(options, source, tokenizer)

    def positions_needed(self, context, candidate):
        if self.options.from_backbone:
            return super().positions_needed(context, candidate)
        return self.frame.pair_length + context + candidate

    def encode(self, candidates: Tokens) -> Tokens:
        return candidates

    def score_encoded(self, contexts: Tokens, encoded: Tokens) -> Tensor:
        shape = len(contexts.ids), encoded.ids.shape[1]
        pairs = torch.cartesian_prod(*(torch.arange(n, device=contexts.ids.device) for n in shape))  # [B * C, 2]
        return torch.cat([self.score_pairs(contexts, encoded, part) for part in pairs.split(PAIRS)]).view(shape)

    def score_pairs(self, contexts: Tokens, encoded: Tokens, pairs: Tensor) -> Tensor:
        """Score some pairs.

        Args:
            contexts: bare contexts [B, L].
            encoded: bare candidates [G, C, L].
            pairs: the row of a context and the column of a candidate, [N, 2].

        Returns:
            [N]
        """
        row, column = pairs.unbind(-1)
        candidates = encoded.select((row if len(encoded.ids) > 1 else torch.zeros_like(row), column))
        if self.options.from_backbone:
            context, candidate = (self.frame.wrap(part) for part in (contexts.select(row), candidates))
            candidate = Tokens(*(part.unsqueeze(1) for part in candidate))  # [N, 1, L']
            return arrow.in_slices(self.run_apart, context, candidate).squeeze(-1)
        joint = self.frame.join(contexts.select(row), candidates)
        if self.options.reduction == "first":
            return self.head(by_length(self.context_encoder.first, joint)).squeeze(-1)
        return reduced_states(self.context_encoder, joint, self.score_states)

    def score_states(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Score pairs [N] by their joint token states [N, L, D] and mask [N, L]."""
        return self.head(self.options.reduce(hidden, mask)).squeeze(-1)

    def run_apart(self, context: Tokens, candidate: Tokens) -> Tensor:
        """Score framed contexts [N, L] and the one candidate of each, [N, 1, L'] -> [N, 1], by `--start backbone`."""
        return self.pair(self.context_encoder, self.layers, context, candidate, self.dropout_now)
