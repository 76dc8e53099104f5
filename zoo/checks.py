"""The files of a model of this project, and the digests by which they are checked."""

import hashlib
import os
from pathlib import Path

from poly_agents.errors import DownloadError
from poly_agents.files.atomic import sha256

MODEL_FILES = ("model.dict", "model.opt", "model")
SUMS = "SHA256SUMS"


def check_sums(folder: Path) -> None:
    """Compare the model's files in a folder with its `SHA256SUMS`. Raises DownloadError that names a wrong one."""
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        wanted, _, name = line.partition("  ")
        if name in MODEL_FILES and (digest := sha256(folder / name)) != wanted:
            raise DownloadError(f"{folder / name} has sha256 {digest}, not the {wanted} of its {SUMS}; fetch it again")


def check_snapshot(snapshot: Path) -> None:
    """Check every file that HuggingFace's cache holds for a snapshot. Raises DownloadError that names a wrong one."""
    for path in sorted(path for path in snapshot.rglob("*") if path.is_symlink()):
        wanted = Path(os.readlink(path)).name
        digest = hub_digest(path, wanted)
        if digest != wanted:
            raise DownloadError(f"{path} is damaged: its digest is {digest}, not {wanted}; move {path.resolve()} away")


def hub_digest(path: Path, name: str) -> str:
    """Compute the digest after which the hub names a file: sha256 for large files, git's sha1 for others."""
    if len(name) == 64:
        return sha256(path)
    if len(name) == 40:
        data = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return name  # not named after a digest
