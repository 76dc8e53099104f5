"""Attention with projections and several heads (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2).

out = O [a_1; ..; a_H] + o,   a_h = sum_k softmax_k(q_h . k_hk / sqrt(d)) v_hk,   q = Q x, k = K y, v = V y
"""

import torch
from torch import Tensor, nn

from poly_agents.encoders import attention
from poly_agents.encoders.states import TokenStates


class MultiHead(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads cannot share a width of {width}; give a number that divides it")
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, queries: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Queries [K, D] over states [N, L, D], the real ones of the mask [N, L] -> [N, K, D]."""
        keys, values = (attention.split(part(states), self.heads) for part in (self.key, self.value))
        context = attention.KeysValues(keys, values, mask[:, None, None])
        return self.out(
            attention.merge(attention.attend(attention.split(self.query(queries), self.heads), context, 0.0))
        )

    def score(self, views: TokenStates, candidates: Tensor) -> Tensor:
        """What each candidate [G, C, D] reads of the views [B, K, D], by itself: scores [B, C].

        out . x = sum_h a_h . (O^T x)_h + o . x, so no [B, C, D] tensor is made.
        """
        candidates = candidates.to(self.query.weight.dtype)
        asked, met = (
            attention.split(part, self.heads) for part in (self.query(candidates), candidates @ self.out.weight)
        )
        keys, values = (attention.split(part(views.vectors), self.heads) for part in (self.key, self.value))
        scores = candidates @ self.out.bias  # [G, C]
        for head in range(self.heads):
            context = attention.KeysValues(keys[:, head], values[:, head], views.mask.unsqueeze(1))
            weights = attention.weights(attention.attention_logits(asked[:, head], context), 0.0)  # [B, C, K]
            scores = scores + torch.einsum("...k,...k->...", weights, met[:, head] @ context.values.mT)
        return scores
