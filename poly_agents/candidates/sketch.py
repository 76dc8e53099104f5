"""A short int8 code of each candidate that bounds, and estimates, its inner products.

    x = W y + rest,  y = W^T x     W [D, R]: the directions that hold most of the candidates' squares, turned at random,
                                   so that no coordinate is much larger than another
    y = s q + error                q int8: one scale s for a candidate

    view . x  <=  s t (p . q)  +  |p' - t p| |x|  +  |p'| |error|  +  |view - W p'| |rest|

p' = W^T view and t p is what int8 leaves of it. The first term is all there is to compute for every candidate: R bytes
to read, and products that a processor makes twice as fast as in bfloat16.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from poly_agents.candidates.vectors import Vectors

RANK = 160  # R, at most
SAMPLE = 2**14  # candidates that the directions are found from
ROWS = 2**11  # candidates at a time


def sketch(vectors: Vectors) -> dict[str, Tensor]:
    """What a segment keeps beside its candidates' vectors, [N, D]."""
    some = torch.arange(0, len(vectors), 1 + len(vectors) // SAMPLE)
    parts = (vectors.block(rows).numbers.double() for rows in some.split(ROWS))
    squares = sum(part.T @ part for part in parts)  # [D, D]
    directions = torch.linalg.eigh(squares).eigenvectors.flip(1)[:, :RANK]  # [D, R]
    rank = directions.shape[1]
    turn = torch.randn(rank, rank, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    basis = (directions @ torch.linalg.qr(turn)[0]).float()
    parts = [shorten(numbers.float(), basis) for _, numbers in vectors.slices(ROWS)]
    return {"basis": basis} | {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def shorten(numbers: Tensor, basis: Tensor) -> dict[str, Tensor]:
    """Codes of some candidates [n, D] float32, and what they leave out."""
    y = numbers @ basis  # [n, R]
    scales = y.abs().amax(-1).clamp(min=1e-12) / 127
    codes = (y / scales.unsqueeze(-1)).round().to(torch.int8)
    return {
        "codes": codes,
        "code_scales": scales,
        "code_errors": (y - scales.unsqueeze(-1) * codes).norm(dim=-1),
        "code_rests": (numbers - y @ basis.T).norm(dim=-1),
    }


class Coded(NamedTuple):
    """Views in the code of one segment."""

    codes: Tensor  # [K, R] int8
    scale: float  # t
    error: float  # the largest |p' - t p|
    length: float  # the largest |p'|
    rest: float  # the largest |view - W p'|


def code(views: Tensor, segment: dict[str, Tensor]) -> Coded:
    """Views [K, D] as the candidates of a segment can meet them."""
    p = views @ segment["basis"]  # [K, R]
    scale = float(p.abs().max().clamp(min=1e-12)) / 127
    codes = (p / scale).round().to(torch.int8)
    far = (p - scale * codes, p, views - p @ segment["basis"].T)
    return Coded(codes, scale, *(float(part.norm(dim=-1).max()) for part in far))


def largest(coded: Coded, segment: dict[str, Tensor], size: int) -> Tensor:
    """The first term's largest over the views, for each candidate: [N]; `size` candidates at a time."""
    parts = [torch._int_mm(part, coded.codes.T).amax(-1) for part in segment["codes"].split(size)]
    return torch.cat(parts) * (segment["code_scales"] * coded.scale)


def bound(coded: Coded, segment: dict[str, Tensor], size: int) -> Tensor:
    """What the largest inner product of each candidate with a view can be at most, [N]."""
    errors = segment["code_errors"] * coded.length + segment["code_rests"] * coded.rest
    lengths = segment["norms"] * (coded.error + 1e-5 * (coded.length + coded.rest))  # and what float32 leaves
    return largest(coded, segment, size) + errors + lengths


def spread_out(views: Tensor, count: int) -> Tensor:
    """Some of the views [K, D], each as far as can be from those before it: [count, D]."""
    if count >= len(views):
        return views
    chosen, distance = [0], (views - views[0]).norm(dim=-1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (views - views[chosen[-1]]).norm(dim=-1))
    return views[chosen]
