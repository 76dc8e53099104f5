"""Read candidate stores: candidates that were encoded once, kept on disk, and memory-mapped by every reader.

    FOLDER/store.json          the fingerprint of the model and the list of segments; replaced as a whole
    FOLDER/NAME.safetensors    encodings of one segment, longest texts first
    FOLDER/NAME.jsonl          the candidates of the segment, one JSON object a line with a `text` and any other fields

A segment never changes. `writer.py` makes stores and updates them.
"""

import json
import os
import re
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
from poly_agents.errors import InputError
from poly_agents.files import atomic
from poly_agents.files.digests import text_digest

FORMAT = 1  # version of store.json
HEADER = "store.json"


class Damaged(InputError):
    """A file of a store is missing, or is not what was written."""


class Segment(NamedTuple):
    """One segment, as `store.json` lists it."""

    name: str
    rows: int
    vectors: str  # sha256 of the .safetensors
    lines: str  # sha256 of the .jsonl


class Store:
    """A store that is open for reading. Its rows are those of all segments, one segment after another.

    Attributes:
        vectors: the encodings of all candidates.
        precision: the type they are stored in, float32 for example.
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
        header = read_header(self.folder)
        if header is None:
            raise InputError(f"{folder} holds no candidate store; make one with `parlai poly_index`")
        if fingerprint and header["maker"] != fingerprint:
            raise InputError(f"{folder} was made by another model, or by this one before it changed; make it again")
        self.precision: str = header["precision"]
        self.segments = segments_of(header, self.folder)
        bad = [path for path, good in verify(self.folder, self.segments).items() if not good]
        if bad:
            raise Damaged(
                f"{bad[0]} is damaged; run `parlai poly_index` again: it replaces what is damaged and no more"
            )
        self.starts = [0, *accumulate(segment.rows for segment in self.segments)]
        tensors = [load_segment(self.folder, segment) for segment in self.segments]
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
        """Return the texts of all candidates. Each is read from disk when it is asked for."""
        return Texts(self)

    def rows_of(self, texts: Sequence[str]) -> list[int]:
        """Return the row of each text, or -1 if the store does not have it."""
        if self._sorted is None:
            keys = np.concatenate([as_keys(part) for part in self._keys])
            order = keys.argsort(kind="stable")
            self._sorted = keys[order], order
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


def read_header(folder: Path) -> dict[str, Any] | None:
    """Return the content of `store.json`, or None if there is no such file of this version."""
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return header if isinstance(header, dict) and header.get("format") == FORMAT else None


def fingerprint_of(folder: str | Path) -> str | None:
    """Return the fingerprint of the model that made the store in a folder, or None if there is no store."""
    return (read_header(Path(folder)) or {}).get("maker")


def paths(folder: Path, segment: Segment) -> tuple[Path, Path]:
    """Return the two files of a segment: its encodings and its candidates."""
    return folder / f"{segment.name}.safetensors", folder / f"{segment.name}.jsonl"


def verify(folder: Path, segments: Sequence[Segment]) -> dict[Path, bool]:
    """Check the files of segments against their digests. Returns True for every file that is what was written."""
    wanted = {}
    for segment in segments:
        vectors, lines = paths(folder, segment)
        wanted |= {vectors: segment.vectors, lines: segment.lines}

    def is_whole(path: Path) -> bool:
        return path.exists() and atomic.sha256(path) == wanted[path]

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(wanted, threads.map(is_whole, wanted), strict=True))


def segments_of(header: dict[str, Any], folder: Path) -> list[Segment]:
    """Return the segments that a header lists. Raises Damaged if one of them cannot have been written here.

    A name is 16 hexadecimal digits, so it never leads out of the folder.
    """
    try:
        segments = [Segment(*entry) for entry in header["segments"]]
        bad = [s for s in segments if not is_segment(s)]
    except (KeyError, TypeError) as error:
        raise Damaged(f"{folder / HEADER} is damaged ({error!r}); run `parlai poly_index` again") from error
    if bad:
        raise Damaged(f"{folder / HEADER} lists {bad[0].name!r}, which is no segment; run `parlai poly_index` again")
    return segments


def is_segment(segment: Segment) -> bool:
    """Tell whether an entry of a header is what `writer.py` writes."""
    digests = re.fullmatch(r"[0-9a-f]{64}", segment.vectors) and re.fullmatch(r"[0-9a-f]{64}", segment.lines)
    named = re.fullmatch(r"[0-9a-f]{16}", segment.name)
    return bool(digests and named) and type(segment.rows) is int and segment.rows > 0


def load_segment(folder: Path, segment: Segment) -> dict[str, Tensor]:
    """Map the tensors of a segment into memory. Raises Damaged if that fails, or if its sizes contradict each other."""
    path, lines = paths(folder, segment)
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not agrees(tensors, segment.rows, lines.stat().st_size):
            raise Damaged(f"{path} does not hold the {segment.rows:,} rows that {folder / HEADER} says")
        return tensors
    except (SafetensorError, OSError, KeyError) as error:
        raise Damaged(f"{path} is damaged ({error})") from error


def agrees(tensors: dict[str, Tensor], rows: int, size: int) -> bool:
    """Tell whether the tensors of a segment have so many rows, and its lines so many bytes.

    Token states have `lengths`, one a row, and as many vectors as these add up to.
    """
    offsets, lengths = tensors["offsets"], tensors.get("lengths")
    vectors = rows if lengths is None else int(lengths.sum())
    columns = [tensors["keys"], tensors["texts"], offsets[1:], *([] if lengths is None else [lengths])]
    counted = all(len(column) == rows for column in columns) and len(tensors["vectors"]) == vectors
    return counted and offsets[0] == 0 and offsets[-1] == size and bool((offsets.diff() > 0).all())


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
