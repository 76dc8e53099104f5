"""Read the lines of a file that may be hostile: a line ends at a newline and nowhere else, and none is endless."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import IO

from poly_agents.errors import InputError

LONGEST = 2**26  # bytes of a line


def bounded(file: IO[bytes], path: str | Path) -> Iterator[bytes]:
    """Yield the lines of an open file, with their ends.

    Args:
        file: opened for reading bytes, decompressed or not.
        path: its name, for errors.

    Raises:
        ValueError: a line has more than 64 MB. A small compressed file can hold one that fills the memory.
    """
    for number in count(1):
        line = file.readline(LONGEST + 1)
        if not line:
            return
        if len(line) > LONGEST:
            raise InputError(
                f"{path}:{number} is longer than {LONGEST:,} bytes, so it is no row of text; check the file"
            )
        yield line
