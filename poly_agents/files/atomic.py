"""Write a file or folder whole or not at all: beside its place, then renamed. A killed run leaves no half of one.

What is written beside `NAME` is in a folder `NAME.MACHINE-PROCESS-NUMBER.tmp`. The next run that writes `NAME` removes
what dead processes of this machine left there. Files that are written over a long time have a lock besides.
"""

import hashlib
import logging
import os
import platform
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from poly_agents.errors import InputError

LOG = logging.getLogger(__name__)
_numbers = count()
_in_use: set[str] = set()  # names of temporary files of this process


def replace(path: str | Path, write: Callable[[str], object]) -> None:
    """Write a file beside `path` and rename it into place. Missing folders are made.

    Args:
        path: the file to make or replace.
        write: is called with the path of a temporary file, and writes it.

    Raises:
        ValueError: `path` is a folder, a device, a pipe or a socket, which must not be replaced by a file.
    """
    path = Path(path)
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as folder:
        folder.mkdir()  # safetensors has temporary files of its own, which it leaves there if it is killed
        written = folder / path.name
        write(str(written))
        os.chmod(written, 0o666 & ~_umask())  # safetensors makes its files readable for their owner alone
        os.replace(written, path)


def check_replaceable(path: Path) -> None:
    """Raise ValueError if a path is there and is not a regular file, or a link to one."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device, a pipe or a socket"
        raise InputError(f"{path} is {kind}, and a file would take its place; give the path of a file")


def _umask() -> int:
    mask = os.umask(0)  # it can only be read by setting it
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file as `replace` does."""
    replace(path, lambda beside: Path(beside).write_text(text, encoding="utf-8"))


def sha256(path: str | Path) -> str:
    """Return the SHA-256 digest of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def new_folder(folder: str | Path, write: Callable[[Path], object]) -> None:
    """Write a folder beside `folder` and rename it into place.

    Args:
        folder: the folder to make. It may exist if it is empty.
        write: is called with the path of a temporary folder, and fills it.

    Raises:
        ValueError: `folder` is a file, or holds anything.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and not empty; give another path")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with beside(folder) as temporary:
        temporary.mkdir()
        write(temporary)
        os.replace(temporary, folder)


# --- temporary files --------------------------------------------------------------------------------------------------


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, of which nothing is left at the end. Leftovers of dead processes go too.

    Raises:
        ValueError: safetensors cannot write inside, on a full disk say; its own errors are of no kind.
    """
    remove_leftovers(path)
    temporary = path.with_name(f"{path.name}.{_machine()}-{os.getpid()}-{next(_numbers)}.tmp")
    _in_use.add(temporary.name)
    try:
        yield temporary
    except SafetensorError as error:
        reason = str(error).rpartition("I/O error: ")[2]
        raise InputError(f"{path} cannot be written ({reason}); make room, or give another path") from error
    finally:
        remove(temporary)
        _in_use.discard(temporary.name)


def remove_leftovers(path: Path) -> None:
    """Remove what processes of this machine that are dead left beside `path` when they wrote it."""
    pattern = re.compile(rf"{re.escape(path.name)}\.{_machine()}-(\d+)-\d+\.tmp")
    with suppress(FileNotFoundError):
        for name in os.listdir(path.parent):
            found = pattern.fullmatch(name)
            if found and name not in _in_use and not _lives(int(found[1])):
                remove(path.with_name(name))


def _machine() -> str:
    """Return 8 digits for the numbering of processes that this process sees: its machine, or its container."""
    container = ""
    with suppress(OSError):
        container = os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(f'{platform.node()} {container}'.encode()):08x}"


def _lives(process: int) -> bool:
    """Tell whether another process lives. The name of a file of this one is in `_in_use` as long as it is needed."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's
        return True
    return True


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# --- locks ------------------------------------------------------------------------------------------------------------


@contextmanager
def locked(lock: Path, written: str | Path) -> Iterator[None]:
    """Hold a lock file inside, so that one process at a time writes. Says so if it has to wait.

    Args:
        lock: the path of the lock file. It stays there.
        written: what is written, for the message.
    """
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        LOG.warning("waiting for another process that writes %s", written)
        held.acquire()
    try:
        yield
    finally:
        held.release()


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Be the only process that writes a file inside. Its folder is made.

    Raises:
        ValueError: another process is writing it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A singleton: a run of this process that failed, and that a traceback still refers to, must not be in the way.
    lock = FileLock(path.with_name(f".{path.name}.lock"), is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"{path} is being written by another process; wait for it, or give another path") from error
    try:
        yield
    finally:
        lock.release()
