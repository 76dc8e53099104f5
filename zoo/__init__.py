"""Checkpoints by name: what there is (`catalogue`), fetched once and checked, as model files of ours.

    parlai poly_zoo                                             the list
    parlai eval_model -mf zoo:poly_agents/NAME/model -t TASK    fetched on first use
    poly_agents.load("zoo:poly_agents/NAME/model")              the same from plain Python

They are kept in DATAPATH/models/poly_agents/NAME, DATAPATH being ParlAI's (`--datapath`, `PARLAI_DATAPATH`).
`hub/ORG/NAME` is also a NAME: what `parlai poly_zoo publish --push ORG/NAME` has put on HuggingFace's hub.
"""

import difflib
import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

from filelock import FileLock

from poly_agents.files.atomic import sha256, write_text
from poly_agents.files.download import DownloadError
from poly_agents.zoo.catalogue import BACKBONES, ZOO, Entry
from poly_agents.zoo.sources import OURS, Packaged, Pushed

__all__ = ["BACKBONES", "ZOO", "Entry", "Packaged", "backbone", "fetch", "find", "local"]
PREFIX = "zoo:poly_agents/"


def backbone(name: str) -> str:
    """What `--backbone NAME` stands for: a folder or file for a name of the zoo, else NAME (a hub name or a folder)."""
    return str(BACKBONES[name].fetch()) if name in BACKBONES else local(name)


def find(name: str) -> Entry:
    """The entry of a name. Raises ValueError with the nearest names where there is none."""
    if re.fullmatch(r"hub/[\w-][\w.-]*/[\w-][\w.-]*", name):
        return Entry("", Pushed(name.removeprefix("hub/")))
    if name not in ZOO:
        lower = {known.lower(): known for known in ZOO}
        near = [lower[found] for found in difflib.get_close_matches(name.lower(), lower, 5, 0.5)]
        near = near or [known for known in ZOO if name.lower() in known.lower()]
        said = f"did you mean {', '.join(near)}?" if near else "`parlai poly_zoo` lists them"
        raise ValueError(f"there is no checkpoint {name!r} in the zoo; {said}")
    return ZOO[name]


def fetch(name: str, datapath: str | Path, check: bool = False) -> Path:
    """The model file of an entry, DATAPATH/models/poly_agents/NAME/model: made by one process where it is not there.

    With `check` what is there is held against what was noted when it came. Raises DownloadError, and ValueError for a
    name that is not known.
    """
    entry = find(name)
    folder = Path(datapath, "models", "poly_agents", name)
    model, notes = folder / "model", folder.with_name(f".{folder.name}.json")
    if model.is_file() and not check:
        return model
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        noted = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else {}
        if not model.is_file():
            _make(entry, folder, notes, noted)
        elif check:
            _check(folder, noted)
    return model


def _make(entry: Entry, folder: Path, notes: Path, noted: dict[str, Any]) -> None:
    """Fill a folder beside, note the digests, and move its files into place, the model last."""
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(exist_ok=True)
    came = entry.source.make(entry.agent, entry.options, part, noted)
    files = sorted((path for path in part.iterdir() if path.name.startswith("model")), key=lambda p: p.name == "model")
    write_text(notes, json.dumps({**came, "files": {path.name: sha256(path) for path in files}}, indent=1))
    folder.mkdir(exist_ok=True)
    for path in files:
        os.replace(path, folder / path.name)
    for path in part.iterdir():
        path.unlink()
    part.rmdir()


def _check(folder: Path, noted: dict[str, Any]) -> None:
    for name in OURS:
        if not (folder / name).is_file():
            raise DownloadError(f"{folder / name} is missing; delete {folder}, and it comes again")
        digest, wanted = sha256(folder / name), noted.get("files", {}).get(name)
        if wanted is not None and digest != wanted:
            raise DownloadError(
                f"{folder / name} was changed since it came: its sha256 is {digest}, not {wanted}; delete {folder}, "
                "and it comes again"
            )


def local(path: str | Path, datapath: str | Path | None = None) -> str:
    """A path on this disk: `zoo:...` is fetched to `datapath` (ParlAI's, if None), anything else is itself."""
    path = str(path)
    if not path.startswith("zoo:"):
        return path
    datapath = datapath or os.environ.get("PARLAI_DATAPATH") or _default_datapath()
    if path.startswith(PREFIX):
        return str(fetch(path.removeprefix(PREFIX).removesuffix("/model"), datapath))
    raise ValueError(f"{path} is in ParlAI's own zoo: give it to a `parlai` command, which fetches it")


def _default_datapath() -> str:
    """Where ParlAI keeps its data if nobody says otherwise."""
    return str(Path(importlib.util.find_spec("parlai").origin).parents[1] / "data")
