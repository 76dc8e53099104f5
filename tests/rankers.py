"""Find every ranker of the package, and build it over a tiny encoder."""

import pytest
import torch

from poly_agents import rankers
from poly_agents.models import building
from poly_agents.scoring.ranker import Ranker
from poly_agents.text.tokenizer import Tokenizer


def all_rankers() -> dict[str, type[Ranker]]:
    """Return name -> class of every ranker. A new file in `poly_agents/rankers` is found by itself."""
    return {name: rankers.ranker_class(name) for name in rankers.names()}


VARIANTS = {
    "bi": [
        {},
        {"bi_cosine": False, "reduction": "first"},
        {"reduction": "first-m", "reduction_tokens": 3},
        {"reduction": "max", "bi_dense": 11},
    ],
    "poly": [
        {"poly_codes": 5},
        {"poly_codes": 5, "start": "backbone"},
        *({"poly_codes": 5, "poly_views": views} for views in ("first", "last", "last-first")),
    ],
    "cross": [{}, {"cross_head": "pooled"}, {"cross_head": "normed", "reduction": "mean"}, {"start": "backbone"}],
    "mix": [
        {"mix_vectors": 3, "mix_layers": "1,2"},
        {"mix_strategy": "codes", "mix_vectors": 2, "mix_cosine": True},
        {"mix": "c", "mix_layers": "1,2", "start": "backbone"},
    ],
    "late": [{}, {"start": "backbone"}],
    "uni": [{}, {"start": "backbone"}],
    "early": [{"early_layer": 1}],
    "ed2lm": [{"ed2lm_encode": e, "ed2lm_score": s} for e in ("candidate", "context") for s in ("true", "text")],
}


def make_ranker(kind: type[Ranker], source: str, tokenizer: Tokenizer, **options) -> Ranker:
    """Build an untrained ranker in float32."""
    torch.manual_seed(5)
    options = kind.Options(backbone=source, precision="float32", freeze_embeddings=False, **options)
    return building.start(rankers.agent_of(kind), options, source, tokenizer, "cpu").eval()


def cases() -> list:
    """Return a test case for each ranker and each of its variants."""
    return [
        pytest.param((kind, options), id=f"{name}-{'-'.join(map(str, options.values())) or 'default'}")
        for name, kind in all_rankers().items()
        for options in VARIANTS.get(name, [{}])
    ]
