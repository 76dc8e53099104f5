"""Check that a path is a file that can be read to its end, and that Git LFS has put the file itself there."""

from pathlib import Path

from poly_agents.errors import InputError, MissingFileError

POINTER = b"version https://git-lfs"  # how a file begins that Git LFS keeps elsewhere


def check_regular(path: str | Path, kind: str) -> None:
    """Raise ValueError unless a path is a regular file, or a link to one.

    A pipe would be waited for without an end, and a device may have none.

    Args:
        path: the path.
        kind: what should be there, for the message: "model file".
    """
    if not str(path) or not Path(path).exists():
        raise MissingFileError(f"there is no {kind} {str(path)!r}; give the path of one")
    if not Path(path).is_file():
        found = "a folder" if Path(path).is_dir() else "a device, a pipe or a socket"
        raise InputError(f"{path} is {found}, not a {kind}; give the path of a file")


def check_not_pointer(path: str | Path) -> None:
    """Raise ValueError if a file is only a pointer of Git LFS to the file itself."""
    with open(path, "rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise InputError(f"{path} is a Git LFS pointer, not the file itself; fetch it: git lfs pull")


def read_bytes(path: str | Path, kind: str) -> bytes:
    """Read a file. Raises ValueError if it cannot be read, or is none or a pointer. Arguments are as above."""
    check_regular(path, kind)
    try:
        check_not_pointer(path)
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); give the path of another {kind}") from error
