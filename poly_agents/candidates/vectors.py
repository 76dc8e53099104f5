"""Hold many encoded candidates as a few flat tensors: in a precision of their own, without padding, read in slices.

int8 divides the numbers of a vector by the largest of them and rounds to 254 steps: x ~ scale * q, q in [-127, 127].
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poly_agents.encoders.precision import choose_dtype
from poly_agents.encoders.states import TokenStates
from poly_agents.errors import InputError

PRECISIONS = ("auto", "float32", "bfloat16", "int8")  # that `--store-precision` takes
STORED_AS = ("float32", "bfloat16", "float16", "int8")  # float16: what `auto` is for an encoder in float16


def flatten(encoded: Any, precision: str) -> dict[str, Tensor]:
    """Flatten encoded candidates, on the CPU.

    Args:
        encoded: what a ranker's `encode` returns for N candidates: vectors [N, D], vectors [N, K, D], or token states.
        precision: one of `STORED_AS`.

    Returns:
        vectors: [N, ...], or [T, D] for the T real tokens of all candidates.
        scales: the scale of each vector, if they are int8: [N, ..., 1] or [T, 1].
        lengths: the number of tokens of each candidate [N], for token states.
        norms: the norm of each candidate [N], if it has a single vector. Searches bound inner products with it.

    Raises:
        ValueError: the ranker does not encode candidates without their context.
    """
    if isinstance(encoded, TokenStates):  # real tokens come first
        tensors = {"lengths": encoded.mask.sum(-1).int().cpu()}
        vectors = encoded.vectors[encoded.mask]  # [T, D]
    elif isinstance(encoded, Tensor):
        tensors, vectors = {}, encoded
    else:
        raise InputError(
            "this ranker cannot encode a candidate without its context, so a store would save no work; use a model of "
            "bi, poly, early, mix, late, or of ed2lm with --ed2lm-encode candidate"
        )
    if precision == "int8":
        scales = vectors.float().abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
        tensors |= {"vectors": (vectors.float() / scales).round().to(torch.int8), "scales": scales}
    else:
        tensors["vectors"] = vectors.to(getattr(torch, precision))
    if isinstance(encoded, Tensor) and encoded.dim() == 2:
        tensors["norms"] = values(tensors["vectors"], tensors.get("scales")).float().norm(dim=-1)
    return {name: part.cpu().contiguous() for name, part in tensors.items()}


def check_finite(encoded: Tensor | TokenStates, texts: Sequence[str]) -> None:
    """Check the encodings of N candidates.

    Raises:
        ValueError: a vector or its norm is infinite or not a number. The message names the candidate.
    """
    if isinstance(encoded, TokenStates):
        encoded = encoded.vectors.masked_fill(~encoded.mask.unsqueeze(-1), 0)
    finite = encoded.float().square().flatten(1).sum(-1).isfinite()  # [N]
    if not finite.all():
        text = texts[finite.tolist().index(False)]
        raise InputError(
            f"the encoding of the candidate {text[:80]!r} is infinite or not a number; the weights of the model are "
            "damaged or its training diverged, give another checkpoint"
        )


class Block(NamedTuple):
    """Some candidates of one vector each."""

    first: int  # row of the first one, if their rows follow one another
    vectors: Tensor  # [n, D]
    scales: Tensor | None  # [n, 1], of int8 vectors
    norms: Tensor  # [n]

    @property
    def values(self) -> Tensor:
        """Return the vectors in float32, [n, D]."""
        return values(self.vectors, self.scales).float()

    def products(self, queries: Tensor) -> Tensor:
        """Multiply with queries [K, D] in their type -> [n, K]. Those of int8 vectors still need `scaled`."""
        return self.vectors.to(queries.dtype) @ queries.T

    def scaled(self, products: Tensor) -> Tensor:
        """Multiply one product of each candidate, [n], with its scale -> [n] float32."""
        return products.float() if self.scales is None else products.float() * self.scales.squeeze(-1)


class Vectors:
    """Encoded candidates in segments, each of which is what `flatten` returned. Rows are counted over all segments."""

    def __init__(self, segments: Sequence[dict[str, Tensor]]):
        self.segments = segments
        self.ragged = bool(segments) and "lengths" in segments[0]
        self.rows = [len(part["lengths" if self.ragged else "vectors"]) for part in segments]
        self.bounds = torch.tensor(self.rows).cumsum(0)  # rows up to the end of each segment
        self.ends = [part["lengths"].long().cumsum(0) for part in segments] if self.ragged else []

    @classmethod
    def of(cls, encoded: Any, precision: str) -> "Vectors":
        """Hold encoded candidates in memory, as `flatten` takes them."""
        return cls([flatten(encoded, precision)])

    def __len__(self) -> int:
        return sum(self.rows)

    @property
    def single(self) -> bool:
        """Tell whether every candidate has exactly one vector."""
        return bool(self.segments) and not self.ragged and self.segments[0]["vectors"].dim() == 2

    @property
    def dtype(self) -> torch.dtype:
        """Return the type that the vectors are held in."""
        return self.segments[0]["vectors"].dtype

    @property
    def vectors_each(self) -> int:
        """Return how many vectors a candidate has on average, rounded up."""
        count = sum(part["vectors"][..., 0].numel() for part in self.segments)
        return -(-count // max(1, len(self)))

    def slices(self, size: int) -> Iterator[tuple[int, Any]]:
        """Yield slices of at most `size` candidates: their first row, and the candidates as a ranker encodes them.

        No slice crosses the end of a segment.
        """
        first = 0
        for number, rows in enumerate(self.rows):
            for start in range(0, rows, size):
                yield first + start, self._encoded(number, start, min(start + size, rows))
            first += rows

    def _encoded(self, number: int, start: int, stop: int) -> Any:
        """Return rows of one segment as a ranker encodes them, [n, ...]."""
        if not self.ragged:
            return self._values(number, start, stop)
        first_token = int(self.ends[number][start - 1]) if start else 0
        flat = self._values(number, first_token, int(self.ends[number][stop - 1]))  # [tokens, D]
        lengths = self.segments[number]["lengths"][start:stop]
        mask = torch.arange(max(1, int(lengths.max()))) < lengths.unsqueeze(-1)  # [n, L]
        vectors = flat.new_zeros(*mask.shape, flat.shape[-1])
        vectors[mask] = flat
        return TokenStates(vectors, mask)

    def _values(self, number: int, start: int, stop: int) -> Tensor:
        segment = self.segments[number]
        scales = segment["scales"][start:stop] if "scales" in segment else None
        return values(segment["vectors"][start:stop], scales)

    def block(self, rows: Tensor) -> Block:
        """Return the candidates of some rows [n], in the order of `rows`. Each has a single vector."""
        numbers = torch.bucketize(rows, self.bounds, right=True)  # [n] segment of each row
        names = [name for name in ("vectors", "scales", "norms") if name in self.segments[0]]
        parts: dict[str, list[Tensor]] = {name: [] for name in names}
        places = []  # in `rows`, of the rows of each segment
        for number in numbers.unique().tolist():
            places.append((numbers == number).nonzero().squeeze(-1))
            before = self.bounds[number - 1] if number else 0
            for name in names:
                parts[name].append(self.segments[number][name][rows[places[-1]] - before])
        order = torch.cat(places).argsort()
        joined = {name: torch.cat(part)[order] for name, part in parts.items()}
        return Block(-1, joined["vectors"], joined.get("scales"), joined["norms"])

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield all candidates in blocks of at most `size`. Each has a single vector."""
        first = 0
        for segment in self.segments:
            for start in range(0, len(segment["vectors"]), size):
                rows = slice(start, start + size)
                scales = segment["scales"][rows] if "scales" in segment else None
                yield Block(first + start, segment["vectors"][rows], scales, segment["norms"][rows])
            first += len(segment["vectors"])

    def select(self, wanted: Tensor) -> dict[str, Tensor]:
        """Return a new segment with those rows of the only segment that `wanted` [N] is True for."""
        (segment,) = self.segments
        vectors = wanted.repeat_interleave(segment["lengths"].long()) if self.ragged else wanted
        chosen = {name: segment[name][vectors] for name in ("vectors", "scales") if name in segment}
        return chosen | {name: segment[name][wanted] for name in ("lengths", "norms") if name in segment}


def values(vectors: Tensor, scales: Tensor | None) -> Tensor:
    """Return stored vectors as numbers to compute with: int8 is multiplied with its scales, other types are kept."""
    return vectors if scales is None else vectors.float() * scales


def product_dtype(stored: torch.dtype) -> torch.dtype:
    """Return the type that the inner products of stored vectors are computed in."""
    return choose_dtype("auto", "cpu") if stored == torch.int8 else stored
