"""One layer of arrow attention (Song et al. 2023, https://arxiv.org/abs/2106.01263): as a mask it looks like one.

context    meets the context and every candidate
candidate  meets the context and itself
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from poly_agents.encoders.layers import Layer, Seen, attend, attend_beside, finish, merge, split
from poly_agents.text.tokens import Real


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
    context = Seen(keys[0], values[0], masks[0])  # [B, H, L, D / H]
    own = Seen(keys[1], values[1], real.candidates.mask[:, None, :, None])  # [B, H, C, L', D / H]
    everything = Seen(*(torch.cat([far, near.flatten(2, -2)], 2) for far, near in (keys, values)), torch.cat(masks, -1))
    read = attend(asking, everything, dropout), attend_beside(queries, own, context, dropout)
    return finish(layer, real.pack(*(merge(part.movedim(1, -3)) for part in read)), states, dropout)
