"""Read candidate stores: candidates that were encoded once, kept on disk, and memory-mapped by every reader.

    FOLDER/store.json          the fingerprint of the model and the list of segments; replaced as a whole
    FOLDER/unfinished.json     the same for a build that has not ended; no reader looks into it
    FOLDER/NAME.safetensors    encodings of one segment, longest texts first
    FOLDER/NAME.jsonl          the candidates of the segment, one JSON object a line with a `text` and any other fields

A segment never changes. `writer.py` makes stores and updates them.
"""

import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poly_agents.candidates.manifest import (
    AGAIN,
    UNFINISHED,
    Damaged,
    Header,
    digests,
    load_segment,
    paths,
    read_header,
    state,
    verify,
)
from poly_agents.candidates.vectors import Vectors
from poly_agents.errors import InputError
from poly_agents.files import atomic
from poly_agents.files.digests import text_digest


class Store:
    """A store that is open for reading. Its rows are those of all segments, one segment after another.

    Attributes:
        vectors: the encodings of all candidates.
        precision: the type they are stored in, float32 for example.
        fingerprint: of the model that encoded them.
        segments: the segments, in order.

    >>> store = Store("models/bi/model.candidates.store")  # doctest: +SKIP
    >>> len(store), store[0]["text"]  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path, fingerprint: str | None = None):
        """Open a store and check all its files against their digests.

        Args:
            folder: the folder of the store.
            fingerprint: the fingerprint of the model that must have made the store. None: any model.

        Raises:
            Damaged: a file is missing, or is not what was written.
            ValueError: there is no store, or another model made it.
        """
        self.folder = Path(folder)
        header = self._read_header(fingerprint)
        while True:
            try:
                self._open(header)
                return
            except Damaged:
                newer = self._read_header(fingerprint)
                if newer == header:
                    raise
                header = newer  # another process has just replaced the segments of the first one

    def _read_header(self, fingerprint: str | None) -> Header:
        header = read_header(self.folder)
        if header is None or not header.segments:
            begun = (self.folder / UNFINISHED).exists()
            state = "is not finished; finish" if begun else "holds no candidate store; make"
            raise InputError(f"{self.folder} {state} one with `parlai poly_index`")
        if fingerprint and header.maker != fingerprint:
            raise InputError(
                f"{self.folder} was made by another model, or by this one before it changed; make it again"
            )
        return header

    def _open(self, header: Header) -> None:
        self.fingerprint, self.precision, self.segments = header.maker, header.precision, header.segments
        bad = [path for path, good in verify(self.folder, self.segments).items() if not good]
        if bad:
            raise Damaged(f"{bad[0]} is damaged; {AGAIN}")
        self.starts = [0, *accumulate(segment.rows for segment in self.segments)]
        tensors = [load_segment(self.folder, segment, self.precision) for segment in self.segments]
        self.vectors = Vectors(tensors)
        self._keys = [part["texts"] for part in tensors]
        self._offsets = [part["offsets"] for part in tensors]
        try:
            self._lines = [lines.open("rb") for _, lines in (paths(self.folder, each) for each in self.segments)]
            self._files = [state(path, digest) for path, digest in digests(self.folder, self.segments).items()]
        except OSError as error:
            raise Damaged(f"{self.folder} cannot be read ({error}); {AGAIN}") from error

    def check(self) -> None:
        """Check that nobody has changed a file of this store in its place since it was opened. Every search does it.

        `writer.py` never does: it makes new files, and an open store keeps the old ones. But reading a mapped file that
        was cut off would kill the process.

        Raises:
            Damaged: a file was changed.
        """
        for number, file in enumerate(self._files):
            with suppress(OSError):  # a file that was removed or replaced by its name stays readable here
                now = state(file.path, file.digest)
                if now == file or now.inode != file.inode:
                    continue
                if now.size != file.size or atomic.sha256(file.path) != file.digest:
                    raise Damaged(f"{file.path} was changed while the store was open; {AGAIN}")
                self._files[number] = now

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return the candidate of a row, as it was given."""
        segment = bisect_right(self.starts, row) - 1
        begin, end = self._offsets[segment][row - self.starts[segment] :][:2].tolist()
        line = os.pread(self._lines[segment].fileno(), end - begin, begin)
        try:
            return json.loads(line)
        except ValueError as error:
            raise Damaged(f"{self._lines[segment].name} was changed while the store was open; {AGAIN}") from error

    @property
    def size(self) -> int:
        """Return the bytes of the store on disk."""
        return sum(file.size for file in self._files)

    @property
    def texts(self) -> "Texts":
        """Return the texts of all candidates. Each is read from disk when it is asked for."""
        return Texts(self)

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys of all texts in order, and the row of each."""
        keys = np.concatenate([as_keys(part) for part in self._keys])
        order = keys.argsort(kind="stable")
        return keys[order], order

    @cached_property
    def repeats(self) -> np.ndarray:
        """Return the rows whose texts earlier rows have, in no order."""
        keys, order = self._sorted
        return order[1:][keys[1:] == keys[:-1]]

    def rows_of(self, texts: Sequence[str]) -> list[int]:
        """Return the row of each text, the first of those that have it, or -1 if the store does not have it."""
        keys, order = self._sorted
        places = find_sorted(keys, np.array([digest(text.strip()) for text in texts], keys.dtype))
        return np.where(places < 0, -1, order[places]).tolist()


class Texts(Sequence[str]):
    """The texts of a store, as a sequence. Each is read when it is asked for."""

    def __init__(self, store: Sequence[dict[str, Any]]):
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, row: int) -> str:
        return self.store[row]["text"]


# --- keys of candidates -----------------------------------------------------------------------------------------------


def digest(line: str) -> bytes:
    """Return the 16 bytes that identify a candidate, by its line of JSON or by its text."""
    return text_digest(line, 16)


def as_tensor(keys: Sequence[bytes]) -> Tensor:
    """Return digests as a tensor of bytes, [N, 16], which is how a segment holds them."""
    return torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, 16)


def as_keys(digests: Tensor) -> np.ndarray:
    """Return a tensor of digests [N, 16] as an array of N keys that can be sorted."""
    return digests.numpy().view("S16").ravel()


def find_sorted(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return where each wanted key is in sorted keys, or -1 if it is not there.

    >>> find_sorted(np.array([2, 5, 7]), np.array([5, 6]))
    array([ 1, -1])
    """
    if not len(keys):
        return np.full(len(wanted), -1)
    places = keys.searchsorted(wanted).clip(max=len(keys) - 1)
    return np.where(keys[places] == wanted, places, -1)
