"""The parts of a candidate store on disk: `store.json`, which lists segments, and the two files of each segment."""

import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from poly_agents.candidates.vectors import STORED_AS
from poly_agents.errors import InputError
from poly_agents.files import atomic

FORMAT = 1  # version of store.json
HEADER = "store.json"
UNFINISHED = "unfinished.json"
SEGMENT_FILE = r"[0-9a-f]{16}\.(safetensors|jsonl)"
AGAIN = "run `parlai poly_index` again: it replaces what is damaged and no more"


class Damaged(InputError):
    """A file of a store is missing, or is not what was written."""


class Segment(NamedTuple):
    """One segment, as `store.json` lists it."""

    name: str
    rows: int
    vectors: str  # sha256 of the .safetensors
    lines: str  # sha256 of the .jsonl


class Header(NamedTuple):
    """The content of `store.json`, besides its format."""

    maker: str  # the fingerprint of the model, so called since the first version
    precision: str  # the type of the vectors
    source: str  # digest of the file whose candidates these are; empty if they do not come from a file
    segments: list[Segment]


class OpenFile(NamedTuple):
    """A file of a store as it was when it was opened."""

    path: Path
    digest: str
    inode: tuple[int, int]
    size: int
    changed: int  # time, in nanoseconds


def read_header(folder: Path, name: str = HEADER) -> Header | None:
    """Return the content of `store.json` or `unfinished.json`, or None if there is no such file.

    Raises:
        Damaged: it is not what was written.
        ValueError: another version of this package wrote it.
    """
    path = folder / name
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else None
    except FileNotFoundError:  # it was removed in between
        return None
    except (ValueError, RecursionError, OSError) as error:
        raise Damaged(f"{path} is damaged ({error}); {AGAIN}") from error
    if not isinstance(content, dict):
        raise Damaged(f"{path} is damaged, it holds no JSON object; {AGAIN}")
    version = content.get("format")
    if type(version) is int and version != FORMAT:
        raise InputError(f"{path} has format {version}, this version of poly_agents reads {FORMAT}; give a new folder")
    try:
        header = Header(*(content[field] for field in Header._fields))._replace(segments=segments_of(content))
        texts = isinstance(header.maker, str) and isinstance(header.source, str)
        if version != FORMAT or not texts or header.precision not in STORED_AS:
            raise ValueError("an entry has another type")
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path} is damaged ({error!r}); {AGAIN}") from error
    return header


def write_header(folder: Path, name: str, header: Header) -> None:
    """Write `store.json` or `unfinished.json`."""
    atomic.write_text(folder / name, json.dumps({"format": FORMAT} | header._asdict(), indent=1) + "\n")


def fingerprint_of(folder: str | Path) -> str | None:
    """Return the fingerprint of the model that made the store in a folder, or None if there is no whole header."""
    with suppress(Damaged):
        header = read_header(Path(folder))
        return header.maker if header else None
    return None


def segments_of(content: dict[str, Any]) -> list[Segment]:
    """Return the segments that a header lists. Raises ValueError or TypeError if one cannot have been written here.

    A name is 16 hexadecimal digits, so it never leads out of the folder.
    """
    segments = [Segment(*entry) for entry in content["segments"]]
    bad = [segment.name for segment in segments if not is_segment(segment)]
    if bad or len({segment.name for segment in segments}) < len(segments):
        raise ValueError(f"it lists {bad[0]!r}, which is no segment" if bad else "it lists a segment twice")
    return segments


def is_segment(segment: Segment) -> bool:
    """Tell whether an entry of a header is what `writer.py` writes."""
    whole = re.fullmatch(r"[0-9a-f]{64}", segment.vectors) and re.fullmatch(r"[0-9a-f]{64}", segment.lines)
    named = re.fullmatch(r"[0-9a-f]{16}", segment.name)
    return bool(whole and named) and type(segment.rows) is int and segment.rows > 0


def paths(folder: Path, segment: Segment) -> tuple[Path, Path]:
    """Return the two files of a segment: its encodings and its candidates."""
    return folder / f"{segment.name}.safetensors", folder / f"{segment.name}.jsonl"


def digests(folder: Path, segments: Sequence[Segment]) -> dict[Path, str]:
    """Return the digest that each file of some segments should have."""
    pairs = ((paths(folder, segment), (segment.vectors, segment.lines)) for segment in segments)
    return {path: digest for each in pairs for path, digest in zip(*each, strict=True)}


def state(path: Path, digest: str) -> OpenFile:
    """Return the state of a file that has a digest."""
    now = path.stat()
    return OpenFile(path, digest, (now.st_dev, now.st_ino), now.st_size, now.st_mtime_ns)


def verify(folder: Path, segments: Sequence[Segment]) -> dict[Path, bool]:
    """Check the files of segments against their digests. Returns True for every file that is what was written."""
    wanted = digests(folder, segments)

    def is_whole(path: Path) -> bool:
        with suppress(OSError):
            return path.is_file() and atomic.sha256(path) == wanted[path]
        return False

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(wanted, threads.map(is_whole, wanted), strict=True))


def load_segment(folder: Path, segment: Segment, precision: str) -> dict[str, Tensor]:
    """Map the tensors of a segment into memory.

    Raises:
        Damaged: that fails, their sizes contradict each other, or a vector is infinite or not a number.
    """
    path, lines = paths(folder, segment)
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        if not agrees(tensors, segment.rows, lines.stat().st_size):
            raise Damaged(f"{path} does not hold the {segment.rows:,} rows that {HEADER} says; {AGAIN}")
        if tensors["vectors"].dtype != getattr(torch, precision):
            raise Damaged(f"{path} does not hold vectors in {precision}, as {HEADER} says; {AGAIN}")
        if not are_finite(tensors):
            raise Damaged(f"{path} holds vectors that are infinite or not numbers; {AGAIN}")
        return tensors
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:  # RuntimeError: torch cannot map the file
        raise Damaged(f"{path} is damaged ({error}); {AGAIN}") from error


def are_finite(tensors: dict[str, Tensor]) -> bool:
    """Tell whether all vectors of a segment are finite. The norm or the scale of a vector is only if the vector is."""
    shown = next(tensors[name] for name in ("norms", "scales", "vectors") if name in tensors)
    return bool(shown.isfinite().all())


def agrees(tensors: dict[str, Tensor], rows: int, size: int) -> bool:
    """Tell whether the tensors of a segment have so many rows, and its lines so many bytes.

    Token states have `lengths`, one a row, and as many vectors as these add up to.
    """
    offsets, lengths = tensors["offsets"], tensors.get("lengths")
    vectors = rows if lengths is None else int(lengths.sum())
    columns = [tensors["keys"], tensors["texts"], offsets[1:], *([] if lengths is None else [lengths])]
    counted = all(len(column) == rows for column in columns) and len(tensors["vectors"]) == vectors
    return counted and offsets[0] == 0 and offsets[-1] == size and bool((offsets.diff() > 0).all())
