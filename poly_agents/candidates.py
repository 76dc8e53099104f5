"""Encoded candidates on disk and in memory. A file knows what it came from: a stale one is made again, never used."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from poly_agents.backbone import chain
from poly_agents.files import replace
from poly_agents.ranker import Ranker, TokenStates, each, tensors

MEMORY = 2**29  # bytes of encodings held from one batch to the next


def fingerprint(ranker: Ranker, ids: Sequence[Sequence[int]]) -> str:
    """sha256 over all that an encoding depends on: the weights, the options, the special tokens and the ids."""
    digest = hashlib.sha256(f"{type(ranker).__name__} {ranker.options} {ranker.frame}".encode())
    for name, tensor in sorted(ranker.tensors().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    for text in ids:
        digest.update(f"{list(text)}".encode())
    return digest.hexdigest()


def load(path: str | Path, key: str) -> Any | None:
    """What was encoded under `key`, or None: nothing there, stale, or damaged."""
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("fingerprint") != key:
                return None
            parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None
    if parts.keys() == {"vectors"}:
        return parts["vectors"]
    return TokenStates(**parts) if parts.keys() == set(TokenStates._fields) else None


def save(path: str | Path, key: str, kept: Any) -> None:
    """Write encodings beside `path` and rename them into place."""
    parts = {"vectors": kept} if isinstance(kept, Tensor) else kept._asdict()
    parts = {name: part.cpu().contiguous() for name, part in parts.items()}
    replace(path, lambda beside: save_file(parts, beside, {"fingerprint": key}))


class Memory:
    """Encodings of candidates by their ids, up to a number of bytes: then the oldest are forgotten."""

    def __init__(self, limit: int = MEMORY):
        self.limit = limit
        self.held = 0  # bytes
        self.rows: dict[tuple[int, ...], Any] = {}  # [1, ...] each, the oldest first

    def encode(self, ranker: Ranker, ids: Sequence[Sequence[int]]) -> Any:
        """What `ranker.encode_texts` gives; only candidates that are not held are encoded."""
        keys = [tuple(text) for text in ids]
        new = list(dict.fromkeys(key for key in keys if key not in self.rows))
        if new:
            kept = ranker.encode_texts(new)
            for number, key in enumerate(new):
                self.rows[key] = each(lambda part, row=number: part[row : row + 1].clone(), kept)
                self.held += size(self.rows[key])
        found = chain([self.rows[key] for key in keys])
        while self.held > self.limit:
            self.held -= size(self.rows.pop(next(iter(self.rows))))
        return found


def size(kept: Any) -> int:
    """Bytes of what was kept."""
    return sum(part.nbytes for part in tensors(kept))
