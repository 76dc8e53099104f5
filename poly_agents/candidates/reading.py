"""Read candidates from a file: plain text, one a line, or JSON lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_candidates(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the candidates of a file, each a dictionary with a `text`.

    Args:
        path: a file with one candidate a line. If its name ends in .jsonl, a line is a JSON object with a `text` and
            whatever else (id, metadata). Empty lines are skipped.

    Raises:
        ValueError: a line is not such an object, or its text is empty. The message names file and line.
    """
    is_json = Path(path).suffix == ".jsonl"
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            line = line.strip()
            if line:
                yield parse_object(line, f"{path}, line {number}") if is_json else {"text": line}


def parse_object(line: str, place: str) -> dict[str, Any]:
    """Parse a line of JSON. Raises ValueError, naming the place, if it has no text."""
    try:
        candidate = json.loads(line)
        text = candidate["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place}: needs a JSON object with a text, got {line[:80]!r}") from error
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{place}: the text must be a string that is not empty, got {text!r}")
    return candidate


def count_lines(path: str | Path) -> int:
    """Count the lines of a file, without decoding it."""
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
