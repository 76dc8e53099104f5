"""Padded token ids, and where the real tokens are."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """Padded token ids. `mask` is True for real tokens; what `ids` holds elsewhere has no meaning."""

    ids: Tensor  # [..., L] int64
    mask: Tensor  # [..., L] bool
    segments: Tensor  # [..., L] int64

    def select(self, index: Tensor) -> "Tokens":
        """Rows of the first axis, by an index of any shape."""
        return Tokens(*(part[index] for part in self))

    def cut(self, length: int) -> "Tokens":
        """The first `length` columns."""
        return Tokens(*(part[..., :length] for part in self))

    def to(self, device: torch.device) -> "Tokens":
        return Tokens(*(part.to(device) for part in self))


def pad(texts: Sequence[Sequence[int]]) -> Tokens:
    """Bare ids of N texts -> Tokens [N, L], padded to the longest, L at least 1."""
    lengths = torch.tensor([len(text) for text in texts])
    columns = max(1, int(lengths.max())) if len(texts) else 1
    mask = torch.arange(columns) < lengths.unsqueeze(-1)  # [N, L]
    ids = torch.zeros(len(texts), columns, dtype=torch.long)
    ids[mask] = torch.tensor([token for text in texts for token in text], dtype=torch.long)
    return Tokens(ids, mask, torch.zeros_like(ids))


class Real(NamedTuple):
    """Where the T real tokens of padded texts are."""

    mask: Tensor  # [..., L] bool
    index: Tensor  # [T]

    @classmethod
    def of(cls, mask: Tensor) -> "Real":
        return cls(mask, mask.flatten().nonzero().squeeze(-1))

    def pack(self, padded: Tensor) -> Tensor:
        """[..., L, *] -> [T, *]"""
        return padded.flatten(0, self.mask.dim() - 1)[self.index]

    def unpack(self, packed: Tensor) -> Tensor:
        """[T, D] -> [..., L, D], zeros for padding."""
        padded = packed.new_zeros(self.mask.numel(), packed.shape[-1]).index_copy(0, self.index, packed)
        return padded.view(*self.mask.shape, -1)
