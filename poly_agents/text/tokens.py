"""Padded token ids, and where the real tokens are."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """Padded token ids. The mask is True for real tokens; ids and segments elsewhere have no meaning."""

    ids: Tensor  # [..., L] int64
    mask: Tensor  # [..., L] bool
    segments: Tensor  # [..., L] int64

    @property
    def places(self) -> Tensor:
        """Return the place of each real token in its text, counted from 0: [..., L]. That of padding has no meaning."""
        return self.mask.cumsum(-1) - 1

    def select(self, index: Tensor | tuple[Tensor, ...]) -> "Tokens":
        """Pick rows by an index of the first axis, or by one for each of the first axes."""
        return Tokens(*(part[index] for part in self))

    def cut(self, length: int) -> "Tokens":
        """Keep the first `length` columns."""
        return Tokens(*(part[..., :length] for part in self))

    def to(self, device: torch.device) -> "Tokens":
        """Move all tensors to a device."""
        return Tokens(*(part.to(device) for part in self))


def pad(texts: Sequence[Sequence[int]]) -> Tokens:
    """Pad the bare ids of N texts to the longest -> [N, L], L at least 1.

    >>> pad([[5, 6, 7], [8]]).ids
    tensor([[5, 6, 7],
            [8, 0, 0]])
    """
    lengths = torch.tensor([len(text) for text in texts])
    columns = max(1, int(lengths.max())) if len(texts) else 1
    mask = torch.arange(columns) < lengths.unsqueeze(-1)  # [N, L]
    ids = torch.zeros(len(texts), columns, dtype=torch.long)
    ids[mask] = torch.tensor([token for text in texts for token in text], dtype=torch.long)
    return Tokens(ids, mask, torch.zeros_like(ids))


class Real(NamedTuple):
    """The places of the T real tokens of padded texts."""

    mask: Tensor  # [..., L] bool
    index: Tensor  # [T], places in the flattened mask

    @classmethod
    def of(cls, mask: Tensor) -> "Real":
        """Find the real tokens of a mask [..., L]."""
        return cls(mask, mask.flatten().nonzero().squeeze(-1))

    def pack(self, padded: Tensor) -> Tensor:
        """Take the real tokens out of padded rows, [..., L, *] -> [T, *]."""
        return padded.flatten(0, self.mask.dim() - 1)[self.index]

    def unpack(self, packed: Tensor) -> Tensor:
        """Put real tokens back, [T, D] -> [..., L, D], with zeros for padding."""
        padded = packed.new_zeros(self.mask.numel(), packed.shape[-1]).index_copy(0, self.index, packed)
        return padded.view(*self.mask.shape, -1)
