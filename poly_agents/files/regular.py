"""Check that a path is a file that can be read to its end."""

from pathlib import Path

from poly_agents.errors import InputError, MissingFileError


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
