"""Read candidates from a file of plain text or of JSON lines."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from poly_agents.errors import InputError, MissingFileError
from poly_agents.files.lines import bounded, decode
from poly_agents.text import given


class Digested:
    """A file whose bytes are added to a digest as they are read, so that the digest is that of what was read."""

    def __init__(self, file: IO[bytes], digest: Any):
        self.file, self.digest = file, digest

    def readline(self, limit: int) -> bytes:
        """Read as the file does."""
        line = self.file.readline(limit)
        self.digest.update(line)
        return line


def read_candidates(path: str | Path, digest: Any = None) -> Iterator[dict[str, Any]]:
    """Yield the candidates of a file, each a dictionary with a `text`.

    Args:
        path: a file in UTF-8 with one candidate a line. If its name ends in .jsonl, each line is a JSON object with a
            `text` and any other fields. Empty lines are skipped.
        digest: an object of `hashlib` that is updated with all bytes of the file as they are read.

    Raises:
        ValueError: there is no such file, it holds no candidates, a line is not UTF-8, or it is not such an object or
            its text is empty. The message names file and line.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "candidates.txt")
    ...     _ = path.write_text("mostly rock\\n\\nin Utah, and you?\\n")
    ...     list(read_candidates(path))
    [{'text': 'mostly rock'}, {'text': 'in Utah, and you?'}]
    """
    check_file(path)
    is_json, empty = Path(path).suffix == ".jsonl", True
    with open(path, "rb") as file:
        lines = bounded(file if digest is None else Digested(file, digest), path)
        for number, data in enumerate(lines, 1):
            place = f"{path}, line {number}"
            try:
                line = decode(data).strip()
            except InputError as error:
                raise InputError(f"{place}: {error}") from error
            if line:
                empty = False
                yield parse_object(line, place) if is_json else {"text": line}
    if empty:
        raise InputError(f"{path} holds no candidates; write one candidate per line")


def check_file(path: str | Path) -> None:
    """Raise ValueError if there is no such file of candidates, or if it is a folder. A pipe is as good as a file."""
    if not str(path) or not Path(path).exists():
        raise MissingFileError(f"there is no file of candidates {str(path)!r}; give another path")
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder; give a file with one candidate per line")


def parse_object(line: str, place: str) -> dict[str, Any]:
    """Parse a line of JSON. Raises ValueError, which names the place, if it has no text."""
    try:
        candidate = json.loads(line)
        text = candidate["text"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise InputError(f"{place}: needs a JSON object with a text, got {line[:80]!r} ({error})") from error
    return candidate | {"text": filled_text(text, f"the text of {place}")}


def as_candidates(values: Iterable[str | Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield candidates that are given as texts or as dictionaries with a `text`.

    Raises:
        ValueError: it is something else. The message names the place, counted from 0 as in Python.

    >>> list(as_candidates(["yes", {"text": "no", "id": 7}]))
    [{'text': 'yes'}, {'text': 'no', 'id': 7}]
    """
    given.check_list(values, "candidates is a file, or a list of strings or dictionaries")
    for number, each in enumerate(values):
        candidate = each if isinstance(each, Mapping) else {"text": each}
        if "text" not in candidate:
            raise InputError(f"candidate {number} has no text: {given.short(dict(each))}; give it a field 'text'")
        yield {**candidate, "text": filled_text(candidate["text"], f"candidate {number}")}


def filled_text(value: Any, place: str) -> str:
    """Return a text as a plain string. Raises ValueError, which begins with the place, if it is none or empty."""
    text = given.text(value, place)
    if not text.strip():
        raise InputError(f"{place} is empty; leave it out")
    return text


def count_lines(path: str | Path) -> int:
    """Count the lines of a file, without decoding it."""
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
