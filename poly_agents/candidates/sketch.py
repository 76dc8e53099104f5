"""Bound and estimate inner products by a short int8 code of each candidate.

    x = W y + rest,  y = W^T x     W [D, R]: the directions that hold most of the candidates' squares, rotated at random
                                   so that no coordinate is much larger than another
    y = s q + error                q int8, with one scale s for each candidate

    view . x  <=  s t (p . q)  +  |p' - t p| |x|  +  |p'| |error|  +  |view - W p'| |rest|

p' = W^T view, and t p is p' rounded to int8. Only the first term has to be computed for every candidate. It reads R
bytes, and its int8 products are twice as fast on a processor as those of bfloat16.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from poly_agents.candidates.vectors import Vectors

RANK = 160  # R, at most
SAMPLE = 2**14  # candidates that the directions are computed from, about
ROWS = 2**11  # candidates encoded at a time


def sketch(vectors: Vectors) -> dict[str, Tensor]:
    """Encode the candidates of a segment. Each has a single vector, [N, D].

    Returns:
        basis: W, [D, R].
        codes, code_scales: q [N, R] and s [N].
        code_errors, code_rests: |error| and |rest|, [N] each.
    """
    some = torch.arange(0, len(vectors), 1 + len(vectors) // SAMPLE)
    parts = (vectors.block(rows).values.double() for rows in some.split(ROWS))
    squares = sum(part.T @ part for part in parts)  # [D, D]
    directions = torch.linalg.eigh(squares).eigenvectors.flip(1)[:, :RANK]  # [D, R]
    rank = directions.shape[1]
    rotation = torch.randn(rank, rank, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    basis = (directions @ torch.linalg.qr(rotation)[0]).float()
    coded = [encode(part.float(), basis) for _, part in vectors.slices(ROWS)]
    return {"basis": basis} | {name: torch.cat([part[name] for part in coded]) for name in coded[0]}


def encode(vectors: Tensor, basis: Tensor) -> dict[str, Tensor]:
    """Encode candidates [n, D] float32, and measure what the codes leave out."""
    y = vectors @ basis  # [n, R]
    scales = y.abs().amax(-1).clamp(min=1e-12) / 127
    codes = (y / scales.unsqueeze(-1)).round().to(torch.int8)
    return {
        "codes": codes,
        "code_scales": scales,
        "code_errors": (y - scales.unsqueeze(-1) * codes).norm(dim=-1),
        "code_rests": (vectors - y @ basis.T).norm(dim=-1),
    }


class CodedViews(NamedTuple):
    """The views of a context in the basis of one segment."""

    codes: Tensor  # p, [K, R] int8
    scale: float  # t
    error: float  # largest |p' - t p| of a view
    length: float  # largest |p'|
    rest: float  # largest |view - W p'|


def encode_views(views: Tensor, basis: Tensor) -> CodedViews:
    """Encode the views of a context [K, D]."""
    p = views @ basis  # [K, R]
    scale = float(p.abs().max().clamp(min=1e-12)) / 127
    codes = (p / scale).round().to(torch.int8)
    left_out = (p - scale * codes, p, views - p @ basis.T)
    return CodedViews(codes, scale, *(float(part.norm(dim=-1).max()) for part in left_out))


def estimates(views: Tensor, vectors: Vectors, size: int) -> Tensor:
    """Estimate the largest inner product of each candidate with a view.

    Args:
        views: views of one context, [K, D].
        vectors: N candidates whose segments have a sketch.
        size: number of candidates to compute at a time.

    Returns:
        The first term of the bound, [N].
    """
    parts = ((encode_views(views, segment["basis"]), segment) for segment in vectors.segments)
    return torch.cat([largest_products(coded, segment, size) for coded, segment in parts])


def bounds(views: Tensor, vectors: Vectors, size: int) -> Tensor:
    """Bound the largest inner product of each candidate with a view, from above: [N]. As `estimates`, but proven."""
    parts = []
    for segment in vectors.segments:
        coded = encode_views(views, segment["basis"])
        errors = segment["code_errors"] * coded.length + segment["code_rests"] * coded.rest
        rounding = 1e-5 * (coded.length + coded.rest)  # what rounding these sums to float32 adds, at most
        parts.append(largest_products(coded, segment, size) + errors + segment["norms"] * (coded.error + rounding))
    return torch.cat(parts)


def largest_products(coded: CodedViews, segment: dict[str, Tensor], size: int) -> Tensor:
    """Return the largest product of the codes of each candidate with those of a view, [N]."""
    parts = [int8_products(part, coded.codes).amax(-1) for part in segment["codes"].split(size)]
    return torch.cat(parts) * (segment["code_scales"] * coded.scale)


def int8_products(left: Tensor, right: Tensor) -> Tensor:
    """Multiply int8 matrices [N, R] and [K, R] without overflow -> [N, K]. R is at most 1,000.

    >>> int8_products(torch.tensor([[3, -2]], dtype=torch.int8), torch.tensor([[5, 1]], dtype=torch.int8)).int()
    tensor([[13]], dtype=torch.int32)
    """
    if multiplies_int8_exactly():
        return torch._int_mm(left, right.T)
    return left.float() @ right.float().T  # exact below 2^24, and 127 * 127 * R is less


@cache
def multiplies_int8_exactly() -> bool:
    """Tell whether torch's int8 product is exact on this processor.

    Without the instructions called VNNI it adds pairs of products in 16 bits, where they overflow, and gives no error.
    """
    largest = torch.full((32, 128), 127, dtype=torch.int8)
    return bool((torch._int_mm(largest, largest.T) == 127 * 127 * 128).all())


def spread_out(views: Tensor, count: int) -> Tensor:
    """Pick views [K, D], each as far as possible from those picked before it: [count, D], or all if there are fewer."""
    if count >= len(views):
        return views
    chosen, distance = [0], (views - views[0]).norm(dim=-1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (views - views[chosen[-1]]).norm(dim=-1))
    return views[chosen]
