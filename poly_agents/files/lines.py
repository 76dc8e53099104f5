"""Read and write lines of UTF-8. A line ends at a newline and nowhere else, however hostile the file is."""

import codecs
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from poly_agents.errors import InputError

LONGEST = 2**26  # bytes of a line
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Lines(Protocol):
    """An open file, or whatever else has lines of bytes."""

    def readline(self, limit: int, /) -> bytes:
        """Return the next line with its end, or its first `limit` bytes. It is empty after the last line."""


def bounded(file: Lines, path: str | Path) -> Iterator[bytes]:
    """Yield the lines of an open file, with their ends. A byte order mark before the first line is left out.

    Args:
        file: opened for reading bytes, decompressed or not.
        path: its name, for errors.

    Raises:
        ValueError: the file is binary or in UTF-16, or a line has more than 64 MB. A small compressed file can hold one
            that fills the memory.
    """
    for number in count(1):
        line = file.readline(LONGEST + 1)
        if not line:
            return
        if number == 1:
            if line.startswith(UTF_16) or b"\0" in line:
                raise InputError(
                    f"{path} is not a text file in UTF-8; if it is in UTF-16, convert it: "
                    f"iconv -f utf-16 -t utf-8 {path} > NEW"
                )
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > LONGEST:
            raise InputError(
                f"{path}:{number} is longer than {LONGEST:,} bytes, so it is no row of text; check the file"
            )
        yield line


def decode(line: bytes) -> str:
    r"""Decode a line of UTF-8.

    Raises:
        ValueError: it is in another encoding.

    >>> decode("Grüße\n".encode())
    'Grüße\n'
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"byte {error.start + 1} of the line, {line[error.start]:#04x}, is not UTF-8; "
            "if the file is in Latin-1, convert it: iconv -f latin1 -t utf-8 FILE > NEW"
        ) from error


def json_line(row: Any) -> bytes:
    r"""Write a row as a line of JSON. Half of a surrogate pair, which UTF-8 cannot hold, becomes an escape.

    >>> json_line({"text": "ü \ud83d"}).decode()
    '{"text": "ü \\ud83d"}\n'
    """
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
