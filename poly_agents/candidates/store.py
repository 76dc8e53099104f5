"""The candidate store: encoded once, kept on disk, memory-mapped by every process that reads it.

    FOLDER/store.json          the fingerprint of the model, and the segments; renamed into place as a whole
    FOLDER/NAME.safetensors    encodings of one segment, its longest texts first
    FOLDER/NAME.jsonl          the candidates themselves, one JSON object a line: text, and whatever else they have

A segment never changes. `writer.py` makes stores and updates them.
"""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from poly_agents.candidates.vectors import Vectors
from poly_agents.files import atomic

FORMAT = 1
HEADER = "store.json"


class Damaged(ValueError):
    """A store has files that are not what was written."""


class Segment(NamedTuple):
    """One segment, as `store.json` lists it."""

    name: str
    rows: int
    vectors: str  # sha256 of the .safetensors
    lines: str  # sha256 of the .jsonl


class Store:
    """A finished store, open for reading. Rows are counted through its segments, in their order.

    Attributes:
        vectors: the encodings of all candidates.
        precision: the type they are stored in.
        texts: the texts of all candidates, read from disk one by one.
    """

    def __init__(self, folder: str | Path, fingerprint: str | None = None):
        """Open and verify a store.

        Args:
            folder: of the store.
            fingerprint: of the model that must have made it; None: any.

        Raises:
            Damaged: a file is not what was written.
            ValueError: there is no store, or another model made it.
        """
        self.folder = Path(folder)
        header = read_header(self.folder)
        if header is None:
            raise ValueError(f"{folder} holds no candidate store; make one with `parlai poly_index`")
        if fingerprint and header["maker"] != fingerprint:
            raise ValueError(f"{folder} was made by another model, or by this one before it changed; make it again")
        self.precision: str = header["precision"]
        self.segments = [Segment(*entry) for entry in header["segments"]]
        bad = [path for path, good in verify(self.folder, self.segments).items() if not good]
        if bad:
            raise Damaged(
                f"{bad[0]} is damaged; run `parlai poly_index` again: it replaces what is damaged and no more"
            )
        self.starts = [0, *accumulate(segment.rows for segment in self.segments)]
        tensors = [load_segment(self.folder / f"{segment.name}.safetensors") for segment in self.segments]
        self.vectors = Vectors(tensors)
        self._keys = [part["texts"] for part in tensors]
        self._offsets = [part["offsets"] for part in tensors]
        self._files = [open(self.folder / f"{segment.name}.jsonl", "rb") for segment in self.segments]  # noqa: SIM115
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return the candidate of a row, as it was given."""
        segment = bisect_right(self.starts, row) - 1
        begin, end = self._offsets[segment][row - self.starts[segment] :][:2].tolist()
        return json.loads(os.pread(self._files[segment].fileno(), end - begin, begin))

    @property
    def size(self) -> int:
        """Return the bytes of the store on disk."""
        return sum(path.stat().st_size for segment in self.segments for path in paths(self.folder, segment))

    @property
    def texts(self) -> "Texts":
        return Texts(self)

    def rows_of(self, texts: Sequence[str]) -> list[int]:
        """Return the row of each text, or -1 if the store does not have it."""
        if self._sorted is None:
            keys = np.concatenate([part.numpy().view("S16").ravel() for part in self._keys])
            order = keys.argsort(kind="stable")
            self._sorted = keys[order], order
        keys, order = self._sorted
        wanted = np.array([digest(text.strip()) for text in texts], "S16")
        place = keys.searchsorted(wanted).clip(max=len(keys) - 1)
        return np.where(keys[place] == wanted, order[place], -1).tolist()


class Texts(Sequence):
    """The texts of a store, read from disk one by one."""

    def __init__(self, store: Store):
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, row: int) -> str:
        return self.store[row]["text"]


def read_header(folder: Path) -> dict[str, Any] | None:
    """Return the content of `store.json`, or None if there is none that can be read."""
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return header if isinstance(header, dict) and header.get("format") == FORMAT else None


def fingerprint_of(folder: str | Path) -> str | None:
    """Return the fingerprint of the model that made a store, or None if there is no store."""
    return (read_header(Path(folder)) or {}).get("maker")


def paths(folder: Path, segment: Segment) -> tuple[Path, Path]:
    """Return the two files of a segment: encodings, candidates."""
    return folder / f"{segment.name}.safetensors", folder / f"{segment.name}.jsonl"


def verify(folder: Path, segments: Sequence[Segment]) -> dict[Path, bool]:
    """Check every file of some segments against its digest."""
    wanted = {path: want for s in segments for path, want in zip(paths(folder, s), (s.vectors, s.lines), strict=True)}

    def good(path: Path) -> bool:
        return path.exists() and atomic.sha256(path) == wanted[path]

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(wanted, threads.map(good, wanted), strict=True))


def load_segment(path: Path) -> dict[str, Tensor]:
    """Map the tensors of a segment into memory. Raises Damaged if that cannot be done."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{path} is damaged ({error})") from error


def digest(line: str) -> bytes:
    """Return 16 bytes that identify a line."""
    return hashlib.blake2b(line.encode(), digest_size=16).digest()


def bytes_of(keys: Sequence[bytes]) -> Tensor:
    """Return digests as a tensor, [N, 16]."""
    return torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, 16)
