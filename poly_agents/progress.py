"""Show the progress of long work: a bar on a terminal, a line every ten seconds in a pipe or a file."""

import sys
from typing import Any, TextIO

from tqdm import tqdm

SECONDS = 10  # between two lines


class Lines:
    """Writes what tqdm shows as lines of their own, since nothing can be drawn over in a pipe."""

    def __init__(self, file: TextIO):
        self.file = file

    def write(self, text: str) -> None:
        """Write the state of a bar, and leave out what only moves the cursor."""
        if text := text.strip():
            self.file.write(f"{text}\n")

    def flush(self) -> None:
        """Flush the file below."""
        self.file.flush()


def bar(**options: Any) -> tqdm:
    """Make a progress bar. In a pipe, work of less than ten seconds shows nothing.

    Args:
        options: of tqdm, such as total, unit, desc.

    Returns:
        the bar, a context manager. Its `update` counts.
    """
    if not sys.stderr.isatty():
        options |= {"file": Lines(sys.stderr), "mininterval": SECONDS, "delay": SECONDS, "ncols": 80}
    return tqdm(**options)
