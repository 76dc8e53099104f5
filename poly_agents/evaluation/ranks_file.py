"""Write the ranks of every evaluated context to a file, as JSON lines."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from poly_agents import processes


class RanksFile:
    """A file of JSON lines that appears when a task is finished. Until then the lines are in FILE.part.

    The lines of a later task are appended. If there are several processes, each writes a file of its own: FILE.0,
    FILE.1, ...

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ranks = RanksFile(f"{folder}/ranks.jsonl")
    ...     ranks.write([{"context": "hi", "rank": 1}])
    ...     ranks.close()
    ...     print(ranks.path.read_text(), end="")
    {"context": "hi", "rank": 1}
    """

    def __init__(self, path: str):
        self.path = Path(path if processes.count() == 1 else f"{path}.{processes.rank()}")
        self.part = Path(f"{self.path}.part")
        self.finished_before = False  # a task of this run is in the file already
        self.file: TextIO | None = None

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows and flush them, so that a killed run leaves whole lines only."""
        if self.file is None:
            self.file = self._open_part()
        self.file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self.file.flush()

    def _open_part(self) -> TextIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.finished_before:
            return self.part.open("w", encoding="utf-8")
        os.replace(self.path, self.part)
        return self.part.open("a", encoding="utf-8")

    def close(self) -> None:
        """Rename FILE.part to FILE. Nothing happens if nothing was written since the last time."""
        if self.file is None:
            return
        self.file.close()
        os.replace(self.part, self.path)
        self.file, self.finished_before = None, True


def finite(score: float) -> float | None:
    """Return a score as JSON can hold it: None if it is infinite or NaN.

    >>> finite(0.5), finite(float("-inf"))
    (0.5, None)
    """
    return score if math.isfinite(score) else None
