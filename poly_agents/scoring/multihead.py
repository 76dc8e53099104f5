"""Attention with projections and several heads (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2).

out = O [a_1; ..; a_H] + o,   a_h = sum_k softmax_k(q_h . k_hk / sqrt(d)) v_hk,   q = Q x, k = K y, v = V y
"""

import torch
from torch import Tensor, nn

from poly_agents.encoders.attention import KeysValues, attend, attention_logits, merge, split, weights
from poly_agents.encoders.states import TokenStates
from poly_agents.errors import InputError


class MultiHead(nn.Module):
    """Multi-head attention of a poly-encoder: of codes over token states, or of candidates over views."""

    def __init__(self, width: int, heads: int):
        """Make the four maps.

        Args:
            width: D, of queries, keys and outputs.
            heads: H, which divides D.
        """
        super().__init__()
        if width % heads:
            raise InputError(f"{heads} heads cannot share a width of {width}; give a number that divides it")
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, queries: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Attend with queries [K, D] over states [N, L, D] and their mask [N, L] -> [N, K, D]."""
        keys, values = (split(part(states), self.heads) for part in (self.key, self.value))  # [N, H, L, d]
        context = KeysValues(keys, values, mask[:, None, None])
        return self.out(merge(attend(split(self.query(queries), self.heads), context, 0.0)))

    def score(self, views: TokenStates, candidates: Tensor) -> Tensor:
        """Score each candidate x by its product with what it reads of the views, out . x.

        out . x = sum_h a_h . (O^T x)_h + o . x, so no [B, C, D] tensor is made.

        Args:
            views: [B, K, D].
            candidates: [G, C, D].

        Returns:
            [B, C]
        """
        candidates = candidates.to(self.query.weight.dtype)
        queries = split(self.query(candidates), self.heads)  # [G, H, C, d]
        outputs = split(candidates @ self.out.weight, self.heads)  # O^T x, [G, H, C, d]
        keys, values = (split(part(views.vectors), self.heads) for part in (self.key, self.value))  # [B, H, K, d]
        scores = candidates @ self.out.bias  # [G, C]
        for head in range(self.heads):
            context = KeysValues(keys[:, head], values[:, head], views.mask.unsqueeze(1))
            shares = weights(attention_logits(queries[:, head], context), 0.0)  # [B, C, K]
            scores = scores + torch.einsum("...k,...k->...", shares, outputs[:, head] @ context.values.mT)
        return scores
