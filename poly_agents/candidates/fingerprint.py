"""Fingerprint everything that the encoding of a candidate depends on, so that no stale encoding is ever used."""

import hashlib

import torch

from poly_agents.scoring.ranker import Ranker
from poly_agents.text.tokenizer import Tokenizer

# Options that change nothing once the weights are there: they only say how training starts, or which copy is run.
STARTING = {"backbone", "dropout", "freeze_embeddings", "precision", "share_encoders"}


def fingerprint(ranker: Ranker, tokenizer: Tokenizer, truncate: int) -> str:
    """Return a sha256 over weights and their precision, options, tokenizer, and the length candidates are cut to."""
    options = {name: value for name, value in vars(ranker.options).items() if name not in STARTING}
    digest = hashlib.sha256(f"{type(ranker).__name__} {sorted(options.items())} {truncate}".encode())
    digest.update(tokenizer.identity.encode())
    for name, tensor in sorted(ranker.tensors().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
