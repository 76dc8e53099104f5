"""Downloads as data. A table says which file comes from where; `find` fetches it once and checks it.

    FILES = (
        Download("https://example.org/train.tsv", "train.tsv", sha256="9f86d0..."),
        Download("https://example.org/corpus.zip", "corpus.zip", members=["corpus/valid.txt", "corpus/test.txt"]),
        Elsewhere("extra.tsv", "https://example.org/form", "its licence asks every user to sign a form"),
    )
    find(FILES, "valid.txt", folder)

A file gets its name only when it is whole and its sha256 is the table's. If the table has none, the digest of the first
download is recorded and checked from then on.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from poly_agents.errors import DownloadError, InputError
from poly_agents.files.archives import unpack
from poly_agents.files.atomic import locked, sha256, write_text
from poly_agents.files.transfer import Transfer, read_notes


@dataclass(frozen=True)
class Download:
    """A file to fetch, and to unpack if it is an archive.

    Attributes:
        url: where it comes from.
        name: its path in the folder of the data set.
        sha256: its digest. None: recorded at the first download and checked afterwards.
        members: the files of an archive that are unpacked.
        archive: unpack all files of an archive.
        unpacked: bytes that an archive may unpack to. None: a multiple of its own.
        md5: checked besides the sha256, for publishers who give no other digest.
    """

    url: str
    name: str
    sha256: str | None = None
    members: Sequence[str] = ()
    archive: bool = False
    unpacked: int | None = None
    md5: str | None = None

    @property
    def is_archive(self) -> bool:
        """Tell whether the file is unpacked."""
        return self.archive or bool(self.members)


@dataclass(frozen=True)
class Elsewhere:
    """A file that cannot be fetched, so that the user has to put it into the folder of the data set.

    Attributes:
        name: its path in that folder.
        where_from: where the user gets it.
        why: why it cannot be fetched.
    """

    name: str
    where_from: str
    why: str


# --- finding ----------------------------------------------------------------------------------------------------------


def find(files: Sequence[Download | Elsewhere], name: str, folder: Path) -> Path:
    """Return the path of a file of a table. It is fetched and unpacked if that was not done before.

    Args:
        files: the table.
        name: the file, or its last parts. `NAME.gz` is taken as well.
        folder: the folder of the data set.

    Raises:
        ValueError: the table has no such file or several, or the user has to get it.
        DownloadError: it could not be fetched, or has another digest.
    """
    names = (name, f"{name}.gz")
    for file in files:
        if isinstance(file, Elsewhere) and file.name in names:
            return _from_user(file, folder)
        if isinstance(file, Download) and not file.is_archive and file.name in names:
            return fetch(file, folder)
    if (folder / name).is_file():  # the user put it there
        return folder / name
    for file in _archives_with(names, files):
        content = fetch_archive(file, folder)
        paths = {path.relative_to(content).as_posix(): path for path in sorted(content.rglob("*")) if path.is_file()}
        matches = [paths[n] for n in names if n in paths] or [path for n, path in paths.items() if _ends_in(n, names)]
        if len(matches) > 1:
            raise InputError(f"{folder / file.name} holds more than one {name}: {', '.join(map(str, matches))}")
        if matches:
            return matches[0]
    known = [name for file in files for name in (getattr(file, "members", ()) or [file.name])]
    raise InputError(f"there is no {name} in {folder}, nor where to get it; known: {', '.join(known)}")


def _archives_with(names: Sequence[str], files: Sequence[Download | Elsewhere]) -> list[Download]:
    """Return the archives that can hold a file: those that list it; else one that is unpacked whole.

    If several are unpacked whole, it is the one with the name of the file's first folder.
    """
    archives = [file for file in files if isinstance(file, Download) and file.is_archive]
    listed = [file for file in archives if any(_ends_in(member, names) for member in file.members)]
    whole = [file for file in archives if not file.members]
    if len(whole) > 1:
        whole = [file for file in whole if file.name.partition(".")[0] == names[0].partition("/")[0]]
    return listed or whole


def _ends_in(path: str, names: Sequence[str]) -> bool:
    """Tell whether a path is one of the names, or ends in one of them after a slash."""
    return path in names or any(path.endswith(f"/{name}") for name in names)


def _from_user(file: Elsewhere, folder: Path) -> Path:
    for path in (folder / file.name, folder / f"{file.name}.gz"):
        if path.is_file():
            return path
    raise InputError(
        f"{file.name} cannot be downloaded: {file.why}. Get it from {file.where_from}, name it {file.name} and put it "
        f"in {folder}, or give --data-files PATH, the folder where it is"
    )


# --- fetching ---------------------------------------------------------------------------------------------------------


def fetch(file: Download, folder: Path) -> Path:
    """Return the path of a file. It is downloaded once, even if several processes ask for it at the same time.

    Raises:
        DownloadError: it could not be fetched, or has another digest.
    """
    path = folder / file.name
    if _is_checked(file, path):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(_hidden(path, "lock"), path):
        if not _is_checked(file, path):
            if not path.is_file():
                _download(file, path)
            _check_and_record(file, path)
    return path


def fetch_archive(file: Download, folder: Path) -> Path:
    """Return the folder with the files of an archive, which is downloaded and unpacked once. Raises as `fetch` does."""
    content = folder / f"{file.name}.files"
    notes, archive_notes = _hidden(content, "json"), _hidden(folder / file.name, "json")

    def source() -> dict:
        """Return what the folder is unpacked from."""
        return {"sha256": read_notes(archive_notes).get("sha256"), "members": [*file.members]}

    def is_unpacked() -> bool:
        wanted = source()
        return content.is_dir() and read_notes(notes) == wanted and file.sha256 in (None, wanted["sha256"])

    if is_unpacked():
        return content
    path = fetch(file, folder)
    with locked(_hidden(path, "lock"), path):
        if not is_unpacked():
            shutil.rmtree(content, ignore_errors=True)
            unpack(path, content, file.members, file.unpacked)
            write_text(notes, json.dumps(source()))
    return content


def _download(file: Download, path: Path) -> None:
    """Download beside `path`, check, and rename into place."""
    record = _hidden(path, "json")  # written after the first download, and still there if the file was deleted
    wanted = file.sha256 or read_notes(record).get("sha256")
    transfer = Transfer(file.url, path, pinned=bool(file.sha256))
    in_one_request = transfer.run()
    if not in_one_request and wanted not in (None, sha256(transfer.part)):  # its parts may not fit together
        transfer.part.unlink()
        transfer.run()
    digest = sha256(transfer.part)
    transfer.notes.unlink(missing_ok=True)
    if wanted not in (None, digest):
        transfer.part.unlink()
        ways = f"put the right one at {path}" + ("" if file.sha256 else f", or move {record} away to take the new one")
        raise DownloadError(f"{file.url} was changed at its source: its sha256 is {digest}, not {wanted}; {ways}")
    if fault := _md5_fault(file, transfer.part):
        transfer.part.unlink()
        raise DownloadError(f"{file.url} was changed at its source: it has {fault}; put the right one at {path}")
    os.replace(transfer.part, path)


# --- digests ----------------------------------------------------------------------------------------------------------


def _hidden(path: Path, kind: str) -> Path:
    """Return the path of a hidden file beside `path`."""
    return path.with_name(f".{path.name}.{kind}")


def _state(path: Path) -> dict[str, int]:
    """Return what changes when a file is changed."""
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _is_checked(file: Download, path: Path) -> bool:
    """Tell whether a file is there, was not changed since its digest was recorded, and has the table's digest."""
    if not path.is_file():
        return False
    notes = read_notes(_hidden(path, "json"))
    unchanged = all(notes.get(key) == value for key, value in _state(path).items())
    return unchanged and file.sha256 in (None, notes.get("sha256"))


def _check_and_record(file: Download, path: Path) -> None:
    """Check the digest of a file that is there, and record it. Raises DownloadError for a wrong one."""
    record, digest = _hidden(path, "json"), sha256(path)
    wanted = file.sha256 or read_notes(record).get("sha256")
    fault = f"sha256 {digest}, not {wanted}" if wanted not in (None, digest) else _md5_fault(file, path)
    if fault:
        raise DownloadError(f"{path} has {fault}: it was changed. Delete it, and it comes again from {file.url}")
    write_text(record, json.dumps({"url": file.url, "sha256": digest, **_state(path)}))


def _md5_fault(file: Download, path: Path) -> str:
    """Say how the md5 of a file differs from the table's. Empty if it does not."""
    if file.md5 is None:
        return ""
    with path.open("rb") as data:
        digest = hashlib.file_digest(data, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return "" if digest == file.md5 else f"md5 {digest}, not {file.md5}"
