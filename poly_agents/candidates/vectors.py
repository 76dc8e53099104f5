"""Many kept candidates as a few flat tensors: a precision of their own, ragged ones without padding, read in slices.

int8 keeps the largest number of a vector and the shares of it in 254 steps: x ~ scale * q, q in [-127, 127].
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poly_agents.encoders.precision import choose_dtype
from poly_agents.encoders.states import TokenStates

PRECISIONS = ("auto", "float32", "bfloat16", "int8")


def flatten(kept: Any, precision: str) -> dict[str, Tensor]:
    """What a ranker keeps of N candidates -> tensors of N rows, or of all of their tokens, on the CPU."""
    if isinstance(kept, TokenStates):  # real tokens come first
        tensors = {"lengths": kept.mask.sum(-1).int().cpu()}
        vectors = kept.vectors[kept.mask]  # [tokens, D]
    elif isinstance(kept, Tensor):
        tensors, vectors = {}, kept
    else:
        raise ValueError(f"{type(kept).__name__} is not worth keeping: a ranker's vectors or token states are")
    if precision == "int8":
        scales = vectors.float().abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
        tensors |= {"vectors": (vectors.float() / scales).round().to(torch.int8), "scales": scales}
    else:
        tensors["vectors"] = vectors.to(getattr(torch, precision))
    if isinstance(kept, Tensor) and kept.dim() == 2:
        tensors["norms"] = numbers(tensors).float().norm(dim=-1)  # what a search bounds inner products with
    return {name: part.cpu().contiguous() for name, part in tensors.items()}


class Block(NamedTuple):
    """Some candidates of one vector each."""

    first: int  # row of the first one, where they follow one another
    vectors: Tensor  # [n, D]
    scales: Tensor | None  # [n, 1] of int8 vectors
    norms: Tensor  # [n]

    @property
    def numbers(self) -> Tensor:
        """[n, D] float32"""
        return self.vectors.float() if self.scales is None else self.vectors.float() * self.scales

    def products(self, queries: Tensor) -> Tensor:
        """With queries [K, D] in the type that is computed in: [n, K]; int8 still needs its scales."""
        return self.vectors.to(queries.dtype) @ queries.T

    def scaled(self, largest: Tensor) -> Tensor:
        """A result of products, with its scales: [n] float32."""
        return largest.float() if self.scales is None else largest.float() * self.scales.squeeze(-1)


class Vectors:
    """Kept candidates in some segments, their rows counted through: what `flatten` gave of each."""

    def __init__(self, segments: Sequence[dict[str, Tensor]]):
        self.segments = segments
        self.ragged = bool(segments) and "lengths" in segments[0]
        self.rows = [len(part["lengths" if self.ragged else "vectors"]) for part in segments]
        self.bounds = torch.tensor(self.rows).cumsum(0)  # rows up to the end of each segment
        self.ends = [part["lengths"].long().cumsum(0) for part in segments] if self.ragged else []

    @classmethod
    def of(cls, kept: Any, precision: str) -> "Vectors":
        """What a ranker keeps of some candidates, in memory."""
        return cls([flatten(kept, precision)])

    def __len__(self) -> int:
        return sum(self.rows)

    @property
    def single(self) -> bool:
        """Whether there is one vector a candidate."""
        return bool(self.segments) and not self.ragged and self.segments[0]["vectors"].dim() == 2

    @property
    def kind(self) -> torch.dtype:
        """What the vectors are kept as."""
        return self.segments[0]["vectors"].dtype

    @property
    def tokens(self) -> int:
        """Vectors of a candidate, on average."""
        held = sum(part["vectors"][..., 0].numel() for part in self.segments)
        return -(-held // max(1, len(self)))

    def slices(self, size: int) -> Iterator[tuple[int, Any]]:
        """First row and kept candidates [n, ...], `size` at most at a time; no slice crosses a segment."""
        first = 0
        for number, rows in enumerate(self.rows):
            for start in range(0, rows, size):
                yield first + start, self._kept(number, start, min(start + size, rows))
            first += rows

    def _kept(self, number: int, start: int, stop: int) -> Any:
        if not self.ragged:
            return numbers(self._part(number, start, stop))
        before = int(self.ends[number][start - 1]) if start else 0
        lengths = self.segments[number]["lengths"][start:stop]
        flat = numbers(self._part(number, before, int(self.ends[number][stop - 1])))
        mask = torch.arange(max(1, int(lengths.max()))) < lengths.unsqueeze(-1)  # [n, L]
        vectors = flat.new_zeros(*mask.shape, flat.shape[-1])
        vectors[mask] = flat
        return TokenStates(vectors, mask)

    def _part(self, number: int, start: int, stop: int) -> dict[str, Tensor]:
        held = self.segments[number]
        return {name: held[name][start:stop] for name in ("vectors", "scales") if name in held}

    def block(self, rows: Tensor) -> Block:
        """Some rows [n], of one vector each, in their order."""
        numbers = torch.bucketize(rows, self.bounds, right=True)  # of the segments
        names = [name for name in ("vectors", "scales", "norms") if name in self.segments[0]]
        parts, places = {name: [] for name in names}, []
        for number in numbers.unique().tolist():
            places.append((numbers == number).nonzero().squeeze(-1))
            own = rows[places[-1]] - (self.bounds[number - 1] if number else 0)
            for name in names:
                parts[name].append(self.segments[number][name][own])
        order = torch.cat(places).argsort()
        held = {name: torch.cat(part)[order] for name, part in parts.items()}
        return Block(-1, held["vectors"], held.get("scales"), held["norms"])

    def select(self, wanted: Tensor) -> dict[str, Tensor]:
        """Some rows [N] bool of the only segment, as a segment of their own."""
        (held,) = self.segments
        each = wanted.repeat_interleave(held["lengths"].long()) if self.ragged else wanted
        chosen = {name: held[name][each] for name in ("vectors", "scales") if name in held}
        return chosen | {name: held[name][wanted] for name in ("lengths", "norms") if name in held}


def numbers(part: dict[str, Tensor]) -> Tensor:
    """The vectors in a precision that is computed in."""
    return part["vectors"] if "scales" not in part else part["vectors"].float() * part["scales"]


def blocks(vectors: Vectors, size: int) -> Iterator[Block]:
    """Rows of one vector each, `size` at most at a time."""
    first = 0
    for segment in vectors.segments:
        parts = [segment[name].split(size) if name in segment else None for name in ("vectors", "scales", "norms")]
        for number, held in enumerate(parts[0]):
            yield Block(first, held, parts[1] and parts[1][number], parts[2][number])
            first += len(held)


def computed_in(kind: torch.dtype) -> torch.dtype:
    """The type that products of vectors kept as `kind` are computed in."""
    return choose_dtype("auto", "cpu") if kind == torch.int8 else kind
