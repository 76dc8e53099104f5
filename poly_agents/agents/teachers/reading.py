"""Read the files of a data set: find them, open them, turn their lines into rows and name the bad ones.

Nothing here depends on ParlAI.
"""

import bz2
import gzip
import importlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from poly_agents.errors import DownloadError, InputError, MissingPackageError
from poly_agents.files.download import Download, Elsewhere, find
from poly_agents.files.lines import bounded

BAD_ROW = (ValueError, KeyError, IndexError, TypeError, AttributeError)  # what parsing a malformed row raises
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
    """Open a UTF-8 text file for reading, decompressed as in `open_binary`; line ends stay as they are."""
    return io.TextIOWrapper(open_binary(path), encoding="utf-8", newline="")


def rows(path: Path, parse: Callable[[str], Any], on_error: Callable[[str, Exception], None] | None = None) -> Iterator:
    """Parse every line of a UTF-8 file that is not blank.

    Args:
        path: a plain or compressed text file.
        parse: makes a row of a line without its line end; raises one of `BAD_ROW` if it cannot.
        on_error: gets `FILE:LINE` and the exception of a bad line, and may return to skip it. Default: raise.
    """
    with open_binary(path) as lines:
        for number, line in enumerate(bounded(lines, path), 1):
            try:
                if line.strip():
                    yield parse(line.decode("utf-8").rstrip("\r\n"))
            except BAD_ROW as error:
                (on_error or raise_bad_row)(f"{path}:{number}", error)


def raise_bad_row(place: str, error: Exception) -> None:
    """Raise a ValueError that says where a bad row is and what is wrong with it."""
    raise InputError(describe(place, error)) from error


def describe(place: str, error: Exception) -> str:
    """Say where a bad row is and what is wrong with it.

    >>> describe("train.jsonl:3", KeyError("context"))
    "train.jsonl:3: there is no 'context'"
    """
    return f"{place}: there is no {error}" if isinstance(error, KeyError) else f"{place}: {error}"


def columns(line: str, count: int) -> list[str]:
    """Split a line at its tabs into exactly `count` columns. Raises ValueError for any other number."""
    texts = line.split("\t")
    if len(texts) != count:
        raise InputError(f"a row has {count} columns separated by tabs, got {len(texts)}")
    return texts


def json_object(line: str) -> dict[str, Any]:
    """Parse a line of JSON lines. Raises ValueError if it is not one JSON object."""
    row = json.loads(line)
    if not isinstance(row, dict):
        raise InputError(f"a line is one JSON object, got {type(row).__name__}")
    return row
