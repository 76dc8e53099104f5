"""Make candidate stores and update them.

Readers see the old candidates until all new ones are there. A build that was killed continues after the last segment
that `unfinished.json` lists.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from poly_agents import processes
from poly_agents.candidates.manifest import HEADER, SEGMENT_FILE, UNFINISHED, Damaged, read_header, write_header
from poly_agents.candidates.reading import as_candidates, check_file, count_lines, read_candidates
from poly_agents.candidates.segments import Recipe, Writer
from poly_agents.candidates.store import Store
from poly_agents.candidates.vectors import STORED_AS
from poly_agents.errors import InputError
from poly_agents.files import atomic
from poly_agents.progress import bar as progress_bar

# What a store has, and what killed writers leave there; .tmp... is of safetensors.
OURS = re.compile(rf"({SEGMENT_FILE}|store\.json|unfinished\.json)(\.[\w-]+\.tmp)?|lock|\.tmp\w+")


def update(
    folder: str | Path,
    candidates: str | Path | Iterable[str | dict[str, Any]],
    recipe: Recipe,
    *,
    keep: bool = False,
    progress: bool = True,
) -> Store:
    """Make or update a store. If its candidates come from a file that has not changed, it is only opened.

    Args:
        folder: the folder of the store.
        candidates: the path of a file, or texts, or dictionaries with a `text` and any other fields.
        recipe: how to encode them.
        keep: also keep the other candidates that the store has.
        progress: show a progress bar.

    Raises:
        ValueError: as in `build`, or the file has a line that `read_candidates` refuses.
    """
    if not isinstance(candidates, str | Path):
        return build(folder, as_candidates(candidates), recipe, keep=keep, progress=progress)
    check_file(candidates)
    total = None
    if Path(candidates).is_file():  # a pipe can be read once only
        source = atomic.sha256(candidates)
        store = None if keep else up_to_date(folder, recipe, source)
        if all(processes.all_gather(store is not None)):
            return store
        total = count_lines(candidates)
    # The file may have changed since. What is noted is the digest of what is read now.
    read = hashlib.sha256()
    rows = read_candidates(candidates, read)
    return build(folder, rows, recipe, keep=keep, source=read.hexdigest, total=total, progress=progress)


def build(
    folder: str | Path,
    candidates: Iterable[dict[str, Any]],
    recipe: Recipe,
    *,
    keep: bool = False,
    source: Callable[[], str] = str,
    total: int | None = None,
    progress: bool = True,
) -> Store:
    """Make a store hold the given candidates and no others.

    A stored candidate is encoded again only if it is damaged, or if another model or precision made it. Memory holds a
    few segments, and 40 bytes for each candidate to know which are stored. With several processes the first one reads
    and writes, all of them encode, and the store is the same as that of one process.

    Args:
        folder: the folder of the store. It is made if it does not exist.
        candidates: dictionaries with a `text` and any other fields.
        recipe: how to encode them.
        keep: also keep the other candidates that the store has.
        source: returns the digest of the file that held exactly these candidates. It is called when all are read.
        total: number of candidates, for the progress bar.
        progress: show a progress bar.

    Raises:
        ValueError: the folder holds something else, there are no candidates, or the precision is not known.
    """
    if recipe.precision not in STORED_AS:
        raise InputError(f"a store's precision is one of {', '.join(STORED_AS)}; got {recipe.precision!r}")
    folder = Path(folder)
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if processes.rank() > 0:
        processes.share_work(recipe.flat)
        return Store(folder, recipe.fingerprint)
    with atomic.locked(folder / "lock", folder):
        bar = progress_bar(total=total, unit="cand", desc="encoding", disable=not progress)
        with bar, processes.workers():
            writer = Writer(folder, recipe, bar.update)
            for candidate in candidates:
                writer.add(candidate)
            writer.finish(keep, source())
        return Store(folder, recipe.fingerprint)


def check_folder(folder: Path) -> None:
    """Raise ValueError if there is something else where a store is to be made: a file, or a folder without a header.

    A store whose header is damaged or missing is known by the names of its files.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder for the store")
    names = [path.name for path in folder.iterdir() if path.name != "lock"] if folder.is_dir() else []
    with suppress(Damaged):
        if not names or read_header(folder) or read_header(folder, UNFINISHED):
            return
    if not all(map(OURS.fullmatch, names)) or not any(".safetensors" in name for name in names):
        raise InputError(f"{folder} is a folder of something else; give a new one")


def discard(folder: str | Path) -> None:
    """Empty a store, so that the next build encodes everything again. Nothing happens if there is none."""
    folder = Path(folder)
    with suppress(Damaged):
        if header := read_header(folder):
            write_header(folder, HEADER, header._replace(maker="", segments=[]))
    (folder / UNFINISHED).unlink(missing_ok=True)


def up_to_date(folder: str | Path, recipe: Recipe, source: str) -> Store | None:
    """Open the store in a folder if it is whole and holds exactly the file `source`, encoded by this recipe."""
    with suppress(Damaged):
        header = read_header(Path(folder))
        if recipe.made(header) and header.source == source:
            return Store(folder, recipe.fingerprint)
    return None
