"""Read JSON that may be damaged or hostile."""

import json
from pathlib import Path
from typing import Any

from poly_agents.errors import InputError
from poly_agents.files.regular import read_bytes


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
    return parse(read_bytes(path, "file"), str(path))
