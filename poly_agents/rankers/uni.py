"""Uni-Encoder (Song et al. 2023, https://arxiv.org/abs/2106.01263, section 3).

    [CLS] ctxt [SEP]  [CLS] r_1 [SEP]  ...  [CLS] r_C [SEP]      one run for a context and all its candidates
    s_c = W mean(T(...)_c)                                       the mean of candidate c's tokens, one linear map

Candidates are in segment 1, and all of them at the same positions, those after the context's. Arrow attention: a
candidate's tokens see the context and their own candidate; the context's tokens see everything. No mask of the whole
sequence is ever made: the layers are run part by part, and padding goes through attention alone.

So the context's states, and with them every score, depend on which candidates there are. Nothing of a candidate can be
kept, and a pool cannot be split: `--uni-pool` bounds it. The paper trains on the batch's own responses, and adds a
masked-language loss that is left out here.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from poly_agents.encoders import layers
from poly_agents.encoders.attention import KeysValues, attend, attend_beside, merge, split
from poly_agents.encoders.layers import Layer, layer_output
from poly_agents.encoders.states import token_budget
from poly_agents.options import at_least, option
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Ranker, RankerOptions
from poly_agents.text.tokens import Real, Tokens


@dataclass(frozen=True)
class UniOptions(RankerOptions):
    uni_pool: int = option(128, "refuse more candidates than that for one context: their scores depend on one another")

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "uni_pool", 1)


class UniRanker(Ranker):
    Options = UniOptions
    defaults = {"negatives": 15}
    one_encoder = True
    depends_on_pool = True

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        if layers.has_relative_positions(self.context_encoder.model):
            raise ValueError(
                f"{self.context_encoder.model.config.model_type} tells positions by the distance of two tokens, and "
                "candidates that share their positions have none; give a --backbone of the BERT family"
            )
        self.layers = layers.read(self.context_encoder.model)
        self.head = nn.Linear(self.context_encoder.width, 1, bias=False)  # a bias would move all scores alike

    @classmethod
    def can_cache(cls, options):
        return False

    def positions_needed(self, context, candidate):
        return 2 * self.frame.single_length + context + candidate

    def encode(self, candidates: Tokens) -> Tokens:
        framed = self.frame.wrap(candidates)
        return framed._replace(segments=framed.mask.long())

    def score_encoded(self, contexts: Tokens, kept: Tokens) -> Tensor:
        most = int(kept.mask.any(-1).sum(-1).max())
        if most > self.options.uni_pool:
            raise ValueError(
                f"a context has {most} candidates, --uni-pool allows {self.options.uni_pool}; rank the best of another "
                "system, give fewer (-ecands inline, or a shorter -fcp FILE), or raise --uni-pool if memory allows"
            )
        framed = self.frame.wrap(contexts)
        pools = Tokens(*(part.expand(len(framed.ids), -1, -1) for part in kept))  # [B, C, L']
        budget = token_budget(framed.ids.device)
        rows = max(1, budget // (framed.mask.shape[1] + kept.mask[0].numel()))
        order = framed.mask.sum(-1).argsort(descending=True)
        parts = [self.run(trim(framed.select(part)), trim(pools.select(part))) for part in order.split(rows)]
        return torch.cat(parts)[order.argsort()]

    def run(self, context: Tokens, candidates: Tokens) -> Tensor:
        """Framed contexts [B, L] and candidates [B, C, L'] -> scores [B, C]."""
        encoder, dropout = self.context_encoder, self.options.dropout if self.training else 0.0
        real = Sides(Real.of(context.mask), Real.of(candidates.mask))
        after = context.mask.sum(-1)[:, None, None] + places(candidates)  # [B, C, L']
        far = context.ids, places(context), context.segments
        near = candidates.ids, after, candidates.segments
        ids, positions, segments = (real.pack(*pair).unsqueeze(0) for pair in zip(far, near, strict=True))  # [1, T]
        with encoder.autocast(context.ids.device):
            states = layers.embed(encoder.model, ids, positions, segments if encoder.segments else None).squeeze(0)  # [T, D]
            for layer in self.layers:
                states = arrow(layer, states, real, dropout)
        _, tokens = real.unpack(states.float())  # [B, C, L', D]
        return self.head(maths.mean(tokens, candidates.mask)).squeeze(-1)


def places(tokens: Tokens) -> Tensor:
    """The place of each real token in its text, from 0; that of padding has no meaning."""
    return tokens.mask.cumsum(-1) - 1


def trim(tokens: Tokens) -> Tokens:
    """Without the columns that are padding in every row."""
    return tokens.cut(max(1, int(tokens.mask.sum(-1).max())))


class Sides(NamedTuple):
    """Whatever is done token by token is done to the real ones alone: all contexts', then all candidates'."""

    context: Real
    candidates: Real

    def pack(self, context: Tensor, candidates: Tensor) -> Tensor:
        return torch.cat([self.context.pack(context), self.candidates.pack(candidates)])  # [T, *]

    def unpack(self, states: Tensor) -> tuple[Tensor, Tensor]:
        parts = states.split([len(side.index) for side in self])
        return self.context.unpack(parts[0]), self.candidates.unpack(parts[1])  # [B, L, D], [B, C, L', D]


def arrow(layer: Layer, states: Tensor, real: Sides, dropout: float) -> Tensor:
    """One layer, [T, D] -> [T, D]: the contexts see everything, each candidate the context and itself."""

    def heads(part: nn.Module) -> list[Tensor]:
        return [split(side, layer.heads).movedim(-3, 1) for side in real.unpack(part(states))]

    (asking, queries), keys, values = (heads(part) for part in (layer.query, layer.key, layer.value))
    masks = [side.mask.flatten(1)[:, None, None] for side in real]  # [B, 1, 1, L] and [B, 1, 1, C * L']
    context = KeysValues(keys[0], values[0], masks[0])  # [B, H, L, D / H]
    own = KeysValues(keys[1], values[1], real.candidates.mask[:, None, :, None])  # [B, H, C, L', D / H]
    everything = KeysValues(
        *(torch.cat([far, near.flatten(2, -2)], 2) for far, near in (keys, values)), torch.cat(masks, -1)
    )
    read = attend(asking, everything, dropout), attend_beside(queries, own, context, dropout)
    return layer_output(layer, real.pack(*(merge(part.movedim(1, -3)) for part in read)), states, dropout)
