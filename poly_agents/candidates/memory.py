"""What encodings of candidates depend on, and those that an evaluation keeps in memory."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from poly_agents.encoders.backbone import chain
from poly_agents.scoring.ranker import Ranker, each, tensors
from poly_agents.text.tokenizer import Tokenizer

STARTING = {"backbone", "dropout", "freeze_embeddings", "precision", "share_encoders"}  # options the weights make good
MEMORY = 2**29  # bytes of encodings held from one batch to the next


def fingerprint(ranker: Ranker, tokenizer: Tokenizer, truncate: int) -> str:
    """sha256 over all that the encoding of a text depends on: weights and their precision, options, tokeniser."""
    options = {name: value for name, value in vars(ranker.options).items() if name not in STARTING}
    digest = hashlib.sha256(f"{type(ranker).__name__} {sorted(options.items())} {truncate}".encode())
    digest.update(tokenizer.identity.encode())
    for name, tensor in sorted(ranker.tensors().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
