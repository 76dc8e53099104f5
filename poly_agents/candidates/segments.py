"""Write the segments of a candidate store.

A segment never changes. Added candidates go into new segments. If candidates are removed, the segments that held them
are written again from what is stored, without encoding.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from poly_agents import processes
from poly_agents.candidates.manifest import (
    HEADER,
    SEGMENT_FILE,
    UNFINISHED,
    Damaged,
    Header,
    Segment,
    load_segment,
    paths,
    read_header,
    verify,
    write_header,
)
from poly_agents.candidates.sketch import sketch
from poly_agents.candidates.store import as_keys, as_tensor, digest, find_sorted
from poly_agents.candidates.vectors import Vectors, check_finite, flatten
from poly_agents.errors import InputError
from poly_agents.files import atomic
from poly_agents.files.lines import json_line

LOG = logging.getLogger(__name__)
ROWS = 32_768  # candidates of a segment, at most
BYTES = 2**26  # bytes of the encodings of a segment, about
CHUNK = 2_048  # candidates encoded at a time
STRAY = re.compile(rf"{SEGMENT_FILE}(\.[\w-]+\.tmp)?")


class Recipe(NamedTuple):
    """The model and the precision that encode the candidates of a store."""

    encode: Callable[[list[str]], Any]  # N texts -> N encoded candidates
    fingerprint: str  # identifies everything that `encode` depends on
    precision: str = "float32"  # type to store vectors in, one of `vectors.STORED_AS`

    def flat(self, texts: list[str]) -> dict[str, Tensor]:
        """Encode candidates as a segment holds them. Raises ValueError for an encoding that is not finite."""
        encoded = self.encode(texts)
        tensors = flatten(encoded, self.precision)
        check_finite(encoded, texts)
        return tensors

    def made(self, header: Header | None) -> bool:
        """Tell whether the segments of a header were made by this recipe."""
        return header is not None and (header.maker, header.precision) == (self.fingerprint, self.precision)


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
        stored = self.read_segments(HEADER)
        self.complete = sum(map(len, stored.values()))  # stored candidates that a build before this one has finished
        stored |= {segment: keys for segment, keys in self.read_segments(UNFINISHED).items() if segment not in stored}
        self.segments = list(stored)
        self.old = len(self.segments)  # how many there were before this build
        keys = np.concatenate([np.empty(0, "S16"), *stored.values()])
        self.order = keys.argsort(kind="stable")
        self.keys = keys[self.order]
        self.given = np.zeros(len(keys), bool)  # stored candidates that are given to this build too
        self.waiting: dict[bytes, str] = {}  # key -> line, of candidates to be written
        self.added: set[bytes] = set()
        self.rows: int | None = None  # candidates of a segment, known once an encoding was measured

    def read_segments(self, name: str) -> dict[Segment, np.ndarray]:
        """Return the segments of this recipe that a header lists and that are whole, with their keys.

        What is damaged is said, and will be encoded again.
        """
        try:
            header = read_header(self.folder, name)
        except Damaged as error:
            LOG.warning("encoding again what it listed: %s", str(error).partition(";")[0])
            return {}
        listed = header.segments if header and self.recipe.made(header) else []
        whole, found = verify(self.folder, listed), {}
        for segment in listed:
            try:
                if bad := [path for path in paths(self.folder, segment) if not whole[path]]:
                    raise Damaged(f"{bad[0]} is damaged or missing")
                found[segment] = as_keys(load_segment(self.folder, segment, self.recipe.precision)["keys"])
            except Damaged as error:
                LOG.warning("encoding its candidates again: %s", str(error).partition(";")[0])
        return found

    def add(self, candidate: Mapping[str, Any]) -> None:
        """Add a candidate. It is written together with others, or by `finish`."""
        try:
            line = json_line(candidate).decode()[:-1]
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"a candidate cannot be stored as JSON ({error}): {str(candidate)[:80]}") from error
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
        size = sum(part.nbytes for part in self.recipe.flat(sample).values()) / len(sample)
        return max(1, min(ROWS, int(BYTES / size)))

    def encode_segment(self, items: list[tuple[bytes, str]]) -> None:
        """Encode the candidates of a segment, given as keys and lines, and write it."""
        texts = [json.loads(line)["text"] for _, line in items]
        chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        tensors: list[dict[str, Tensor]] = []
        while len(tensors) < len(chunks):
            part = chunks[len(tensors) :][: processes.count()]
            tensors += processes.map_shared(self.recipe.flat, part)
            self.count(sum(map(len, part)))
        joined = {name: torch.cat([part[name] for part in tensors]) for name in tensors[0]}
        self.write_segment([key for key, _ in items], [line for _, line in items], joined)

    def write_segment(self, keys: list[bytes], lines: list[str], tensors: dict[str, Tensor]) -> None:
        """Write the two files of a segment, then list it in `unfinished.json`."""
        encoded = [line.encode() + b"\n" for line in lines]
        if "norms" in tensors:
            tensors = tensors | sketch(Vectors([tensors]))
        tensors = tensors | {
            "keys": as_tensor(keys),
            "texts": as_tensor([digest(json.loads(line)["text"].strip()) for line in lines]),
            "offsets": torch.tensor([0, *accumulate(map(len, encoded))]),
        }
        recipe = f"{self.recipe.fingerprint} {self.recipe.precision}"
        name = hashlib.sha256(recipe.encode() + b"".join(keys)).hexdigest()[:16]
        vectors_path, lines_path = paths(self.folder, Segment(name, len(keys), "", ""))
        atomic.replace(vectors_path, lambda beside: save_file(tensors, beside))
        atomic.replace(lines_path, lambda beside: Path(beside).write_bytes(b"".join(encoded)))
        self.segments.append(Segment(name, len(keys), atomic.sha256(vectors_path), atomic.sha256(lines_path)))
        self.write_header(UNFINISHED)

    def finish(self, keep: bool, source: str) -> None:
        """Write what is waiting, then remove stored candidates that were not given, unless `keep`, and stray files."""
        self.write_waiting()
        if keep:
            self.given[: self.complete] = True
        if not self.given.all():
            self.remove_not_given()
        if not self.segments:
            raise InputError(f"there are no candidates to put into {self.folder}")
        self.write_header(HEADER, source)
        (self.folder / UNFINISHED).unlink(missing_ok=True)
        listed = {path for segment in self.segments for path in paths(self.folder, segment)}
        for path in self.folder.iterdir():
            if STRAY.fullmatch(path.name) and path not in listed:
                atomic.remove(path)

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
        tensors = load_segment(self.folder, segment, self.recipe.precision)
        keys = [bytes(key) for key in tensors["keys"][given].numpy()]
        rows = zip(lines_path.read_text("utf-8").split("\n"), given.tolist(), strict=False)  # and an empty last line
        self.write_segment(keys, [line for line, wanted in rows if wanted], Vectors([tensors]).select(given))

    def write_header(self, name: str, source: str = "") -> None:
        """Write `store.json` or `unfinished.json`. `source` is the digest of the file that was stored."""
        write_header(self.folder, name, Header(self.recipe.fingerprint, self.recipe.precision, source, self.segments))
