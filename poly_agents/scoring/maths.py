"""Scores as pure functions. No weights, no options.

The letters of every shape comment in this project:

    B contexts   C candidates   G 1 (one pool for the whole batch) or B   N rows of any kind
    L tokens     K vectors      D width
"""

import torch
from torch import Tensor

PRODUCTS = 2**20  # of one slice of a late interaction: they fit in a processor's cache


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


def poly(views: Tensor, candidates: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """Poly-encoder score: [B, K, D] views of the context with [G, C, D] candidates -> [B, C].

        y = sum_k softmax_k(scale candidate . view_k) view_k,    score = y . candidate

    The sum is linear, so with `S = candidates . views` the score is `(softmax(scale S) * S).sum(-1)` and no [B, C, D]
    tensor is ever made. It never exceeds the largest of the K inner products. `mask` [B, K] is True for real views.

    >>> poly(torch.tensor([[[1.0], [1.0]]]), torch.tensor([[[2.0], [3.0]]]))
    tensor([[2., 3.]])
    """
    if len(candidates) == 1:
        products = (views @ candidates.squeeze(0).T).transpose(-1, -2)  # [B, C, K], one matrix product
    else:
        products = candidates @ views.transpose(-1, -2)  # [B, C, K]
    if views.shape[-2] == 1:
        return products.squeeze(-1)
    logits = products if scale == 1.0 else products * scale
    logits = logits if mask is None else logits.masked_fill(~mask.unsqueeze(-2), -torch.inf)
    return (logits.softmax(-1) * products).sum(-1)


def maxsim(contexts: Tensor, mask: Tensor, candidates: Tensor, candidate_mask: Tensor) -> Tensor:
    """Late interaction: [B, L, D] with [G, C, L', D], masks [B, L] and [G, C, L'] True for real tokens -> [B, C].

        score = sum_i max_j context_i . candidate_j

    One slice of the candidates after another, so that few products are held at once. A candidate without any real
    token scores minus infinity.

    >>> context, candidate = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[[[3.0, 4.0], [5.0, 1.0]]]])
    >>> maxsim(context, torch.tensor([[True, True]]), candidate, torch.tensor([[[True, True]]]))  # 5 + 8
    tensor([[13.]])
    """
    rows = contexts.shape[:2]
    keys = contexts.flatten(0, 1).unsqueeze(0) if len(candidates) == 1 else contexts  # [1, B * L, D] or [B, L, D]
    if torch.compiler.is_exporting():  # a graph knows no sizes to slice by
        best = _best(keys, candidates, candidate_mask)
    else:
        size = max(1, PRODUCTS // (rows[0] * rows[1] * candidates.shape[2]))
        slices = zip(candidates.split(size, 1), candidate_mask.split(size, 1), strict=True)
        best = torch.cat([_best(keys, *part) for part in slices], 1)  # [1, C, B * L] or [B, C, L]
    if len(candidates) == 1:
        best = best.squeeze(0).unflatten(-1, rows).transpose(0, 1)  # [B, C, L]
    return best.masked_fill(~mask.unsqueeze(1), 0).sum(-1, dtype=torch.float32)


def _best(keys: Tensor, candidates: Tensor, mask: Tensor) -> Tensor:
    """Each key's largest product with a real token of each candidate: [G, K, D], [G, C, L, D] -> [G, C, K]."""
    products = (candidates.flatten(1, 2) @ keys.mT).unflatten(1, candidates.shape[1:3])  # [G, C, L, K]
    return products.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(2)
