"""Make candidate stores and update them.

A segment never changes. Added candidates go into new segments. If candidates are removed, the segments that held them
are written again from what is stored, without encoding. A build that was killed continues after the last segment that
`store.json` lists.
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
    as_keys,
    as_tensor,
    digest,
    find_sorted,
    load_segment,
    paths,
    read_header,
    segments_of,
    verify,
)
from poly_agents.candidates.vectors import STORED_AS, Vectors, flatten
from poly_agents.errors import InputError
from poly_agents.files import atomic

ROWS = 32_768  # candidates of a segment, at most
BYTES = 2**26  # bytes of the encodings of a segment, about
CHUNK = 2_048  # candidates encoded at a time


class Recipe(NamedTuple):
    """The model and the precision that encode the candidates of a store."""

    encode: Callable[[list[str]], Any]  # N texts -> N encoded candidates
    fingerprint: str  # identifies everything that `encode` depends on
    precision: str = "float32"  # type to store vectors in, one of `vectors.STORED_AS`


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
        dictionaries = ({"text": each} if isinstance(each, str) else each for each in candidates)
        return build(folder, dictionaries, recipe, keep=keep, progress=progress)
    source, total = atomic.sha256(candidates), count_lines(candidates)
    store = None if keep else up_to_date(folder, recipe, source)
    if all(processes.all_gather(store is not None)):
        return store
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
    """Make a store hold the given candidates and no others.

    A stored candidate is encoded again only if it is damaged, or if another model or precision made it. Memory holds a
    few segments, and 40 bytes for each candidate to know which are stored. With several processes the first one reads
    and writes, all of them encode, and the store is the same as that of one process.

    Args:
        folder: the folder of the store. It is made if it does not exist.
        candidates: dictionaries with a `text` and any other fields.
        recipe: how to encode them.
        keep: also keep the other candidates that the store has.
        source: digest of the file that holds exactly these candidates, if there is one.
        total: number of candidates, for the progress bar.
        progress: show a progress bar.

    Raises:
        ValueError: the folder holds something else, there are no candidates, or the precision is not known.
    """
    if recipe.precision not in STORED_AS:
        raise InputError(f"a store's precision is one of {', '.join(STORED_AS)}; got {recipe.precision!r}")
    folder = Path(folder)
    if folder.is_dir() and read_header(folder) is None and any(p for p in folder.iterdir() if p.name != "lock"):
        raise InputError(f"{folder} is a folder of something else; give a new one")
    folder.mkdir(parents=True, exist_ok=True)
    if processes.rank() > 0:
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
    """Empty a store, so that the next build encodes everything again. Nothing happens if there is none."""
    header = read_header(Path(folder))
    if header:
        atomic.write_text(Path(folder, HEADER), json.dumps(header | {"maker": "", "segments": []}))


def up_to_date(folder: str | Path, recipe: Recipe, source: str) -> Store | None:
    """Open the store in a folder if it is whole and holds exactly the file `source`, encoded by this recipe."""
    header = read_header(Path(folder)) or {}
    expected = [recipe.fingerprint, recipe.precision, source]
    if [header.get(name) for name in ("maker", "precision", "source")] != expected:
        return None
    with suppress(Damaged):
        return Store(folder, recipe.fingerprint)
    return None


class Writer:
    """Writes candidates into the folder of a store, one segment after another."""

    def __init__(self, folder: Path, recipe: Recipe, count: Callable[[int], Any]):
        """Find the segments that the folder has already.

        Args:
            folder: the folder of the store.
            recipe: how to encode candidates.
            count: is called with the number of candidates that were just finished.
        """
        self.folder, self.recipe, self.count = folder, recipe, count
        header = read_header(folder) or {}
        same = header.get("maker") == recipe.fingerprint and header.get("precision") == recipe.precision
        listed: list[Segment] = []
        with suppress(Damaged):  # then everything is encoded again
            listed = segments_of(header, folder) if same else []
        whole = verify(folder, listed)
        self.segments = [segment for segment in listed if all(whole[path] for path in paths(folder, segment))]
        self.old = len(self.segments)  # how many there were before this build
        stored = [as_keys(load_segment(folder, segment)["keys"]) for segment in self.segments]
        keys = np.concatenate([np.empty(0, "S16"), *stored])
        self.order = keys.argsort(kind="stable")
        self.keys = keys[self.order]
        self.given = np.zeros(len(keys), bool)  # stored candidates that are given to this build too
        self.waiting: dict[bytes, str] = {}  # key -> line, of candidates to be written
        self.added: set[bytes] = set()
        self.rows: int | None = None  # candidates of a segment, known once an encoding was measured

    def add(self, candidate: dict[str, Any]) -> None:
        """Add a candidate. It is written together with others, or by `finish`."""
        line = json.dumps(candidate, ensure_ascii=False)
        self.waiting[digest(line)] = line
        if len(self.waiting) >= ROWS:
            self.write_waiting()

    def write_waiting(self) -> None:
        """Encode and write the waiting candidates that are not stored yet, longest first."""
        new = self.take_new()
        self.added.update(key for key, _ in new)
        self.count(len(self.waiting) - len(new))
        self.waiting = {}
        new.sort(key=lambda item: -len(item[1]))
        while new:
            self.rows = self.rows or self.rows_of_segment([json.loads(line)["text"] for _, line in new[:16]])
            self.encode_segment(new[: self.rows])
            new = new[self.rows :]

    def take_new(self) -> list[tuple[bytes, str]]:
        """Return keys and lines of the waiting candidates that are not stored yet, and mark those that are."""
        places = find_sorted(self.keys, np.array(list(self.waiting), "S16"))
        self.given[self.order[places[places >= 0]]] = True
        pairs = zip(self.waiting.items(), places.tolist(), strict=True)
        return [(key, line) for (key, line), place in pairs if place < 0 and key not in self.added]

    def rows_of_segment(self, sample: list[str]) -> int:
        """Return how many candidates go into a segment, by the size that some of them have when they are encoded."""
        size = sum(part.nbytes for part in self.encode(sample).values()) / len(sample)
        return max(1, min(ROWS, int(BYTES / size)))

    def encode(self, texts: list[str]) -> dict[str, Tensor]:
        """Encode candidates as a segment holds them."""
        return flatten(self.recipe.encode(texts), self.recipe.precision)

    def encode_segment(self, items: list[tuple[bytes, str]]) -> None:
        """Encode the candidates of a segment, given as keys and lines, and write it."""
        texts = [json.loads(line)["text"] for _, line in items]
        chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        tensors: list[dict[str, Tensor]] = []
        while len(tensors) < len(chunks):
            part = chunks[len(tensors) :][: processes.count()]
            tensors += processes.map_shared(self.encode, part)
            self.count(sum(map(len, part)))
        joined = {name: torch.cat([part[name] for part in tensors]) for name in tensors[0]}
        self.write_segment([key for key, _ in items], [line for _, line in items], joined)

    def write_segment(self, keys: list[bytes], lines: list[str], tensors: dict[str, Tensor]) -> None:
        """Write the two files of a segment, then list it in `store.json`."""
        encoded = [line.encode() + b"\n" for line in lines]
        if "norms" in tensors:
            tensors = tensors | sketch(Vectors([tensors]))
        tensors = tensors | {
            "keys": as_tensor(keys),
            "texts": as_tensor([digest(json.loads(line)["text"].strip()) for line in lines]),
            "offsets": torch.tensor([0, *accumulate(map(len, encoded))]),
        }
        name = hashlib.sha256(self.recipe.fingerprint.encode() + b"".join(keys)).hexdigest()[:16]
        vectors_path, lines_path = paths(self.folder, Segment(name, len(keys), "", ""))
        atomic.replace(vectors_path, lambda beside: save_file(tensors, beside))
        atomic.replace(lines_path, lambda beside: Path(beside).write_bytes(b"".join(encoded)))
        self.segments.append(Segment(name, len(keys), atomic.sha256(vectors_path), atomic.sha256(lines_path)))
        self.write_header("")

    def finish(self, keep: bool, source: str) -> None:
        """Write what is waiting, then remove stored candidates that were not given, unless `keep`, and stray files."""
        self.write_waiting()
        if not keep and not self.given.all():
            self.remove_not_given()
        if not self.segments:
            raise InputError(f"there are no candidates to put into {self.folder}")
        self.write_header(source)
        listed = {path for segment in self.segments for path in paths(self.folder, segment)}
        for path in self.folder.iterdir():
            if path.suffix in (".safetensors", ".jsonl", ".tmp") and path not in listed:
                path.unlink(missing_ok=True)

    def remove_not_given(self) -> None:
        """Write the older segments again without the candidates that were not given to this build."""
        old, start = self.segments[: self.old], 0
        self.segments = self.segments[self.old :]
        unchanged = []
        for segment in old:
            given = torch.from_numpy(self.given[start : start + segment.rows])
            start += segment.rows
            if given.all():
                unchanged.append(segment)
            elif given.any():
                self.write_part(segment, given)
        self.segments = unchanged + self.segments

    def write_part(self, segment: Segment, given: Tensor) -> None:
        """Write a segment again with those rows that `given` [N] is True for."""
        _, lines_path = paths(self.folder, segment)
        tensors = load_segment(self.folder, segment)
        keys = [bytes(key) for key in tensors["keys"][given].numpy()]
        rows = zip(lines_path.read_text("utf-8").split("\n"), given.tolist(), strict=False)  # and an empty last line
        self.write_segment(keys, [line for line, wanted in rows if wanted], Vectors([tensors]).select(given))

    def write_header(self, source: str) -> None:
        """Write `store.json`. `source` is the digest of the file that was stored, empty until all of it is."""
        header = {
            "format": FORMAT,
            "maker": self.recipe.fingerprint,  # so called since the first version
            "precision": self.recipe.precision,
            "source": source,
            "segments": self.segments,
        }
        atomic.write_text(self.folder / HEADER, json.dumps(header, indent=1) + "\n")
