"""Scores as pure functions. No weights, no options.

The letters of every shape comment in this project:

    B contexts   C candidates   G 1 (one pool for the whole batch) or B   N rows of any kind
    L tokens     K vectors      D width
"""

import torch
from torch import Tensor


def attend(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention without scaling or projections: [K, D] queries over [N, L, D] keys -> [N, K, D].

        out_k = sum_j softmax_j(queries_k . keys_j) keys_j

    `mask` [N, L] is True for real keys; a row needs at least one.

    >>> keys = torch.tensor([[[0.0], [1.0], [9.0]]])
    >>> attend(torch.zeros(1, 1), keys, torch.tensor([[True, True, False]]))
    tensor([[[0.5000]]])
    """
    weights = torch.einsum("kd,nld->nkl", queries, keys)  # [N, K, L]
    return weights.masked_fill(~mask.unsqueeze(-2), -torch.inf).softmax(-1) @ keys


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens: [N, L, D], [N, L] -> [N, D]. A row without any gives zeros.

    >>> mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(-2) / weights.sum(-2).clamp(min=1)


def dot(contexts: Tensor, candidates: Tensor) -> Tensor:
    """Inner products: [B, D] contexts with [G, C, D] candidates -> [B, C].

    >>> dot(torch.tensor([[1.0, 2.0]]), torch.tensor([[[3.0, 4.0], [0.0, 1.0]]]))
    tensor([[11.,  2.]])
    """
    return poly(contexts.unsqueeze(-2), candidates)


def poly(views: Tensor, candidates: Tensor, mask: Tensor | None = None) -> Tensor:
    """Poly-encoder score: [B, K, D] views of the context with [G, C, D] candidates -> [B, C].

        y = sum_k softmax_k(candidate . view_k) view_k,    score = y . candidate

    The sum is linear, so with `S = candidates . views` the score is `(softmax(S) * S).sum(-1)` and no [B, C, D] tensor
    is ever made. It never exceeds the largest of the K inner products. `mask` [B, K] is True for real views.

    >>> poly(torch.tensor([[[1.0], [1.0]]]), torch.tensor([[[2.0], [3.0]]]))
    tensor([[2., 3.]])
    """
    if len(candidates) == 1:
        products = (views @ candidates.squeeze(0).T).transpose(-1, -2)  # [B, C, K], one matrix product
    else:
        products = candidates @ views.transpose(-1, -2)  # [B, C, K]
    if views.shape[-2] == 1:
        return products.squeeze(-1)
    logits = products if mask is None else products.masked_fill(~mask.unsqueeze(-2), -torch.inf)
    return (logits.softmax(-1) * products).sum(-1)
