"""States of texts: a tensor, or a NamedTuple of tensors, with one row for each text. Running texts by length."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from poly_agents.text.tokens import Tokens

TOKEN_BUDGET = {"cpu": 2048, "cuda": 65536}  # padded tokens in one run of an encoder


class TokenStates(NamedTuple):
    """One vector for every token of N texts."""

    vectors: Tensor  # [..., L, D]
    mask: Tensor  # [..., L] bool, True for real tokens


def token_budget(device: torch.device) -> int:
    """Return how many padded tokens an encoder runs at a time on a device."""
    return TOKEN_BUDGET.get(device.type, 2048)


def budget_slices(costs: Sequence[int], budget: int) -> Iterator[slice]:
    """Cut rows into runs of at most `budget` padded tokens, but at least one row.

    Args:
        costs: padded tokens of each row, most expensive first. Each row of a run costs as much as its first.
        budget: padded tokens of a run.

    >>> list(budget_slices([9, 4, 3, 3], 10))
    [slice(0, 1, None), slice(1, 3, None), slice(3, 6, None)]
    """
    start = 0
    while start < len(costs):
        stop = start + max(1, budget // max(1, costs[start]))
        yield slice(start, stop)
        start = stop


def by_length(run: Callable[[Tokens], Tensor], tokens: Tokens) -> Tensor:
    """Apply `run` to rows of similar length together, under a budget of padded tokens.

    The longest rows come first, so a batch that does not fit in memory fails at once.

    Args:
        run: takes Tokens [n, l] and returns one row for each, [n, ...].
        tokens: framed tokens [N, L].

    Returns:
        The rows of all runs in the order of `tokens`, [N, ...].
    """
    lengths, order = tokens.mask.sum(-1).sort(descending=True)
    lengths = lengths.tolist()
    outputs = []
    for part in budget_slices(lengths, token_budget(tokens.ids.device)):
        outputs.append(run(tokens.select(order[part]).cut(max(1, lengths[part.start]))))
    return chain(outputs)[order.argsort()]


def chain(parts: Sequence[Any]) -> Any:
    """Concatenate the rows of several runs, [n, ...] each. Token axes are padded to the widest.

    >>> chain([torch.ones(1, 2), torch.ones(1, 3)]).tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    """
    if not isinstance(parts[0], Tensor):
        return type(parts[0])(*(chain(field) for field in zip(*parts, strict=True)))
    if parts[0].dim() > 1 and any(part.shape[1] != parts[0].shape[1] for part in parts):
        widest = max(part.shape[1] for part in parts)
        other_axes = [0, 0] * (parts[0].dim() - 2)
        parts = [pad(part, (*other_axes, 0, widest - part.shape[1])) for part in parts]
    return torch.cat(list(parts))


def map_tensors(function: Callable[[Tensor], Any], encoded: Any) -> Any:
    """Apply a function to a tensor, or to every tensor of a NamedTuple."""
    return function(encoded) if isinstance(encoded, Tensor) else type(encoded)(*(function(part) for part in encoded))


def tensors(encoded: Any) -> list[Tensor]:
    """List a tensor, or the tensors of a NamedTuple."""
    return [encoded] if isinstance(encoded, Tensor) else list(encoded)


def nbytes(encoded: Any) -> int:
    """Return the bytes of a tensor, or of the tensors of a NamedTuple.

    >>> nbytes(torch.zeros(2, 3))
    24
    """
    return sum(part.nbytes for part in tensors(encoded))


def padded_index(rows: Sequence[Sequence[int]]) -> Tensor:
    """Make the index that `take_rows` takes from one list of row numbers a context: [G, C], filled up with -1.

    >>> padded_index([[3, 1], [2]])
    tensor([[ 3,  1],
            [ 2, -1]])
    """
    return pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True, padding_value=-1)


def is_shared(index: Tensor, count: int) -> bool:
    """Tell whether an index [G, C] has all `count` candidates in order, but for those that are missing in some rows.

    >>> is_shared(torch.tensor([[0, 1, 2], [0, -1, 2]]), 3), is_shared(torch.tensor([[0, 2, 1]]), 3)
    (True, False)
    """
    whole = torch.arange(count, device=index.device)
    return index.shape[1] == count and bool(((index == whole) | (index < 0)).all())


def take_rows(encoded: Any, index: Tensor | None) -> Any:
    """Pick rows of encoded candidates for each context.

    Args:
        encoded: N candidates, [N, ...].
        index: row numbers [G, C], -1 for no candidate. None: all N for every context.

    Returns:
        [G, C, ...], or [1, N, ...] without an index. Where the index is -1 masks are False, and nothing else counts.
    """

    def rows(part: Tensor) -> Tensor:
        if index is None:
            return part.unsqueeze(0)
        chosen = part[index.clamp(min=0)]
        return chosen & (index >= 0).unsqueeze(-1) if chosen.dtype == torch.bool else chosen

    return map_tensors(rows, encoded)
