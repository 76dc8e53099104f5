"""Cache encoded candidates in memory from one batch to the next."""

from collections.abc import Sequence
from typing import Any

from poly_agents.encoders.states import chain, map_tensors, nbytes
from poly_agents.scoring.ranker import Ranker

LIMIT = 2**29  # bytes


class Memory:
    """A cache of encoded candidates by their token ids, for one ranker. When it is full it drops the oldest ones."""

    def __init__(self, limit: int = LIMIT):
        self.limit = limit
        self.version: tuple = ()  # of the weights that encoded the rows
        self.bytes = 0
        self.rows: dict[tuple[int, ...], Any] = {}  # ids -> encoded candidate [1, ...], oldest first

    def encode(self, ranker: Ranker, ids: Sequence[Sequence[int]]) -> Any:
        """Encode candidates by their bare ids: N of them -> [N, ...], as `ranker.encode_ids`, but each only once."""
        if self.version != (version := ranker.weights_version()):
            self.rows, self.bytes, self.version = {}, 0, version
        keys = [tuple(text) for text in ids]
        new = list(dict.fromkeys(key for key in keys if key not in self.rows))
        if new:
            encoded = ranker.encode_ids(new)
            for number, key in enumerate(new):
                self.rows[key] = copy_of_row(encoded, number)
                self.bytes += nbytes(self.rows[key])
        joined = chain([self.rows[key] for key in keys])
        while self.bytes > self.limit:
            self.bytes -= nbytes(self.rows.pop(next(iter(self.rows))))
        return joined


def copy_of_row(encoded: Any, number: int) -> Any:
    """Copy one row of encoded candidates, [1, ...]. A view would hold all rows in memory."""
    return map_tensors(lambda part: part[number : number + 1].clone(), encoded)
