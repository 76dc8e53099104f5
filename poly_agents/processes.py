"""What the processes of a distributed run tell each other. With one process everything is the identity."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.functional import pad

from poly_agents.encoders.states import map_tensors


def count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if count() > 1 else 0


def own_rows() -> slice:
    """Which rows of a common list are this process's: every `count()`-th."""
    return slice(rank(), None, count())


@contextmanager
def launched() -> Iterator[int]:
    """The rank of a process that may have been started by torchrun; they can talk to each other inside."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield 0
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("gloo")
    try:
        yield rank()
    finally:
        dist.destroy_process_group()


def map_shared(function: Callable[[Any], Any], parts: list[Any]) -> list[Any]:
    """`function` of every part, in order. The first process calls this, the others are in `share_work` with it."""
    if count() == 1:
        return [function(part) for part in parts]
    dist.broadcast_object_list([parts], 0)
    done: list[Any] = [None] * count()
    dist.gather_object([function(part) for part in parts[own_rows()]], done)
    return [done[number % count()][number // count()] for number in range(len(parts))]


def share_work(function: Callable[[Any], Any]) -> None:
    """Do this process's part of every `map_shared` of the first one, until that leaves `workers`."""
    while True:
        told: list[Any] = [None]
        dist.broadcast_object_list(told, 0)
        if told[0] is None:
            return
        dist.gather_object([function(part) for part in told[0][own_rows()]])


@contextmanager
def workers() -> Iterator[None]:
    """Inside, the first process finds the others in `share_work`; afterwards, or when it fails, they go on."""
    try:
        yield
    finally:
        if count() > 1:
            dist.broadcast_object_list([None], 0)


def all_gather(thing: Any) -> list[Any]:
    """The `thing` of every process, in the order of their ranks."""
    if count() == 1:
        return [thing]
    things: list[Any] = [None] * count()
    dist.all_gather_object(things, thing)
    return things


def gather(kept: Any, rows: int) -> Any:
    """What each process kept of its `own` rows of a list -> all `rows` of it. Nothing of this is differentiated."""

    def gather_one(part: Tensor) -> Tensor:
        part = part.detach()
        if part.dim() > 1:
            part = widen(part, 1, max(all_gather(part.shape[1])))  # token axes are as wide as the widest
        part = widen(part, 0, -(-rows // count())).contiguous()
        parts = [torch.empty_like(part) for _ in range(count())]
        dist.all_gather(parts, part)
        return torch.stack(parts, 1).flatten(0, 1)[:rows]

    return kept if count() == 1 else map_tensors(gather_one, kept)


def widen(part: Tensor, axis: int, size: int) -> Tensor:
    """Pad one axis with zeros."""
    return pad(part, [0, 0] * (part.dim() - 1 - axis) + [0, size - part.shape[axis]])


def all_reduce_sum(tensor: Tensor) -> None:
    """Replace a tensor by its sum over the processes."""
    if count() > 1:
        dist.all_reduce(tensor)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if count() > 1 and gradients:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        all_reduce_sum(flat)
        parts = flat.div_(count()).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
