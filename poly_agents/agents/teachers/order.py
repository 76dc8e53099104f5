"""The order of examples: a new shuffle every epoch, a shuffle buffer, and streams that hold only a few."""

import random
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from poly_agents.agents.teachers.examples import Example


def epoch_random(seed: int | None, epoch: int) -> random.Random:
    """Make the random numbers of one epoch. They depend on `--seed` and the epoch's number alone."""
    return random.Random(f"{seed or 0}:{epoch}")


class Shuffles:
    """Shuffles of `size` examples, a new one every epoch and the same for the same seed."""

    def __init__(self, size: int, seed: int | None):
        self.size, self.seed = size, seed
        self.epoch = -1
        self.newest: Sequence[int] = ()

    def of(self, epoch: int) -> Sequence[int]:
        """Return the order of an epoch. Only the newest one is kept in memory."""
        if epoch != self.epoch:
            order = array("L", range(self.size))
            epoch_random(self.seed, epoch).shuffle(order)
            self.epoch, self.newest = epoch, order
        return self.newest


def shuffle_buffer(examples: Iterable[Example], size: int, draw: random.Random) -> Iterator[Example]:
    """Yield every example once, drawn from a buffer of `size` examples that the next ones refill.

    >>> sorted(shuffle_buffer("abcdef", 3, random.Random(1)))
    ['a', 'b', 'c', 'd', 'e', 'f']
    """
    rest = iter(examples)
    buffer = list(islice(rest, size))
    for example in rest:
        place = draw.randrange(size)
        yield buffer[place]
        buffer[place] = example
    draw.shuffle(buffer)
    yield from buffer


class Stream:
    """Examples that are read when they are needed. The teachers of a batch take them from one stream.

    Args:
        read: starts reading; called at the first `take` and at the first one after `restart`.
        teachers: how many teachers take turns, which is the batch size. All of them end in the same batch, so
            the stream looks that many examples ahead to know which ones are the last.
    """

    def __init__(self, read: Callable[[], Iterator[Example]], teachers: int):
        self.read = read
        self.ahead = max(1, teachers)
        self.restart()

    def restart(self) -> None:
        """Start reading again at the next `take`."""
        self.examples: Iterator[Example] | None = None
        self.waiting: deque[Example] = deque()

    def take(self) -> Example | None:
        """Return the next example, or None after the last one."""
        if self.examples is None:
            self.examples = self.read()
        self.waiting.extend(islice(self.examples, self.ahead + 1 - len(self.waiting)))
        return self.waiting.popleft() if self.waiting else None

    @property
    def ends(self) -> bool:
        """Tell whether the teacher that took the newest example will get no further one."""
        return len(self.waiting) < self.ahead
