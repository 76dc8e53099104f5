"""Read the files of a data set: find them, open them, turn their lines into rows and name the bad ones.

Nothing here depends on ParlAI.
"""

import bz2
import csv
import gzip
import importlib
import io
import json
import math
import re
import reprlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from poly_agents.errors import DownloadError, InputError, MissingPackageError
from poly_agents.files.download import Download, Elsewhere, find
from poly_agents.files.lines import Lines, bounded, decode

BAD_ROW = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)  # what a malformed row raises
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # an escape in JSON that spells half a character
LARGEST_WINDOW = 1 << 31  # bytes; Reddit's dumps are compressed with long windows


def find_given(data_files: str | Path, names: Sequence[str]) -> Path:
    """Find the first of `names`, plain or with `.gz`, in the folder that `--data-files` gives.

    If `data_files` is itself a file, that file is taken whatever its name. Raises ValueError if there is none.
    """
    folder = Path(data_files)
    if folder.is_file():
        return folder
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise InputError(f"--data-files {data_files}: there is no {' or '.join(names)} in it, plain or as .gz")


def find_downloaded(files: Sequence[Download | Elsewhere], names: Sequence[str], folder: Path) -> Path:
    """Find the first of `names` that is in `folder` or can be downloaded to it.

    A name whose address does not answer is passed over for the next one. Raises the first DownloadError, or a
    ValueError if none of the names is in the table.
    """
    failed: list[Exception] = []
    for name in names:
        try:
            return find(files, name, folder)
        except (ValueError, DownloadError) as error:
            failed.append(error)
    raise next((error for error in failed if isinstance(error, DownloadError)), failed[0])


def open_binary(path: Path) -> IO[bytes]:
    """Open a file for reading and decompress it by its suffix: .gz, .bz2 or .zst."""
    if path.suffix == ".zst":
        try:
            zstandard = importlib.import_module("zstandard")
        except ImportError as error:
            raise MissingPackageError(f"{path} is compressed by zstandard: pip install zstandard") from error
        decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
        return io.BufferedReader(decompressor.stream_reader(path.open("rb")))
    return {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix, open)(path, "rb")


def open_text(path: Path) -> IO[str]:
    """Open a UTF-8 text file for reading, decompressed as in `open_binary`; line ends stay as they are.

    Bytes that are not UTF-8 become lone surrogates, which `valid_text` refuses row by row.
    """
    return io.TextIOWrapper(open_binary(path), encoding="utf-8-sig", errors="surrogateescape", newline="")


def rows(path: Path, parse: Callable[[str], Any], on_error: Callable[[str, Exception], None] | None = None) -> Iterator:
    """Parse every line of a UTF-8 file that is not blank.

    Args:
        path: a plain or compressed text file.
        parse: makes a row of a line without its line end; raises one of `BAD_ROW` if it cannot.
        on_error: gets `FILE:LINE` and the exception of a bad line, and may return to skip it. Default: raise.
    """
    with open_binary(path) as file:
        yield from rows_of(file, path, parse, on_error or raise_bad_row)


def rows_of(
    file: Lines, path: str | Path, parse: Callable[[str], Any], on_error: Callable[[str, Exception], None]
) -> Iterator:
    """Parse every line of an open file, as `rows` does. `path` is its name for errors."""
    for number, line in enumerate(bounded(file, path), 1):
        try:
            text = decode(line).rstrip("\r\n")
            if not text.strip():
                continue
            row = parse(text)
        except BAD_ROW as error:
            on_error(f"{path}:{number}", error)
            continue
        yield row


def raise_bad_row(place: str, error: Exception) -> None:
    """Raise a ValueError that says where a bad row is and what is wrong with it."""
    raise InputError(describe(place, error)) from error


def describe(place: str, error: Exception) -> str:
    """Say where a bad row is and what is wrong with it.

    >>> describe("train.jsonl:3", KeyError("context"))
    "train.jsonl:3: there is no 'context'"
    """
    if isinstance(error, KeyError):
        return f"{place}: there is no {error}"
    if isinstance(error, RecursionError):
        return f"{place}: lists or objects are nested too deeply"
    return f"{place}: {error}"


def columns(line: str, count: int) -> list[str]:
    """Split a line at its tabs into exactly `count` columns. Raises ValueError for any other number."""
    texts = line.split("\t")
    if len(texts) != count:
        raise InputError(f"a row has {count} columns separated by tabs, got {len(texts)}")
    return texts


def csv_fields(line: str, separator: str = ",") -> list[str]:
    """Split a row of a CSV file, in which fields may be quoted. Raises ValueError if it is none.

    >>> csv_fields('"why, then?",1')
    ['why, then?', '1']
    """
    try:
        (fields,) = csv.reader([line], delimiter=separator, strict=True)
    except csv.Error as error:
        raise InputError(f"not a row of a CSV file: {error}") from error
    return fields


def json_object(line: str) -> dict[str, Any]:
    """Parse a line of JSON lines. Raises ValueError if it is not one JSON object of valid text."""
    row = json.loads(line)
    if not isinstance(row, dict):
        raise InputError(f"a line is one JSON object, got {reprlib.repr(row)}")
    if HALF.search(line):
        valid_text(json.dumps(row, ensure_ascii=False))
    return row


def valid_text(text: str) -> str:
    """Return a text. Raises ValueError if it has lone surrogates: UTF-8 cannot hold them, and no tokenizer takes them.

    >>> valid_text("café")
    'café'
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{reprlib.repr(text[error.start])} is no whole character; save the file as UTF-8") from error
    return text


def text_at(row: Any, key: str) -> str:
    """Return a text of a JSON object. Raises KeyError if it is missing, and ValueError if it is something else.

    >>> text_at({"question": "why?"}, "question")
    'why?'
    """
    if not isinstance(row, dict):
        raise InputError(f"an object with {key!r} is expected, got {reprlib.repr(row)}")
    if not isinstance(row[key], str):
        raise InputError(f"{key} must be a text, got {reprlib.repr(row[key])}")
    return row[key]


def list_at(row: dict[str, Any], key: str) -> list[Any]:
    """Return a list of a JSON object. Raises KeyError if it is missing, and ValueError if it is something else."""
    if not isinstance(row[key], list):
        raise InputError(f"{key} must be a list, got {reprlib.repr(row[key])}")
    return row[key]


def texts_at(row: dict[str, Any], key: str) -> list[str]:
    """Return a list of texts of a JSON object. Raises KeyError if it is missing, and ValueError for anything else.

    >>> texts_at({"context": ["hi", "hello"]}, "context")
    ['hi', 'hello']
    """
    given = list_at(row, key)
    if wrong := [item for item in given if not isinstance(item, str)]:
        raise InputError(f"{key} must be a list of texts, and one of them is {reprlib.repr(wrong[0])}")
    return given


def id_at(row: dict[str, Any], key: str) -> str:
    """Return the id in a JSON object as text: a number is taken for its digits, as pandas writes them.

    >>> id_at({"_id": 7}, "_id"), id_at({"_id": 7.0}, "_id"), id_at({"_id": "d7"}, "_id")
    ('7', '7', 'd7')
    """
    return as_id(row[key], key)


def as_id(value: Any, name: str) -> str:
    """Return an id, called `name` in the error, as text. Raises ValueError if it is no text and no whole number."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise InputError(f"{name} must be a text or a whole number, got {reprlib.repr(value)}")
    return str(value)


def finite(number: str) -> float:
    """Parse a score or a grade. Raises ValueError if it is no finite number.

    >>> finite("0.5")
    0.5
    """
    value = float(number)
    if not math.isfinite(value):
        raise InputError(f"a finite number is expected, got {number}")
    return value
