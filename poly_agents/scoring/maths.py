"""Formulas of scores, as pure functions without weights or options.

The letters of every shape comment in this project:

    B contexts   C candidates   G 1 (one pool for the whole batch) or B   N rows of any kind
    L tokens     K vectors      D width
"""

import torch
from torch import Tensor

PRODUCTS = 2**20  # inner products that `maxsim` makes at a time; so many fit in a processor's cache


def attend(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Attend over keys without scaling or projections.

        out_k = sum_j softmax_j(queries_k . keys_j) keys_j

    Args:
        queries: [K, D].
        keys: [N, L, D].
        mask: [N, L] bool, True for real keys. Each row needs at least one.

    Returns:
        [N, K, D]

    >>> keys = torch.tensor([[[0.0], [1.0], [9.0]]])
    >>> attend(torch.zeros(1, 1), keys, torch.tensor([[True, True, False]]))
    tensor([[[0.5000]]])
    """
    weights = torch.einsum("kd,nld->nkl", queries, keys)  # [N, K, L]
    return weights.masked_fill(~mask.unsqueeze(-2), -torch.inf).softmax(-1) @ keys


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over real tokens. A row without any has zeros.

    Args:
        states: [N, L, D].
        mask: [N, L] bool.

    Returns:
        [N, D]

    >>> mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(-2) / weights.sum(-2).clamp(min=1)


def dot(contexts: Tensor, candidates: Tensor) -> Tensor:
    """Return the inner products of contexts [B, D] with candidates [G, C, D] -> [B, C].

    >>> dot(torch.tensor([[1.0, 2.0]]), torch.tensor([[[3.0, 4.0], [0.0, 1.0]]]))
    tensor([[11.,  2.]])
    """
    return poly(contexts.unsqueeze(-2), candidates)


def poly(views: Tensor, candidates: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """Return the scores of a poly-encoder (Humeau et al. 2020, https://arxiv.org/abs/1905.01969, section 4.4).

        y = sum_k softmax_k(scale candidate . view_k) view_k,    score = y . candidate

    The sum is linear, so with `S = candidates . views` the score is `(softmax(scale S) * S).sum(-1)` and no [B, C, D]
    tensor is made. The score never exceeds the largest of the K inner products.

    Args:
        views: [B, K, D] of the contexts.
        candidates: [G, C, D].
        mask: [B, K] bool, True for real views. None: all are.
        scale: multiplies the products under the softmax.

    Returns:
        [B, C]

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
    """Return the scores of late interaction (Khattab and Zaharia 2020, https://arxiv.org/abs/2004.12832, equation 3).

        score = sum_i max_j context_i . candidate_j

    The candidates are taken in slices, so that few products are held at a time. A candidate without a real token
    scores minus infinity.

    Args:
        contexts: [B, L, D].
        mask: [B, L] bool, True for real tokens.
        candidates: [G, C, L', D].
        candidate_mask: [G, C, L'] bool.

    Returns:
        [B, C] in float32.

    >>> context, candidate = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[[[3.0, 4.0], [5.0, 1.0]]]])
    >>> maxsim(context, torch.tensor([[True, True]]), candidate, torch.tensor([[[True, True]]]))  # 5 + 8
    tensor([[13.]])
    """
    rows = contexts.shape[:2]
    keys = contexts.flatten(0, 1).unsqueeze(0) if len(candidates) == 1 else contexts  # [1, B * L, D] or [B, L, D]
    if torch.compiler.is_exporting():  # the sizes that slices depend on are not known in a graph
        best = _best(keys, candidates, candidate_mask)
    else:
        size = max(1, PRODUCTS // (rows[0] * rows[1] * candidates.shape[2]))
        slices = zip(candidates.split(size, 1), candidate_mask.split(size, 1), strict=True)
        best = torch.cat([_best(keys, *part) for part in slices], 1)  # [1, C, B * L] or [B, C, L]
    if len(candidates) == 1:
        best = best.squeeze(0).unflatten(-1, rows).transpose(0, 1)  # [B, C, L]
    return best.masked_fill(~mask.unsqueeze(1), 0).sum(-1, dtype=torch.float32)


def maxsim_both(contexts: Tensor, mask: Tensor, candidates: Tensor, candidate_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores of late interaction in both directions, of the same products.

        sum_i max_j context_i . candidate_j    and    sum_j max_i context_i . candidate_j

    Args:
        contexts: [B, L, D].
        mask: [B, L] bool, True for real tokens.
        candidates: [G, C, L', D].
        candidate_mask: [G, C, L'] bool.

    Returns:
        What `maxsim` returns, [B, C], and the same with exchanged roles, 0 for a candidate without a real token.

    >>> context, candidate = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[[[3.0, 4.0], [5.0, 1.0]]]])
    >>> real = torch.tensor([[True, True]])
    >>> maxsim_both(context, real, candidate, real.unsqueeze(0))  # 5 + 8, 8 + 5
    (tensor([[13.]]), tensor([[13.]]))
    """
    size = max(1, PRODUCTS // (contexts.shape[0] * contexts.shape[1] * candidates.shape[2]))
    sums = []
    for part, real in zip(candidates.split(size, 1), candidate_mask.split(size, 1), strict=True):
        products = (part.flatten(1, 2) @ contexts.mT).unflatten(1, part.shape[1:3])  # [B, C, L', L]
        best = products.masked_fill(~real.unsqueeze(-1), -torch.inf).amax(2)  # [B, C, L]
        best_context = products.masked_fill(~mask[:, None, None], -torch.inf).amax(-1)  # [B, C, L']
        kept = best.masked_fill(~mask.unsqueeze(1), 0), best_context.masked_fill(~real, 0)
        sums.append([each.sum(-1, dtype=torch.float32) for each in kept])
    one, other = (torch.cat(parts, 1) for parts in zip(*sums, strict=True))
    return one, other


def _best(keys: Tensor, candidates: Tensor, mask: Tensor) -> Tensor:
    """Return each key's largest product with a real token of each candidate: [G, K, D], [G, C, L, D] -> [G, C, K]."""
    products = (candidates.flatten(1, 2) @ keys.mT).unflatten(1, candidates.shape[1:3])  # [G, C, L, K]
    return products.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(2)
