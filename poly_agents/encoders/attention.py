"""Multi-head attention as pure functions. Heads are an axis of their own, [..., H, L, d] with d = D / H.

attention(Q, K, V) = softmax(Q K^T / sqrt(d)) V          Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, (1)
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop


class KeysValues(NamedTuple):
    """Keys, values and mask of an attention. The mask is True for real tokens and broadcasts over heads and queries."""

    keys: Tensor  # [..., H, L, d]
    values: Tensor  # [..., H, L, d]
    mask: Tensor  # [..., 1, 1, L] bool
    bias: Tensor | None = None  # added to the logits, [..., H, Lq, L] or what broadcasts to it


def split(states: Tensor, heads: int) -> Tensor:
    """Give heads an axis of their own: [..., L, D] -> [..., H, L, d].

    >>> split(torch.arange(8.0).view(2, 4), 2).tolist()
    [[[0.0, 1.0], [4.0, 5.0]], [[2.0, 3.0], [6.0, 7.0]]]
    """
    return states.unflatten(-1, (heads, -1)).transpose(-2, -3)


def merge(states: Tensor) -> Tensor:
    """Undo `split`: [..., H, L, d] -> [..., L, D]."""
    return states.transpose(-2, -3).flatten(-2)


def weights(logits: Tensor, dropout: float) -> Tensor:
    """Turn logits [..., Lq, L] into weights. Each row needs one logit that is finite; minus infinity gets no weight."""
    return drop(logits.softmax(-1), dropout, dropout > 0)


def attention_logits(queries: Tensor, context: KeysValues) -> Tensor:
    """Return the scaled products of queries and keys: [..., H, Lq, d] -> [..., H, Lq, L]."""
    scaled = queries * queries.shape[-1] ** -0.5
    logits = scaled @ context.keys.mT
    logits = logits if context.bias is None else logits + context.bias.to(logits.dtype)
    return logits.masked_fill(~context.mask, -torch.inf)


def attend(queries: Tensor, context: KeysValues, dropout: float) -> Tensor:
    """Attend over one sequence: [B, H, Lq, d] -> [B, H, Lq, d]."""
    return weights(attention_logits(queries, context), dropout) @ context.values


def attend_beside(queries: Tensor, own: KeysValues, context: KeysValues, dropout: float) -> Tensor:
    """Let each of C candidates attend over the context and over itself, under one softmax.

    Args:
        queries: [G, H, C, Lq, d], G = 1 or B.
        own: the candidates' own keys and values, [G, H, C, L, d].
        context: [B, H, L, d], without an axis of candidates.
        dropout: the share of weights to drop, 0 outside of training.

    Returns:
        [B, H, C, Lq, d]
    """
    shape = queries.shape[2:4]
    far = attention_logits(queries.flatten(2, 3), context).unflatten(2, shape)  # [B, H, C, Lq, L of the context]
    near = attention_logits(queries, own).expand(len(far), -1, -1, -1, -1)  # [B, H, C, Lq, L]
    far, near = weights(torch.cat([far, near], -1), dropout).split([far.shape[-1], near.shape[-1]], -1)
    return (far.flatten(2, 3) @ context.values).unflatten(2, shape) + near @ own.values
