"""Compute the next part in a thread while this one is in use."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def prefetch(function: Callable[[Any], Any], parts: Iterable[Any]) -> Iterator[Any]:
    """Map a function over parts. A thread makes the next result while the last one is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = None
        for part in parts:
            ready, coming = coming, thread.submit(function, part)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()
