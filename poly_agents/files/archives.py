"""Archives of strangers: looked through before a byte is written, unpacked beside their folder and renamed."""

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

RATIO = 50  # times its own size that an archive may take unpacked; text packs to a tenth
LEAST = 1 << 20  # bytes that any archive may take
MEMBERS = 100_000
PIECE = 1 << 20  # bytes


class Member(NamedTuple):
    name: str
    size: int
    folder: bool
    fault: str  # why it is refused, or nothing
    open: Callable[[], IO[bytes]]


def unpack(path: Path, folder: Path, members: Sequence[str] = (), limit: int | None = None) -> None:
    """Unpack a zip or tar (.gz, .bz2, .xz) to `folder`, whole or only some members; all of it, or nothing.

    Raises ValueError for a member that leaves the folder, that is neither file nor folder, or that comes twice, and for
    an archive of more than `limit` bytes (default: 50 times its own).
    """
    limit = max(LEAST, RATIO * path.stat().st_size) if limit is None else limit
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        _check(path, members, limit)
        for member in _members(path):
            if not member.folder and (not members or member.name in members):
                _write(member, beside / member.name)
        beside.mkdir(parents=True, exist_ok=True)
        os.replace(beside, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's, not the archive's
            raise
        raise ValueError(f"{path} is damaged ({error}); delete it, and it comes again") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _check(path: Path, wanted: Sequence[str], limit: int) -> None:
    """Look through the whole archive without writing anything."""
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    total = 0
    for number, member in enumerate(_members(path), 1):
        name = PurePosixPath(member.name)
        fault = member.fault or _leaves(member.name)
        if not fault and not member.folder:
            fault = "comes twice" if name in files else fault
            files.add(name)
        folders |= {*name.parents, *[name] * member.folder}
        if not fault and ((name in folders and name in files) or not files.isdisjoint(name.parents)):
            fault = "is both a file and a folder"
        if fault:
            raise ValueError(f"{path} holds {member.name!r}, which {fault}: nothing of it is unpacked")
        total += member.size
        if total > limit or number > MEMBERS:
            most = f"{limit:,} bytes" if total > limit else f"{MEMBERS:,} members"
            raise ValueError(f"{path} has more than {most} up to {member.name!r}: nothing of it is unpacked")
    if missing := [name for name in wanted if PurePosixPath(name) not in files]:
        raise ValueError(f"{path} does not hold {', '.join(missing)}")


def _leaves(name: str) -> str:
    """Why a name is refused, or nothing."""
    if name.startswith("/") or "\\" in name or ":" in name.partition("/")[0]:
        return "is not a relative path"
    if not name or ".." in PurePosixPath(name).parts:
        return "leads out of the folder"
    return ""


def _write(member: Member, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with member.open() as source, path.open("wb") as out:
        while piece := source.read(PIECE):
            left -= len(piece)
            if left < 0:
                raise ValueError(f"{member.name!r} is longer than the archive says: nothing of it is unpacked")
            out.write(piece)
    if left:
        raise EOFError(f"{member.name!r} is shorter than the archive says")


def _members(path: Path) -> Iterator[Member]:
    """The members of an archive, each readable until the next one is asked for."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                fault = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "is a link or a device"
                fault = "is encrypted" if info.flag_bits & 1 else fault
                yield Member(info.filename, info.file_size, info.is_dir(), fault, lambda info=info: archive.open(info))
        return
    with tarfile.open(path) as archive:
        for info in archive:
            fault = "" if info.isreg() or info.isdir() else "is a link or a device"
            name = info.name.removeprefix("./") or "."
            size = info.size if info.isreg() else 0
            yield Member(name, size, info.isdir(), fault, lambda info=info: archive.extractfile(info))
