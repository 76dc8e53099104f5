"""Files are written beside and renamed: a killed run leaves the old file or the new one, never half of one."""

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def replace(path: str | Path, write: Callable[[str], None]) -> None:
    """Let `write` fill a file beside `path`, then rename it into place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write(str(beside))
        os.chmod(beside, 0o666 & ~_umask())  # safetensors gives its files to their owner alone
        os.replace(beside, path)
    finally:
        with suppress(FileNotFoundError):
            beside.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file whole."""
    replace(path, lambda beside: Path(beside).write_text(text, encoding="utf-8"))


def sha256(path: str | Path) -> str:
    """The hexadecimal digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def new_folder(folder: str | Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside `folder`, then rename it into place; a folder that holds anything is refused."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already and not empty; give another path, or delete it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        beside.mkdir()
        write(beside)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
