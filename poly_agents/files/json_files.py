"""Read JSON that may be damaged or hostile."""

import json
from pathlib import Path
from typing import Any

from poly_agents.errors import InputError
from poly_agents.files.regular import check_regular

LFS = b"version https://git-lfs"  # how a file begins that Git LFS keeps elsewhere


def parse(data: str | bytes, source: str) -> Any:
    """Parse JSON.

    Args:
        data: text, or bytes of UTF-8.
        source: where it is from, for errors.

    Raises:
        ValueError: it is not JSON, or nested too deeply. The message begins with the source.
    """
    try:
        return json.loads(data if isinstance(data, str) else data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{source} is not JSON ({reason}); restore the file") from error


def read(path: str | Path) -> Any:
    """Read a JSON file. Raises ValueError as `parse` does, and if there is no such file."""
    check_regular(path, "file")
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); give the path of a file") from error
    check_not_pointer(data, path)
    return parse(data, str(path))


def check_not_pointer(data: bytes, path: str | Path) -> None:
    """Raise ValueError if a file, which begins with `data`, is only a pointer of Git LFS to the file itself."""
    if data.startswith(LFS):
        raise InputError(f"{path} is a Git LFS pointer, not the file itself; fetch it: git lfs pull")
