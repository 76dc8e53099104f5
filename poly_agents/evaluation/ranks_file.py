"""Write the ranks of every evaluated context to a file, as JSON lines."""

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from poly_agents import processes
from poly_agents.errors import InputError
from poly_agents.files.atomic import check_replaceable, only_writer
from poly_agents.files.lines import json_line


class RanksFile:
    """A file of JSON lines that appears when a task is finished. Until then the lines are in FILE.part.

    The lines of a later task are appended. If there are several processes, each writes a file of its own: FILE.0,
    FILE.1, ... Another evaluation that writes the same file at the same time is refused.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ranks = RanksFile(f"{folder}/ranks.jsonl")
    ...     ranks.write([{"context": "hi", "rank": 1}])
    ...     _ = ranks.close()
    ...     print(ranks.path.read_text(), end="")
    {"context": "hi", "rank": 1}
    """

    def __init__(self, path: str):
        self.path = Path(path if processes.count() == 1 else f"{path}.{processes.rank()}")
        self.part = Path(f"{self.path}.part")
        self.finished: os.stat_result | None = None  # the file of the tasks of this run that are finished
        self.file: IO[bytes] | None = None
        self.held = ExitStack()  # the open file and its lock

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows and flush them, so that a killed run leaves whole lines only.

        Raises:
            ValueError: another process writes this file, or has replaced it, or it is something else than a file.
        """
        if self.file is None:
            check_replaceable(self.path)
            self.held.enter_context(only_writer(self.path))
            self.file = self.held.enter_context(self._open_part())
        self.file.write(b"".join(map(json_line, rows)))
        self.file.flush()

    def _open_part(self) -> IO[bytes]:
        if self.finished is None:
            return self.part.open("wb")
        if not self.path.exists() or not os.path.samestat(self.path.stat(), self.finished):
            raise InputError(f"{self.path} was replaced while it was written; give each evaluation a file of its own")
        os.replace(self.path, self.part)
        return self.part.open("ab")

    def close(self) -> bool:
        """Rename FILE.part to FILE. Returns False, and does nothing, if nothing was written since the last time."""
        if self.file is None:
            return False
        self.file.close()
        os.replace(self.part, self.path)
        self.file, self.finished = None, self.path.stat()
        self.held.close()
        return True


def finite(score: float) -> float | None:
    """Return a score as JSON can hold it: None if it is infinite or NaN.

    >>> finite(0.5), finite(float("-inf"))
    (0.5, None)
    """
    return score if math.isfinite(score) else None
