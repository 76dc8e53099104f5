"""Read candidates from a file of plain text or of JSON lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from poly_agents.errors import InputError
from poly_agents.files.lines import bounded


def read_candidates(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the candidates of a file, each a dictionary with a `text`.

    Args:
        path: a file with one candidate a line. If its name ends in .jsonl, each line is a JSON object with a `text`
            and any other fields. Empty lines are skipped.

    Raises:
        ValueError: a line is not such an object, or its text is empty. The message names file and line.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "candidates.txt")
    ...     _ = path.write_text("mostly rock\\n\\nin Utah, and you?\\n")
    ...     list(read_candidates(path))
    [{'text': 'mostly rock'}, {'text': 'in Utah, and you?'}]
    """
    is_json = Path(path).suffix == ".jsonl"
    with open(path, "rb") as file:
        for number, data in enumerate(bounded(file, path), 1):
            line = data.decode("utf-8").strip()
            if line:
                yield parse_object(line, f"{path}, line {number}") if is_json else {"text": line}


def parse_object(line: str, place: str) -> dict[str, Any]:
    """Parse a line of JSON. Raises ValueError if it has no text. The message begins with the place."""
    try:
        candidate = json.loads(line)
        text = candidate["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place}: needs a JSON object with a text, got {line[:80]!r}") from error
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{place}: the text must be a string and not empty, got {text!r}")
    return candidate


def count_lines(path: str | Path) -> int:
    """Count the lines of a file, without decoding it."""
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
