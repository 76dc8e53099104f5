"""Fingerprint everything that the encoding of a candidate depends on, so that stale encodings are never used."""

import hashlib

import torch

from poly_agents.scoring.ranker import Ranker
from poly_agents.text.tokenizer import Tokenizer

# Options that change no encoding once the weights are loaded. They say how training starts, or which type the weights
# are held in, and the type of each weight is part of the fingerprint.
STARTING = {"backbone", "dropout", "freeze_embeddings", "precision", "share_encoders"}

# Options that earlier versions did not have, with the value at which everything is as it was.
LATER = {"start": "paper", "late_direction": "context"}


def fingerprint(ranker: Ranker, tokenizer: Tokenizer, truncate: int) -> str:
    """Return a SHA-256 digest of weights, options, tokenizer and length.

    Args:
        ranker: the ranker that encodes.
        tokenizer: the tokenizer of the candidates.
        truncate: tokens of a candidate that are kept.
    """
    options = {
        name: value for name, value in vars(ranker.options).items() if name not in STARTING and LATER.get(name) != value
    }
    digest = hashlib.sha256(f"{type(ranker).__name__} {sorted(options.items())} {truncate}".encode())
    digest.update(tokenizer.identity.encode())
    for name, tensor in sorted(ranker.tensors().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
