"""Unpack zip and tar archives that came from elsewhere. Each is checked as a whole before a byte is written."""

import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from poly_agents.errors import InputError
from poly_agents.files.atomic import beside

RATIO = 50  # an archive may unpack to so many times its own size; text takes about ten times
ALWAYS_ALLOWED = 1 << 20  # bytes that an archive of any size may unpack to
MAX_MEMBERS = 20_000
MAX_HEADER = 1 << 16  # bytes of a long name or of extended headers, which tarfile reads into memory
MAX_HEADERS = 1 << 24  # bytes of all such headers of an archive
PIECE = 1 << 20  # bytes that are copied at a time


class Member(NamedTuple):
    """A file or folder in an archive."""

    name: str
    size: int  # bytes, 0 for a folder
    is_folder: bool
    fault: str  # why it is refused; empty if it is not
    open: Callable[[], IO[bytes]]


def unpack(path: Path, folder: Path, members: Sequence[str] = (), limit: int | None = None) -> None:
    """Unpack a zip or tar (.gz, .bz2, .xz) archive to a new folder: all of it, or nothing if there is an error.

    Args:
        path: the archive.
        folder: where its files go.
        members: the files to unpack. Empty: all.
        limit: bytes that all members may have together. None: 50 times the archive's own.

    Raises:
        ValueError: the archive is damaged or too large, lacks one of `members`, or holds a member that leaves the
            folder, comes twice, or is neither a file nor a folder.
    """
    limit = max(ALWAYS_ALLOWED, RATIO * path.stat().st_size) if limit is None else limit
    try:
        _check(path, members, limit)
        with beside(folder) as temporary:
            for member in _members(path):
                if not member.is_folder and (not members or member.name in members):
                    _write(member, temporary / member.name)
            temporary.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # an error of the disk; those of archives have no number
            raise
        raise InputError(f"{path} is damaged ({error}); move it away, and it comes again") from error


def _check(path: Path, wanted: Sequence[str], limit: int) -> None:
    """Raise ValueError for an archive that must not be unpacked. Nothing is written."""
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    total = 0
    for number, member in enumerate(_members(path), 1):
        if fault := member.fault or _name_fault(member.name) or _place_fault(member, files, folders):
            raise InputError(f"{path} holds {member.name!r}, which {fault}: nothing of it is unpacked")
        total += member.size
        if total > limit or number > MAX_MEMBERS:
            most = f"{limit:,} bytes" if total > limit else f"{MAX_MEMBERS:,} members"
            raise InputError(f"{path} has more than {most} up to {member.name!r}: nothing of it is unpacked")
    if missing := [name for name in wanted if PurePosixPath(name) not in files]:
        raise InputError(f"{path} does not hold {', '.join(missing)}")


def _name_fault(name: str) -> str:
    """Say why the name of a member is refused. Empty if it is not."""
    if name.startswith("/") or "\\" in name or ":" in name.partition("/")[0]:
        return "is not a relative path"
    if not name or ".." in PurePosixPath(name).parts:
        return "leads out of the folder"
    return ""


def _place_fault(member: Member, files: set[PurePosixPath], folders: set[PurePosixPath]) -> str:
    """Add a member to the files and folders before it. Say why it cannot go beside them. Empty if it can."""
    name = PurePosixPath(member.name)
    if name in files and not member.is_folder:
        return "comes twice"
    folders.update(name.parents)
    (folders if member.is_folder else files).add(name)
    if (name in folders and name in files) or not files.isdisjoint(name.parents):
        return "is both a file and a folder"
    return ""


def _write(member: Member, path: Path) -> None:
    """Write a file of an archive. Its size is checked, because archives can lie about it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with member.open() as source, path.open("wb") as out:
        while piece := source.read(PIECE):
            left -= len(piece)
            if left < 0:
                raise InputError(f"{member.name!r} is longer than the archive says: nothing of it is unpacked")
            out.write(piece)
    if left:
        raise EOFError(f"{member.name!r} is shorter than the archive says")


def _members(path: Path) -> Iterator[Member]:
    """Iterate over the members of an archive. Each can be opened until the next one is asked for."""
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                fault = _zip_fault(info)
                yield Member(info.filename, info.file_size, info.is_dir(), fault, partial(archive.open, info))
        return
    with tarfile.open(path, tarinfo=LimitedHeader) as archive:
        archive.header_bytes = 0
        for info in archive:
            fault = "" if info.isreg() or info.isdir() else "is a link or a device"
            name = info.name.removeprefix("./") or "."
            size = info.size if info.isreg() else 0
            yield Member(name, size, info.isdir(), fault, partial(archive.extractfile, info))


class LimitedHeader(tarfile.TarInfo):
    """A header of a tar archive that is refused before tarfile reads more than `MAX_HEADER` bytes for it."""

    EXTENDED = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.GNUTYPE_SPARSE)
    PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)

    def _proc_member(self, archive):
        if self.type in (*self.EXTENDED, *self.PAX):
            archive.header_bytes = getattr(archive, "header_bytes", 0) + tarfile.BLOCKSIZE + self.size
            if self.size > MAX_HEADER:
                raise tarfile.ReadError(f"a header has {self.size:,} bytes, {MAX_HEADER:,} are allowed")
            if archive.header_bytes > MAX_HEADERS:
                raise tarfile.ReadError(f"its headers have more than {MAX_HEADERS:,} bytes")
        return super()._proc_member(archive)


def _zip_fault(info: zipfile.ZipInfo) -> str:
    """Say why a member of a zip archive is refused. Empty if it is not."""
    if info.flag_bits & 1:
        return "is encrypted"
    kind = stat.S_IFMT(info.external_attr >> 16)
    return "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "is a link or a device"
