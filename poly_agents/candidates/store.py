"""The candidate store: encoded once, kept on disk, memory-mapped by every process that reads it.

    FOLDER/store.json          what made it, and its segments; renamed into place: it is the old one or the new one
    FOLDER/NAME.safetensors    encodings of one segment, its longest texts first
    FOLDER/NAME.jsonl          the candidates themselves, one JSON object a line: text, and whatever else they have

A segment never changes. To add candidates is to write more segments; to remove some is to write the segments they were
in again, without encoding anything. A build that was killed goes on where it was: what `store.json` lists is done.
"""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from poly_agents import processes
from poly_agents.candidates.sketch import sketch
from poly_agents.candidates.vectors import PRECISIONS, Vectors, flatten
from poly_agents.files import atomic

FORMAT = 1
ROWS = 32_768  # candidates of a segment, at most
BYTES = 2**26  # of its encodings, about
CHUNK = 2_048  # candidates encoded at a time
HEADER = "store.json"


class Damaged(ValueError):
    """A store whose files are not what was written."""


class Segment(NamedTuple):
    """What `store.json` says of one segment."""

    name: str
    rows: int
    vectors: str  # sha256 of the .safetensors
    lines: str  # sha256 of the .jsonl


class Store:
    """A finished store, open for reading. Rows are counted through its segments, in their order."""

    def __init__(self, folder: str | Path, maker: str | None = None):
        """Open and verify it; with `maker`, only if that made it. Raises `Damaged`, or ValueError where it is stale."""
        self.folder = Path(folder)
        header = read_header(self.folder)
        if header is None:
            raise ValueError(f"{folder} holds no candidate store; make one with `parlai poly_index`")
        if maker and header["maker"] != maker:
            raise ValueError(f"{folder} was made by another model, or by this one before it changed; make it again")
        self.precision: str = header["precision"]
        self.segments = [Segment(*entry) for entry in header["segments"]]
        bad = [path for path, good in verify(self.folder, self.segments).items() if not good]
        if bad:
            raise Damaged(f"{bad[0]} is damaged; run `parlai poly_index` again: it makes anew what is damaged alone")
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
        """The candidate of a row, as it was given."""
        segment = bisect_right(self.starts, row) - 1
        begin, end = self._offsets[segment][row - self.starts[segment] :][:2].tolist()
        return json.loads(os.pread(self._files[segment].fileno(), end - begin, begin))

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for segment in self.segments for path in paths(self.folder, segment))

    @property
    def texts(self) -> "Texts":
        return Texts(self)

    def rows_of(self, texts: Sequence[str]) -> list[int]:
        """The row of each text, -1 where there is none."""
        if self._sorted is None:
            keys = np.concatenate([part.numpy().view("S16").ravel() for part in self._keys])
            order = keys.argsort(kind="stable")
            self._sorted = keys[order], order
        keys, order = self._sorted
        wanted = np.array([digest(text.strip()) for text in texts], "S16")
        place = keys.searchsorted(wanted)
        found = keys[place.clip(max=len(keys) - 1)] == wanted
        return np.where(found, order[place.clip(max=len(keys) - 1)], -1).tolist()


class Texts(Sequence):
    """The texts of a store, read from disk one by one."""

    def __init__(self, store: Store):
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, row: int) -> str:
        return self.store[row]["text"]


# --- making one -----------------------------------------------------------------------------------------------------


def build(
    folder: str | Path,
    candidates: Iterable[dict[str, Any]],
    encode: Callable[[list[str]], Any],
    maker: str,
    precision: str = "float32",
    *,
    keep: bool = False,
    source: str = "",
    total: int | None = None,
    progress: bool = True,
) -> Store:
    """Make the store hold `candidates`, each with a `text`, and no others; with `keep`, those it has as well.

    `encode` gives what a ranker keeps of some texts, `maker` is the fingerprint of all that this depends on. What is
    there already is not encoded again, unless it was made by something else, in another precision, or is damaged.
    Memory is bounded: some segments, and 40 bytes a candidate to know which are there. Of several processes the first
    reads and writes, all of them encode, and the store is the same.
    """
    if precision not in (*PRECISIONS[1:], "float16"):
        raise ValueError(f"a store's precision is one of {', '.join(PRECISIONS[1:])}; got {precision!r}")
    folder = Path(folder)
    if folder.is_dir() and read_header(folder) is None and any(p for p in folder.iterdir() if p.name != "lock"):
        raise ValueError(f"{folder} is a folder of something else; give a new one")
    folder.mkdir(parents=True, exist_ok=True)
    if processes.rank():
        processes.share_work(lambda texts: flatten(encode(texts), precision))
        return Store(folder, maker)
    bar = tqdm(total=total, unit="cand", desc="encoding", disable=not progress)
    with bar, FileLock(folder / "lock"), processes.workers():
        writer = Writer(folder, maker, precision, encode, bar.update)
        for candidate in candidates:
            writer.add(candidate)
        writer.finish(keep, source)
    return Store(folder, maker)


def made_by(folder: str | Path) -> str | None:
    """What the store in a folder was made by; None where there is none."""
    return (read_header(Path(folder)) or {}).get("maker")


def discard(folder: str | Path) -> None:
    """Have the next build make everything anew."""
    header = read_header(Path(folder))
    if header:
        atomic.write_text(Path(folder, HEADER), json.dumps(header | {"maker": "", "segments": []}))


def unchanged(folder: str | Path, maker: str, precision: str, source: str) -> Store | None:
    """The store in a folder, if it is whole, of this model and of nothing but this source."""
    header = read_header(Path(folder)) or {}
    if [header.get(name) for name in ("maker", "precision", "source")] != [maker, precision, source]:
        return None
    with suppress(Damaged):
        return Store(folder, maker)
    return None


class Writer:
    """Puts candidates into a folder, one segment after another."""

    def __init__(
        self,
        folder: Path,
        maker: str,
        precision: str,
        encode: Callable[[list[str]], Any],
        done: Callable[[int], Any],
    ):
        self.folder, self.maker, self.precision, self.encode, self.done = folder, maker, precision, encode, done
        header = read_header(folder) or {}
        same = header.get("maker") == maker and header.get("precision") == precision
        listed = [Segment(*entry) for entry in header["segments"]] if same else []
        good = verify(folder, listed)
        self.segments = [s for s in listed if all(good[path] for path in paths(folder, s))]
        self.old = len(self.segments)
        held = [load_segment(paths(folder, segment)[0])["keys"] for segment in self.segments]
        keys = np.concatenate([np.empty(0, "S16"), *(part.numpy().view("S16").ravel() for part in held)])
        self.order = keys.argsort(kind="stable")
        self.keys = keys[self.order]
        self.met = np.zeros(len(keys), bool)
        self.waiting: dict[bytes, str] = {}  # key -> line
        self.added: set[bytes] = set()
        self.rows: int | None = None  # of a segment, once it is known how large an encoding is

    def add(self, candidate: dict[str, Any]) -> None:
        line = json.dumps(candidate, ensure_ascii=False)
        self.waiting[digest(line)] = line
        if len(self.waiting) >= ROWS:
            self.write()

    def write(self) -> None:
        """Encode what is waiting and not there yet."""
        keys = np.array(list(self.waiting), "S16")
        place = self.keys.searchsorted(keys).clip(max=max(0, len(self.keys) - 1))
        there = self.keys[place] == keys if len(self.keys) else np.zeros(len(keys), bool)
        self.met[self.order[place[there]]] = True
        new = [item for item, known in zip(self.waiting.items(), there, strict=True) if not known]
        new = [(key, line) for key, line in new if key not in self.added]
        self.added.update(key for key, _ in new)
        self.done(len(self.waiting) - len(new))
        self.waiting = {}
        new.sort(key=lambda item: -len(item[1]))
        while new:
            if self.rows is None:
                tried = self.encoded([json.loads(line)["text"] for _, line in new[:16]])
                size = sum(part.nbytes for part in tried.values()) / len(new[:16])
                self.rows = max(1, min(ROWS, int(BYTES / size)))
            self.segment(new[: self.rows])
            new = new[self.rows :]

    def encoded(self, texts: list[str]) -> dict[str, Tensor]:
        return flatten(self.encode(texts), self.precision)

    def segment(self, items: list[tuple[bytes, str]]) -> None:
        """Encode and write one segment, then list it."""
        texts = [json.loads(line)["text"] for _, line in items]
        chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        tensors: list[dict[str, Tensor]] = []
        while len(tensors) < len(chunks):
            part = chunks[len(tensors) :][: processes.count()]
            tensors += processes.map_shared(self.encoded, part)
            self.done(sum(map(len, part)))
        joined = {name: torch.cat([part[name] for part in tensors]) for name in tensors[0]}
        self.put([key for key, _ in items], [line for _, line in items], joined)

    def put(self, keys: list[bytes], lines: list[str], tensors: dict[str, Tensor]) -> None:
        encoded = [line.encode() + b"\n" for line in lines]
        if "norms" in tensors:
            tensors = tensors | sketch(Vectors([tensors]))
        tensors = tensors | {
            "keys": bytes_of(keys),
            "texts": bytes_of([digest(json.loads(line)["text"].strip()) for line in lines]),
            "offsets": torch.tensor([0, *accumulate(map(len, encoded))]),
        }
        name = hashlib.sha256(self.maker.encode() + b"".join(keys)).hexdigest()[:16]
        entry = Segment(name, len(keys), "", "")
        atomic.replace(paths(self.folder, entry)[0], lambda beside: save_file(tensors, beside))
        atomic.replace(paths(self.folder, entry)[1], lambda beside: Path(beside).write_bytes(b"".join(encoded)))
        self.segments.append(Segment(name, len(keys), *map(atomic.sha256, paths(self.folder, entry))))
        self.record("")

    def finish(self, keep: bool, source: str) -> None:
        self.write()
        if not keep and not self.met.all():
            self.drop()
        if not self.segments:
            raise ValueError(f"there are no candidates to put into {self.folder}")
        self.record(source)
        listed = {path for segment in self.segments for path in paths(self.folder, segment)}
        for path in self.folder.iterdir():
            if path.suffix in (".safetensors", ".jsonl", ".tmp") and path not in listed:
                with suppress(FileNotFoundError):
                    path.unlink()

    def drop(self) -> None:
        """Write the segments again that hold what is not wanted, without it."""
        old, start = self.segments[: self.old], 0
        self.segments = self.segments[self.old :]
        kept = []
        for segment in old:
            wanted = torch.from_numpy(self.met[start : start + segment.rows])
            start += segment.rows
            if wanted.all():
                kept.append(segment)
            elif wanted.any():
                vectors, lines = paths(self.folder, segment)
                tensors = load_segment(vectors)
                keys = [bytes(key) for key in tensors["keys"][wanted].numpy()]
                text = [line for line, good in zip(lines.read_text("utf-8").split("\n"), wanted, strict=False) if good]
                self.put(keys, text, Vectors([tensors]).select(wanted))
        self.segments = kept + self.segments

    def record(self, source: str) -> None:
        """`source` says what the store is the whole of; empty while it is being made."""
        header = {"format": FORMAT, "maker": self.maker, "precision": self.precision, "source": source}
        atomic.write_text(self.folder / HEADER, json.dumps(header | {"segments": self.segments}, indent=1) + "\n")


def read_header(folder: Path) -> dict[str, Any] | None:
    """What `store.json` says; None where there is none, or none that can be read."""
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return header if isinstance(header, dict) and header.get("format") == FORMAT else None


def paths(folder: Path, segment: Segment) -> tuple[Path, Path]:
    return folder / f"{segment.name}.safetensors", folder / f"{segment.name}.jsonl"


def verify(folder: Path, segments: Sequence[Segment]) -> dict[Path, bool]:
    """Of every file of the store, whether it is what was written."""
    wanted = {path: want for s in segments for path, want in zip(paths(folder, s), (s.vectors, s.lines), strict=True)}

    def good(path: Path) -> bool:
        return path.exists() and atomic.sha256(path) == wanted[path]

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(wanted, threads.map(good, wanted), strict=True))


def load_segment(path: Path) -> dict[str, Tensor]:
    """The tensors of a segment, memory-mapped."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{path} is damaged ({error})") from error


def digest(line: str) -> bytes:
    """16 bytes that tell a line from any other."""
    return hashlib.blake2b(line.encode(), digest_size=16).digest()


def bytes_of(keys: Sequence[bytes]) -> Tensor:
    return torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, 16)


# --- candidates in files --------------------------------------------------------------------------------------------


def read_candidates(path: str | Path) -> Iterator[dict[str, Any]]:
    """One a line: plain text, or with a name that ends in .jsonl an object with `text` and whatever else."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            line = line.strip()
            if not line:
                continue
            if Path(path).suffix != ".jsonl":
                yield {"text": line}
                continue
            try:
                candidate = json.loads(line)
                text = candidate["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: needs a JSON object with a text, got {line[:80]!r}"
                ) from error
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{path}, line {number}: the text must be a string that is not empty, got {text!r}")
            yield candidate


def count_lines(path: str | Path) -> int:
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
