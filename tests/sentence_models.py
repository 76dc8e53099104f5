"""Tiny checkpoints of sentence-transformers, and the scores of ours on them."""

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from poly_agents.models.textranker import TextRanker

CONTEXTS = ["hello how are you", "my cat"]
CANDIDATES = ["fine thanks", "what is your name", "blue"]
PROMPTS = {"query": "name is ", "document": "dog: "}
PLAIN = {"precision": "float32"}


def scores(model: TextRanker) -> torch.Tensor:
    """Score all candidates for all contexts, [2, 3]."""
    return model.ranker.score_ids(model.context_ids(CONTEXTS), model.encode(CANDIDATES))


def write(folder: Path, encoder: str, *modules, pooling="mean", **options) -> tuple[SentenceTransformer, str]:
    """Save a bi-encoder. Returns the model and its folder."""
    torch.manual_seed(5)
    parts = [Transformer(encoder), Pooling(26, pooling), *modules]
    model = SentenceTransformer(modules=parts, device="cpu", **options)
    model.save(str(folder))
    return model, str(folder)
