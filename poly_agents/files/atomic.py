"""Write a file or folder whole or not at all: beside its place, then renamed. A killed run leaves no half of one."""

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from poly_agents.errors import InputError


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
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write(str(beside))
        os.chmod(beside, 0o666 & ~_umask())  # safetensors makes its files readable for their owner alone
        os.replace(beside, path)
    finally:
        with suppress(FileNotFoundError):
            beside.unlink()


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
        raise InputError(f"{folder} is there already and not empty; give another path, or delete it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        beside.mkdir()
        write(beside)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
