"""Fetch a file over HTTP. A transfer that broke off, or whose process was killed, resumes.

Proxies are those of the environment.
"""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from poly_agents.errors import DownloadError
from poly_agents.files.atomic import write_text
from poly_agents.progress import bar as progress_bar

ATTEMPTS = 5  # attempts in a row that may bring nothing new
PATIENCE = 1.0  # seconds before the second attempt; doubled after every failure
TIMEOUT = (20, 60)  # seconds to connect, and between two pieces
PIECE = 1 << 16  # bytes that are written at a time
RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}  # answers that may be better next time


class BrokeOff(requests.RequestException):
    """An attempt failed, and the next one may succeed."""


RETRIED = (BrokeOff, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


@dataclass(frozen=True)
class Transfer:
    """The transfer of one file.

    Attributes:
        url: where it comes from.
        path: where it belongs. It is fetched to `part` beside it, and not renamed.
        pinned: its digest is known beforehand, so that it may come without encryption.
    """

    url: str
    path: Path
    pinned: bool

    @property
    def part(self) -> Path:
        """Return the path of what has come so far."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def notes(self) -> Path:
        """Return the path of a JSON file with the length of the file and its version at the server."""
        return self.path.with_name(f"{self.path.name}.part.json")

    @property
    def size(self) -> int:
        """Return how many bytes have come so far."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def run(self) -> bool:
        """Make requests until `part` is whole. Attempts that bring something new are not counted.

        Returns:
            True if the whole file came in one request.

        Raises:
            DownloadError: the server has no such file, or too many attempts in a row failed.
        """
        largest = first = self.size
        failed = made = 0
        while True:
            try:
                self.request()
                return not first and not made
            except requests.RequestException as error:
                if not isinstance(error, RETRIED):
                    raise DownloadError(f"{self.url}: {error}; put the file at {self.path} yourself") from error
                reason = error
            made += 1
            failed, largest = (0, self.size) if self.size > largest else (failed + 1, largest)
            if failed == ATTEMPTS:
                raise DownloadError(
                    f"{self.url}: {reason} ({made} attempts, {self.size:,} bytes are kept). Try again later, it goes "
                    f"on from there; or put the file at {self.path} yourself"
                ) from reason
            time.sleep(PATIENCE * 2**failed)

    def request(self) -> None:
        """Make one request for the bytes that have not come yet.

        Raises:
            requests.RequestException: it broke off, or there is no such server.
            DownloadError: the answer is not the file, or there is no room for it.
        """
        have, known = self.size, read_notes(self.notes)
        headers = {"Accept-Encoding": "identity"}  # lengths and ranges are then those of the file
        if have and have == known.get("total"):
            return
        if have:
            headers["Range"] = f"bytes={have}-"
            if known.get("etag"):
                headers["If-Range"] = known["etag"]
        with requests.get(self.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:
                self.part.unlink(missing_ok=True)
                raise BrokeOff("the file at its source has become shorter")
            self.check(answer)
            total = total_length(answer)
            if answer.status_code == 206 and (first_byte(answer), total) != (have, known.get("total")):
                self.part.unlink()
                raise BrokeOff("the file at its source is no longer what the download began with")
            if answer.status_code == 200:
                have = 0
                write_text(self.notes, json.dumps({"total": total, "etag": version(answer)}))
            if total and shutil.disk_usage(self.part.parent).free < total - have:
                raise DownloadError(
                    f"{self.url} has {total:,} bytes, more than is free in {self.part.parent}; make room for it"
                )
            self.write(answer, have, total)
        if total is not None and self.size != total:
            raise BrokeOff(f"it ended after {self.size:,} of {total:,} bytes")

    def check(self, answer: requests.Response) -> None:
        """Raise DownloadError for an answer that is not the file, or BrokeOff if it may be the next time."""
        if answer.status_code in RETRY_STATUS:
            raise BrokeOff(f"the server answered {answer.status_code} {answer.reason}")
        yourself = f"put the file at {self.path} yourself"
        if answer.status_code not in (200, 206):
            raise DownloadError(f"{self.url}: the server answered {answer.status_code} {answer.reason}; {yourself}")
        schemes = {urlsplit(step.url).scheme for step in (*answer.history, answer)}
        if self.url.startswith("https:") and "http" in schemes and not self.pinned:
            raise DownloadError(
                f"{self.url} leads to {answer.url}, without encryption and without a sha256; {yourself}"
            )
        kind = answer.headers.get("Content-Type", "")
        if kind.startswith("text/html") and self.path.suffix not in (".html", ".htm"):
            raise DownloadError(f"{self.url} is a web page, not a file; download by hand, and {yourself}")

    def write(self, answer: requests.Response, have: int, total: int | None) -> None:
        """Write an answer after the first `have` bytes of `part`, and show a progress bar."""
        bar = progress_bar(total=total, initial=have, desc=self.path.name, unit="B", unit_scale=True)
        with self.part.open("ab" if have else "wb") as out, bar:
            for piece in answer.iter_content(PIECE):
                out.write(piece)
                bar.update(len(piece))


def read_notes(path: Path) -> dict[str, Any]:
    """Read a JSON object that was noted beside a file. A missing or damaged one reads as empty."""
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}


def total_length(answer: requests.Response) -> int | None:
    """Return the length of the whole file in bytes, or None if the server does not say."""
    if answer.status_code == 206:
        text = answer.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        text = answer.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def first_byte(answer: requests.Response) -> int | None:
    """Return where in the file an answer begins, or None if the server does not say."""
    text = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(text) if text.isdigit() else None


def version(answer: requests.Response) -> str | None:
    """Return what tells this version of the file from others, or None. A weak ETag promises nothing about bytes."""
    etag = answer.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified")
