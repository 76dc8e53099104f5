"""Make candidate stores and update them.

A segment never changes. To add candidates is to write more segments. To remove some is to write the segments they were
in again, without encoding anything. A build that was killed goes on where it was: what `store.json` lists is done.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from poly_agents import processes
from poly_agents.candidates.reading import count_lines, read_candidates
from poly_agents.candidates.sketch import sketch
from poly_agents.candidates.store import (
    FORMAT,
    HEADER,
    Damaged,
    Segment,
    Store,
    bytes_of,
    digest,
    load_segment,
    paths,
    read_header,
    verify,
)
from poly_agents.candidates.vectors import PRECISIONS, Vectors, flatten
from poly_agents.files import atomic

ROWS = 32_768  # candidates of a segment, at most
BYTES = 2**26  # encodings of a segment, about
CHUNK = 2_048  # candidates encoded at a time


class Recipe(NamedTuple):
    """How the encodings of a store are made."""

    encode: Callable[[list[str]], Any]  # texts -> encoded candidates
    fingerprint: str  # of everything that `encode` depends on
    precision: str = "float32"


def update(
    folder: str | Path,
    candidates: str | Path | Iterable[str | dict[str, Any]],
    recipe: Recipe,
    *,
    keep: bool = False,
    progress: bool = True,
) -> Store:
    """Make a store of a file of candidates, or of the candidates themselves; reopen it if nothing has changed.

    Args:
        folder: of the store.
        candidates: a file as `read_candidates` takes it, or texts, or dictionaries with a `text`.
        recipe: how they are encoded.
        keep: keep what the store holds besides.
        progress: show a progress bar.
    """
    if not isinstance(candidates, str | Path):
        dictionaries = ({"text": each} if isinstance(each, str) else each for each in candidates)
        return build(folder, dictionaries, recipe, keep=keep, progress=progress)
    source, total = atomic.sha256(candidates), count_lines(candidates)
    finished = None if keep else unchanged(folder, recipe, source)
    if all(processes.all_gather(finished is not None)):
        return finished
    rows = read_candidates(candidates)
    return build(folder, rows, recipe, keep=keep, source=source, total=total, progress=progress)


def build(
    folder: str | Path,
    candidates: Iterable[dict[str, Any]],
    recipe: Recipe,
    *,
    keep: bool = False,
    source: str = "",
    total: int | None = None,
    progress: bool = True,
) -> Store:
    """Make the store hold some candidates and no others.

    What it holds already is not encoded again, unless another model or precision made it, or it is damaged. Memory is
    bounded: some segments, and 40 bytes a candidate to know which are there. Of several processes the first reads and
    writes, all of them encode, and the store is the same.

    Args:
        folder: of the store; made if it does not exist.
        candidates: dictionaries with a `text`.
        recipe: how they are encoded.
        keep: keep what the store holds besides.
        source: digest of the file that these candidates are all of.
        total: how many there are, for the progress bar.
        progress: show it.

    Raises:
        ValueError: the folder holds something else, or there are no candidates, or the precision is unknown.
    """
    if recipe.precision not in (*PRECISIONS[1:], "float16"):
        raise ValueError(f"a store's precision is one of {', '.join(PRECISIONS[1:])}; got {recipe.precision!r}")
    folder = Path(folder)
    if folder.is_dir() and read_header(folder) is None and any(p for p in folder.iterdir() if p.name != "lock"):
        raise ValueError(f"{folder} is a folder of something else; give a new one")
    folder.mkdir(parents=True, exist_ok=True)
    if processes.rank():
        processes.share_work(lambda texts: flatten(recipe.encode(texts), recipe.precision))
        return Store(folder, recipe.fingerprint)
    bar = tqdm(total=total, unit="cand", desc="encoding", disable=not progress)
    with bar, FileLock(folder / "lock"), processes.workers():
        writer = Writer(folder, recipe, bar.update)
        for candidate in candidates:
            writer.add(candidate)
        writer.finish(keep, source)
    return Store(folder, recipe.fingerprint)


def discard(folder: str | Path) -> None:
    """Have the next build encode everything again."""
    header = read_header(Path(folder))
    if header:
        atomic.write_text(Path(folder, HEADER), json.dumps(header | {"maker": "", "segments": []}))


def unchanged(folder: str | Path, recipe: Recipe, source: str) -> Store | None:
    """Return the store in a folder, if it is whole and holds this source, encoded by this recipe, and nothing else."""
    header = read_header(Path(folder)) or {}
    expected = [recipe.fingerprint, recipe.precision, source]
    if [header.get(name) for name in ("maker", "precision", "source")] != expected:
        return None
    with suppress(Damaged):
        return Store(folder, recipe.fingerprint)
    return None


class Writer:
    """Writes candidates into a folder, one segment after another."""

    def __init__(self, folder: Path, recipe: Recipe, done: Callable[[int], Any]):
        """Read what the folder holds.

        Args:
            folder: of the store.
            recipe: how candidates are encoded.
            done: called with the number of candidates that were finished.
        """
        self.folder, self.recipe, self.done = folder, recipe, done
        header = read_header(folder) or {}
        same = header.get("maker") == recipe.fingerprint and header.get("precision") == recipe.precision
        listed = [Segment(*entry) for entry in header["segments"]] if same else []
        good = verify(folder, listed)
        self.segments = [s for s in listed if all(good[path] for path in paths(folder, s))]
        self.old = len(self.segments)
        stored = [load_segment(paths(folder, segment)[0])["keys"] for segment in self.segments]
        keys = np.concatenate([np.empty(0, "S16"), *(part.numpy().view("S16").ravel() for part in stored)])
        self.order = keys.argsort(kind="stable")
        self.keys = keys[self.order]
        self.wanted = np.zeros(len(keys), bool)  # stored candidates that were given again
        self.waiting: dict[bytes, str] = {}  # key -> line
        self.added: set[bytes] = set()
        self.rows: int | None = None  # of a segment; known once an encoding was measured

    def add(self, candidate: dict[str, Any]) -> None:
        """Take a candidate. It is written with others, or in `finish`."""
        line = json.dumps(candidate, ensure_ascii=False)
        self.waiting[digest(line)] = line
        if len(self.waiting) >= ROWS:
            self.write_waiting()

    def write_waiting(self) -> None:
        """Encode and write those waiting candidates that are not stored yet."""
        keys = np.array(list(self.waiting), "S16")
        place = self.keys.searchsorted(keys).clip(max=max(0, len(self.keys) - 1))
        stored = self.keys[place] == keys if len(self.keys) else np.zeros(len(keys), bool)
        self.wanted[self.order[place[stored]]] = True
        new = [item for item, known in zip(self.waiting.items(), stored, strict=True) if not known]
        new = [(key, line) for key, line in new if key not in self.added]
        self.added.update(key for key, _ in new)
        self.done(len(self.waiting) - len(new))
        self.waiting = {}
        new.sort(key=lambda item: -len(item[1]))
        while new:
            if self.rows is None:
                sample = self.encode([json.loads(line)["text"] for _, line in new[:16]])
                size = sum(part.nbytes for part in sample.values()) / len(new[:16])
                self.rows = max(1, min(ROWS, int(BYTES / size)))
            self.encode_segment(new[: self.rows])
            new = new[self.rows :]

    def encode(self, texts: list[str]) -> dict[str, Tensor]:
        return flatten(self.recipe.encode(texts), self.recipe.precision)

    def encode_segment(self, items: list[tuple[bytes, str]]) -> None:
        """Encode one segment, given as keys and lines, and write it."""
        texts = [json.loads(line)["text"] for _, line in items]
        chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        tensors: list[dict[str, Tensor]] = []
        while len(tensors) < len(chunks):
            part = chunks[len(tensors) :][: processes.count()]
            tensors += processes.map_shared(self.encode, part)
            self.done(sum(map(len, part)))
        joined = {name: torch.cat([part[name] for part in tensors]) for name in tensors[0]}
        self.write_segment([key for key, _ in items], [line for _, line in items], joined)

    def write_segment(self, keys: list[bytes], lines: list[str], tensors: dict[str, Tensor]) -> None:
        """Write the two files of a segment, then list it."""
        encoded = [line.encode() + b"\n" for line in lines]
        if "norms" in tensors:
            tensors = tensors | sketch(Vectors([tensors]))
        tensors = tensors | {
            "keys": bytes_of(keys),
            "texts": bytes_of([digest(json.loads(line)["text"].strip()) for line in lines]),
            "offsets": torch.tensor([0, *accumulate(map(len, encoded))]),
        }
        name = hashlib.sha256(self.recipe.fingerprint.encode() + b"".join(keys)).hexdigest()[:16]
        entry = Segment(name, len(keys), "", "")
        atomic.replace(paths(self.folder, entry)[0], lambda beside: save_file(tensors, beside))
        atomic.replace(paths(self.folder, entry)[1], lambda beside: Path(beside).write_bytes(b"".join(encoded)))
        self.segments.append(Segment(name, len(keys), *map(atomic.sha256, paths(self.folder, entry))))
        self.write_header("")

    def finish(self, keep: bool, source: str) -> None:
        """Write what is waiting, remove what was not given again unless `keep`, and delete files of no segment."""
        self.write_waiting()
        if not keep and not self.wanted.all():
            self.remove_unwanted()
        if not self.segments:
            raise ValueError(f"there are no candidates to put into {self.folder}")
        self.write_header(source)
        listed = {path for segment in self.segments for path in paths(self.folder, segment)}
        for path in self.folder.iterdir():
            if path.suffix in (".safetensors", ".jsonl", ".tmp") and path not in listed:
                with suppress(FileNotFoundError):
                    path.unlink()

    def remove_unwanted(self) -> None:
        """Write those segments again that hold candidates which were not given again."""
        old, start = self.segments[: self.old], 0
        self.segments = self.segments[self.old :]
        whole = []
        for segment in old:
            wanted = torch.from_numpy(self.wanted[start : start + segment.rows])
            start += segment.rows
            if wanted.all():
                whole.append(segment)
            elif wanted.any():
                vectors, lines = paths(self.folder, segment)
                tensors = load_segment(vectors)
                keys = [bytes(key) for key in tensors["keys"][wanted].numpy()]
                text = [line for line, good in zip(lines.read_text("utf-8").split("\n"), wanted, strict=False) if good]
                self.write_segment(keys, text, Vectors([tensors]).select(wanted))
        self.segments = whole + self.segments

    def write_header(self, source: str) -> None:
        """Write `store.json`. `source` is the digest of the file that the store is all of, empty while it is made."""
        header = {
            "format": FORMAT,
            "maker": self.recipe.fingerprint,  # the key of earlier versions
            "precision": self.recipe.precision,
            "source": source,
            "segments": self.segments,
        }
        atomic.write_text(self.folder / HEADER, json.dumps(header, indent=1) + "\n")
