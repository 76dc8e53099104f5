"""Checkpoints by name: listed in `catalogue`, fetched once, checked, and kept as model files of this project.

    parlai poly_zoo                                             the list
    parlai eval_model -mf zoo:poly_agents/NAME/model -t TASK    fetched on first use
    poly_agents.load("zoo:poly_agents/NAME/model")              the same from plain Python

They are kept in DATAPATH/models/poly_agents/NAME; DATAPATH is ParlAI's (`--datapath`, `PARLAI_DATAPATH`).
`hub/ORG/NAME` is also a NAME: a model that `parlai poly_zoo publish --push ORG/NAME` has put on HuggingFace's hub.
"""

import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

from poly_agents.errors import DownloadError, InputError
from poly_agents.files import json_files
from poly_agents.files.atomic import locked, sha256, write_text
from poly_agents.options import nearest, unknown
from poly_agents.zoo.catalogue import BACKBONES, ZOO, Entry
from poly_agents.zoo.checks import MODEL_FILES
from poly_agents.zoo.sources import CANDIDATES, Packaged, Pushed

__all__ = ["BACKBONES", "ZOO", "Entry", "Packaged", "backbone", "data_folder", "fetch", "find", "local"]
PREFIX = "zoo:poly_agents/"
HUB = re.compile(r"hub/[\w-][\w.-]*/[\w-][\w.-]*")  # the name of a model on HuggingFace's hub
KEPT = (CANDIDATES, *MODEL_FILES)  # the model last: it is there only if the others are


def backbone(name: str) -> str:
    """Resolve `--backbone NAME`.

    Returns:
        The folder of a backbone of the zoo, the file of a `zoo:` address, or NAME itself, which then is a folder or a
        name of HuggingFace's hub.

    Raises:
        ValueError: the name is empty, or a misspelt one of the zoo.
    """
    if name in BACKBONES:
        return str(BACKBONES[name].fetch())
    if not name or ("/" not in name and not Path(name).exists() and nearest(name, BACKBONES, similarity=0.8)):
        raise unknown("backbone", name, [*BACKBONES, "FOLDER", "ORG/NAME of HuggingFace's hub"])
    return local(name)


def find(name: str) -> Entry:
    """Find the entry of a name. Raises ValueError with the nearest names if there is none."""
    if HUB.fullmatch(name):
        return Entry("", Pushed(name.removeprefix("hub/")))
    if name.startswith("hub/"):
        raise InputError(f"there is no checkpoint {name!r}; one of the hub is given as {PREFIX}hub/ORG/NAME/model")
    if name not in ZOO:
        near = nearest(name, ZOO, 5, 0.5) or [known for known in ZOO if name.lower() in known.lower()]
        hint = f"did you mean {', '.join(near)}?" if near else "`parlai poly_zoo` lists them"
        raise InputError(f"there is no checkpoint {name!r} in the zoo; {hint}")
    return ZOO[name]


def fetch(name: str, datapath: str | Path, check: bool = False) -> Path:
    """Return the model file of an entry, DATAPATH/models/poly_agents/NAME/model, and make it if it is not there.

    One process makes it, others wait.

    Args:
        name: of an entry, or hub/ORG/NAME.
        datapath: the folder in which ParlAI keeps its data.
        check: compare the digests of files that are there with those they had when they were made.

    Raises:
        DownloadError: something cannot be fetched, or was changed.
        ValueError: the name is not known.
    """
    entry = find(name)
    folder = Path(datapath, "models", "poly_agents", name)
    model, notes = folder / "model", folder.with_name(f".{folder.name}.json")
    if model.is_file() and not check:
        return model
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f".{folder.name}.lock"), folder):
        noted = json_files.read(notes) if notes.is_file() else {}
        if not model.is_file():
            _make(entry, folder, notes, noted)
        elif check:
            _check(folder, noted)
    return model


def _make(entry: Entry, folder: Path, notes: Path, noted: dict[str, Any]) -> None:
    """Make a model in a folder beside, write the digests to `notes`, and move its files into place."""
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(exist_ok=True)
    origin = entry.source.make(entry.agent, entry.options, part, noted)
    names = [name for name in KEPT if (part / name).is_file()]
    write_text(notes, json.dumps({**origin, "files": {name: sha256(part / name) for name in names}}, indent=1))
    folder.mkdir(exist_ok=True)
    for name in names:
        os.replace(part / name, folder / name)
    for path in part.iterdir():
        path.unlink()
    part.rmdir()


def _check(folder: Path, noted: dict[str, Any]) -> None:
    """Raise DownloadError if a file is missing or was changed since the model was made."""
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise DownloadError(f"{folder / name} is missing; move {folder} away, and it comes again")
        digest, wanted = sha256(folder / name), noted.get("files", {}).get(name)
        if wanted is not None and digest != wanted:
            raise DownloadError(
                f"{folder / name} was changed since it came: its sha256 is {digest}, not {wanted}; move {folder} away, "
                "and it comes again"
            )


def local(path: str | Path, datapath: str | Path | None = None) -> str:
    """Return a path on this disk. A `zoo:poly_agents/` address is fetched, any other path is returned as it is.

    Raises ValueError for an address of ParlAI's own zoo.
    """
    path = str(path)
    if not path.startswith("zoo:"):
        return path
    if path.startswith(PREFIX):
        name = path.removeprefix(PREFIX)
        name = name if HUB.fullmatch(name) else name.removesuffix("/model")  # a repository may be called `model`
        return str(fetch(name, data_folder(datapath)))
    raise InputError(f"{path} is in ParlAI's own zoo: give it to a `parlai` command, which fetches it")


def data_folder(datapath: str | Path | None = None) -> str:
    """Return the folder in which ParlAI keeps its data: the given one, PARLAI_DATAPATH, or ParlAI's default."""
    given = datapath or os.environ.get("PARLAI_DATAPATH")
    return str(given or Path(importlib.util.find_spec("parlai").origin).parents[1] / "data")
