"""Keep the encodings of candidates in memory from one batch to the next."""

from collections.abc import Sequence
from typing import Any

from poly_agents.encoders.states import chain, map_tensors, tensors
from poly_agents.scoring.ranker import Ranker

LIMIT = 2**29  # bytes


class Memory:
    """Encodings by the ids of their candidates, up to a number of bytes. Then the oldest are forgotten."""

    def __init__(self, limit: int = LIMIT):
        self.limit = limit
        self.bytes = 0
        self.rows: dict[tuple[int, ...], Any] = {}  # [1, ...] each, the oldest first

    def encode(self, ranker: Ranker, ids: Sequence[Sequence[int]]) -> Any:
        """Return what `ranker.encode_ids` returns. Only candidates that are not in memory are encoded."""
        keys = [tuple(text) for text in ids]
        new = list(dict.fromkeys(key for key in keys if key not in self.rows))
        if new:
            encoded = ranker.encode_ids(new)
            for number, key in enumerate(new):
                self.rows[key] = map_tensors(lambda part, row=number: part[row : row + 1].clone(), encoded)
                self.bytes += size(self.rows[key])
        rows = chain([self.rows[key] for key in keys])
        while self.bytes > self.limit:
            self.bytes -= size(self.rows.pop(next(iter(self.rows))))
        return rows


def size(encoded: Any) -> int:
    """Return the bytes of encoded candidates."""
    return sum(part.nbytes for part in tensors(encoded))
