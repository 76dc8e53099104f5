"""Downloads as data: a table says what comes from where, `find` brings it, once, whole and checked.

    FILES = (
        Download("https://example.org/train.tsv", "train.tsv", sha256="9f86d0..."),
        Download("https://example.org/corpus.zip", "corpus.zip", members=["corpus/valid.txt", "corpus/test.txt"]),
        Elsewhere("extra.tsv", "https://example.org/form", "its licence asks every user to sign a form"),
    )
    find(FILES, "valid.txt", folder)

A download that broke off, or whose process was killed, goes on where it stopped. A file lands under its name only when
it is whole; its sha256 is the table's, or else the one it had when it first came. Proxies are those of the environment.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from filelock import FileLock
from tqdm import tqdm

from poly_agents.files.archives import unpack
from poly_agents.files.atomic import sha256, write_text

ATTEMPTS = 5  # in a row that bring nothing new
PATIENCE = 1.0  # seconds before the next attempt, twice as long after every failure
TIMEOUT = (20, 60)  # seconds to connect, and between two pieces
PIECE = 1 << 16  # bytes
LATER = {408, 425, 429, 500, 502, 503, 504}  # answers that may be better next time


class DownloadError(Exception):
    """What went wrong with which address, and what to do."""


class BrokeOff(requests.RequestException):
    """An attempt that may succeed when it is made again."""


BREAKS = (BrokeOff, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


@dataclass(frozen=True)
class Download:
    """A file to be fetched; an archive also to be unpacked."""

    url: str
    name: str  # of the file, in the folder of its data set
    sha256: str | None = None  # None: recorded when it first comes, checked afterwards
    members: Sequence[str] = ()  # the files of an archive that are wanted
    archive: bool = False  # unpack it whole
    unpacked: int | None = None  # bytes an archive may take at most; None: a multiple of its own
    md5: str | None = None  # checked besides the sha256, for publishers who give no other digest

    @property
    def packed(self) -> bool:
        return self.archive or bool(self.members)


@dataclass(frozen=True)
class Elsewhere:
    """A file that cannot be fetched: the user has to bring it."""

    name: str
    where_from: str
    why: str


def find(files: Sequence[Download | Elsewhere], name: str, folder: Path) -> Path:
    """The file `name` (or `name`.gz) of a table, in `folder`: fetched and unpacked where it has to be."""
    names = (name, f"{name}.gz")
    for file in files:
        if isinstance(file, Elsewhere) and file.name in names:
            return _brought(file, folder)
        if isinstance(file, Download) and not file.packed and file.name in names:
            return fetch(file, folder)
    if (folder / name).is_file():  # the user put it there
        return folder / name
    for file in _archives(files, names):
        content = fetch_archive(file, folder)
        paths = {path.relative_to(content).as_posix(): path for path in sorted(content.rglob("*")) if path.is_file()}
        found = [paths[n] for n in names if n in paths] or [path for n, path in paths.items() if _is(n, names)]
        if len(found) > 1:
            raise ValueError(f"{folder / file.name} holds more than one {name}: {', '.join(map(str, found))}")
        if found:
            return found[0]
    known = [name for file in files for name in (getattr(file, "members", ()) or [file.name])]
    raise ValueError(f"there is no {name} in {folder}, nor where to get it; known: {', '.join(known)}")


def _archives(files: Sequence[Download | Elsewhere], names: Sequence[str]) -> list[Download]:
    """The archives a file can be in: those that list it, else the only one unpacked whole, or that of its folder."""
    packed = [file for file in files if isinstance(file, Download) and file.packed]
    listed = [file for file in packed if any(_is(member, names) for member in file.members)]
    whole = [file for file in packed if not file.members]
    if len(whole) > 1:
        whole = [file for file in whole if file.name.partition(".")[0] == names[0].partition("/")[0]]
    return listed or whole


def _is(path: str, names: Sequence[str]) -> bool:
    return path in names or any(path.endswith(f"/{name}") for name in names)


def _brought(file: Elsewhere, folder: Path) -> Path:
    for path in (folder / file.name, folder / f"{file.name}.gz"):
        if path.is_file():
            return path
    raise ValueError(
        f"{file.name} cannot be downloaded: {file.why}. Get it from {file.where_from}, name it {file.name} and put it "
        f"in {folder}, or give --data-files PATH, the folder where it is"
    )


def fetch(file: Download, folder: Path) -> Path:
    """The path of a file, downloaded where it is not there yet; processes that want it at once wait for one of them."""
    path = folder / file.name
    if _known(file, path):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(_beside(path, "lock")):
        if not _known(file, path):
            if not path.is_file():
                _get(file, path)
            _record(file, path)
    return path


def fetch_archive(file: Download, folder: Path) -> Path:
    """The folder with the files of an archive, downloaded and unpacked where it is not there yet."""
    content = folder / f"{file.name}.files"
    notes, archive = _beside(content, "json"), _beside(folder / file.name, "json")

    def fresh() -> bool:
        digest = _read(archive).get("sha256")
        unpacked = {"sha256": digest, "members": [*file.members]}
        return content.is_dir() and _read(notes) == unpacked and file.sha256 in (None, digest)

    if fresh():
        return content
    path = fetch(file, folder)
    with FileLock(_beside(path, "lock")):
        if not fresh():
            shutil.rmtree(content, ignore_errors=True)
            unpack(path, content, file.members, file.unpacked)
            write_text(notes, json.dumps({"sha256": _read(archive).get("sha256"), "members": [*file.members]}))
    return content


# --- what is known of a file ------------------------------------------------------------------------------------------


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _state(path: Path) -> dict[str, int]:
    found = path.stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def _known(file: Download, path: Path) -> bool:
    """Whether the file is there, unchanged since its digest was last computed, and that is the table's."""
    if not path.is_file():
        return False
    known = _read(_beside(path, "json"))
    return known | _state(path) == known and file.sha256 in (None, known.get("sha256"))


def _record(file: Download, path: Path) -> None:
    """Check the digest of a file that is there, and remember it."""
    notes, digest = _beside(path, "json"), sha256(path)
    wanted = file.sha256 or _read(notes).get("sha256")
    fault = f"sha256 {digest}, not {wanted}" if wanted not in (None, digest) else _md5_fault(file, path)
    if fault:
        raise DownloadError(f"{path} has {fault}: it was changed. Delete it, and it comes again from {file.url}")
    write_text(notes, json.dumps({"url": file.url, "sha256": digest, **_state(path)}))


# --- fetching ---------------------------------------------------------------------------------------------------------


def _get(file: Download, path: Path) -> None:
    """Download beside `path`, check, and rename into place."""
    part, notes = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
    first = _beside(path, "json")  # of the last download, if there was one
    wanted = file.sha256 or _read(first).get("sha256")
    in_one = _attempts(file, path, part, notes)
    if not in_one and wanted not in (None, sha256(part)):  # the joint may be what is wrong with it
        part.unlink()
        _attempts(file, path, part, notes)
    digest = sha256(part)
    notes.unlink(missing_ok=True)
    if wanted not in (None, digest):
        part.unlink()
        ways = f"put the right one at {path}" + ("" if file.sha256 else f", or delete {first} to accept the new one")
        raise DownloadError(f"{file.url} was changed at its source: its sha256 is {digest}, not {wanted}; {ways}")
    if fault := _md5_fault(file, part):
        part.unlink()
        raise DownloadError(f"{file.url} was changed at its source: it has {fault}; put the right one at {path}")
    os.replace(part, path)


def _md5_fault(file: Download, path: Path) -> str:
    """Compare the md5 of a file with the table's. Returns what is wrong, or nothing."""
    if file.md5 is None:
        return ""
    with path.open("rb") as data:
        digest = hashlib.file_digest(data, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return "" if digest == file.md5 else f"md5 {digest}, not {file.md5}"


def _attempts(file: Download, path: Path, part: Path, notes: Path) -> bool:
    """Make attempts until the part is whole; whether one was enough. Those that bring something new are not counted."""
    most = began = _size(part)
    failed = made = 0
    while True:
        try:
            _attempt(file, path, part, notes)
            return not began and not made
        except requests.RequestException as why:
            if not isinstance(why, BREAKS):
                raise DownloadError(f"{file.url}: {why}; put the file at {path} yourself") from why
            reason = why
        made += 1
        have = _size(part)
        failed, most = (0, have) if have > most else (failed + 1, most)
        if failed == ATTEMPTS:
            raise DownloadError(
                f"{file.url}: {reason} ({made} attempts, {have:,} bytes are kept). Try again later, it goes on "
                f"from there; or put the file at {path} yourself"
            ) from reason
        time.sleep(PATIENCE * 2**failed)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _attempt(file: Download, path: Path, part: Path, notes: Path) -> None:
    """One request for what is missing."""
    have, known = _size(part), _read(notes)
    headers = {"Accept-Encoding": "identity"}  # lengths and ranges are then those of the file
    if have and have == known.get("total"):
        return
    if have:
        headers["Range"] = f"bytes={have}-"
        if known.get("etag"):
            headers["If-Range"] = known["etag"]
    with requests.get(file.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416:
            part.unlink(missing_ok=True)
            raise BrokeOff("the file at its source has become shorter")
        _refuse(file, path, answer)
        total = _total(answer)
        if answer.status_code == 206 and (_start(answer), total) != (have, known.get("total")):
            part.unlink()
            raise BrokeOff("the file at its source is no longer what the download began with")
        if answer.status_code == 200:
            have = 0
            etag = answer.headers.get("ETag", "")
            strong = "" if etag.startswith("W/") else etag  # a weak one says nothing of bytes
            write_text(notes, json.dumps({"total": total, "etag": strong or answer.headers.get("Last-Modified")}))
        if total and shutil.disk_usage(part.parent).free < total - have:
            raise DownloadError(f"{file.url} has {total:,} bytes, more than is free in {part.parent}; make room for it")
        bar = tqdm(total=total, initial=have, desc=file.name, unit="B", unit_scale=True, disable=None)
        with part.open("ab" if have else "wb") as out, bar:
            for piece in answer.iter_content(PIECE):
                out.write(piece)
                bar.update(len(piece))
        if total is not None and _size(part) != total:
            raise BrokeOff(f"it ended after {_size(part):,} of {total:,} bytes")


def _refuse(file: Download, path: Path, answer: requests.Response) -> None:
    """Raise for an answer that is not the file."""
    if answer.status_code in LATER:
        raise BrokeOff(f"the server answered {answer.status_code} {answer.reason}")
    yourself = f"put the file at {path} yourself"
    if answer.status_code not in (200, 206):
        raise DownloadError(f"{file.url}: the server answered {answer.status_code} {answer.reason}; {yourself}")
    schemes = {urlsplit(step.url).scheme for step in (*answer.history, answer)}
    if file.url.startswith("https:") and "http" in schemes and not file.sha256:
        raise DownloadError(f"{file.url} leads to {answer.url}, without encryption and without a sha256; {yourself}")
    kind = answer.headers.get("Content-Type", "")
    if kind.startswith("text/html") and Path(file.name).suffix not in (".html", ".htm"):
        raise DownloadError(f"{file.url} is a web page, not a file; download by hand, and {yourself}")


def _total(answer: requests.Response) -> int | None:
    """Bytes of the whole file, where the server says so."""
    if answer.status_code in (206, 416):
        text = answer.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        text = answer.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _start(answer: requests.Response) -> int | None:
    """The first byte of a part, as the server says."""
    text = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(text) if text.isdigit() else None
