"""Let the processes of a distributed run exchange data. With one process every function here is the identity."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.functional import pad

from poly_agents import process_group
from poly_agents.encoders.states import map_tensors


def count() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if count() > 1 else 0


def own_rows() -> slice:
    """Return this process's rows of a shared list: every `count()`-th one."""
    return slice(rank(), None, count())


@contextmanager
def launched() -> Iterator[int]:
    """Join the processes that torchrun started, if it did, and give this one's rank."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield 0
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with process_group.joined("gloo"):
        yield rank()


def map_shared(function: Callable[[Any], Any], parts: list[Any]) -> list[Any]:
    """Apply a function to all parts and return the results in order. Every process does its share.

    The first process calls this inside `workers`, the others are in `share_work` meanwhile.

    Raises:
        ProcessError: the function failed in another process.
        Exception: what the function raised in this process.
    """
    if count() == 1:
        return [function(part) for part in parts]
    dist.broadcast_object_list([parts], 0)
    done = _gather_results(function, parts)
    return [done[number % count()][number // count()] for number in range(len(parts))]


def share_work(function: Callable[[Any], Any]) -> None:
    """Do this process's share of every `map_shared` of the first process, until that one leaves `workers`."""
    while True:
        received: list[Any] = [None]
        dist.broadcast_object_list(received, 0)
        if received[0] is None:
            return
        _gather_results(function, received[0])


def _gather_results(function: Callable[[Any], Any], parts: list[Any]) -> list[Any]:
    """Return every process's results, in the first process; an empty list in the others.

    An error is raised only after all have met: a process that left earlier would let the others wait for its results.
    """
    results, error, failure = [], None, None
    try:
        results = [function(part) for part in parts[own_rows()]]
    except Exception as raised:
        error, failure = raised, f"{type(raised).__name__}: {raised}"
    collected: list[Any] = [None] * count()
    dist.gather_object((results, failure), collected if rank() == 0 else None)
    if error is not None:
        raise error
    if rank() > 0:
        return []
    for number, (_, failure) in enumerate(collected):
        if failure is not None:
            raise process_group.ProcessError(f"the process of rank {number} failed with {failure}")
    return [results for results, _ in collected]


@contextmanager
def workers() -> Iterator[None]:
    """Have the other processes in `share_work` inside. They leave it at the end, also after an error of the first."""
    try:
        yield
    except Exception:
        with suppress(Exception):  # some of them may be gone; the error that led here says more
            _release()
        raise
    _release()


def _release() -> None:
    if count() > 1:
        dist.broadcast_object_list([None], 0)


def all_gather(thing: Any) -> list[Any]:
    """Return every process's `thing`, in the order of their ranks."""
    if count() == 1:
        return [thing]
    things: list[Any] = [None] * count()
    dist.all_gather_object(things, thing)
    return things


def gather(kept: Any, rows: int) -> Any:
    """Put a list together of which each process encoded its `own_rows`. No gradient flows through this.

    Args:
        kept: tensors of this process's rows, in any structure that `map_tensors` knows.
        rows: number of rows of the whole list.
    """

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
