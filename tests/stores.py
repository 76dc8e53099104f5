"""Candidates that are easy to check, and what encodes them."""

import torch

from poly_agents.candidates.store import Store
from poly_agents.encoders.states import TokenStates


class Encoder:
    """Encode a text as a vector that depends on it, and remember which texts were encoded."""

    def __init__(self, ragged: bool = False):
        self.asked: list[str] = []
        self.ragged = ragged

    def __call__(self, texts: list[str]):
        self.asked += texts
        rows = [torch.tensor([[float(len(t)), float(sum(map(ord, t)) % 97), 1.0]]) for t in texts]
        if not self.ragged:
            return torch.cat(rows)
        lengths = torch.tensor([len(text) for text in texts])
        mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)
        return TokenStates(torch.stack([row.expand(mask.shape[1], -1) for row in rows]), mask)


def lines(*texts: str) -> list[dict]:
    return [{"text": text} for text in texts]


def words(start: int, stop: int) -> list[str]:
    return [f"text {'x' * (number % 7)} {number}" for number in range(start, stop)]


def contents(store: Store) -> dict[str, list]:
    vectors = torch.cat([part for _, part in store.vectors.slices(4)])
    return {text: vector.tolist() for text, vector in zip(store.texts, vectors, strict=True)}
