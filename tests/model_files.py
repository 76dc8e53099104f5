"""Model files as tests compare them: their scores and their bytes."""

from pathlib import Path

import numpy as np

import poly_agents
from tests.agents import text

CONTEXTS = ["hello how are you\nfine thanks", "what is your name", "my cat"]
RESPONSES = [text(i) for i in range(7)]


def scores(path: str | Path) -> np.ndarray:
    """Score some responses by a model file. Shape [contexts, responses]."""
    ranked = poly_agents.load(str(path), "float32").rank(CONTEXTS, RESPONSES)
    return np.array([[each.score for each in sorted(line)] for line in ranked])


def folder_of(path: str | Path) -> dict[str, bytes]:
    """Read every file of a folder."""
    return {file.name: file.read_bytes() for file in Path(path).iterdir()}
