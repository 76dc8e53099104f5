"""Rankers that start where their backbone stands: before any training they rank as the bi-encoder over it does.

    s = 20 cos(mean ctxt, mean cand) + w . mean cand,  w = 0 at the start

The published way to start (`--start paper`) keeps the encoder's weights, and throws away what an encoder of embeddings
knows about pairs of texts: the cosine of their mean states. A system that reads a context with its candidates starts
near chance then, and needs many examples to learn again what its backbone knew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from poly_agents.encoders import arrow
from poly_agents.encoders.backbone import Backbone, reduced_states
from poly_agents.encoders.layers import Layer
from poly_agents.options import option
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Ranker
from poly_agents.scoring.ranker_options import RankerOptions
from poly_agents.text.tokens import Tokens

SCALE = 20.0  # factor of the cosine, as sentence-transformers trains its models
APART = -3.0  # logits between the two texts at the start: low enough to rank as the bi-encoder, high enough to learn


@dataclass(frozen=True)
class StartOptions(RankerOptions):
    """Options of rankers that can start where their backbone stands."""

    start: str = option(
        None,
        "how an untrained ranker scores: as the bi-encoder over its backbone (backbone), or the published way (paper); "
        "over an encoder of embeddings that pools the mean, or a trained bi, the default is backbone",
        ("backbone", "paper"),
        fallback="paper",
    )

    @property
    def from_backbone(self) -> bool:
        """Tell whether the ranker starts as the bi-encoder over its backbone."""
        return self.start == "backbone"


@torch.no_grad()
def cosines(ranker: Ranker, contexts: Tokens, candidates: Tokens) -> Tensor:
    """Return the cosines of the mean states of bare contexts [B, L] and candidates [N, L] -> [B, N].

    It is the cheapest score that a ranker's encoder gives, one product for each pair.
    """
    ranker.eval()
    texts = ranker.frame.wrap(contexts.to(ranker.device)), ranker.frame.wrap(candidates.to(ranker.device))
    encoders = ranker.context_encoder, ranker.candidate_encoder
    means = (reduced_states(encoder, text, maths.mean) for encoder, text in zip(encoders, texts, strict=True))
    context, candidate = (normalize(mean, dim=-1) for mean in means)
    return context @ candidate.T


class PairScore(nn.Module):
    """Encode contexts and candidates together, and score them.

    Attributes:
        bias: what is added to the attention's logits between a context and its candidates, [layers, H].
    """

    def __init__(self, encoder: Backbone):
        super().__init__()
        self.bias = nn.Parameter(torch.full((len(encoder.layers), encoder.model.config.num_attention_heads), APART))
        self.head = nn.Linear(encoder.width, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(
        self, encoder: Backbone, layers: Sequence[Layer], context: Tokens, candidates: Tokens, dropout: float
    ) -> Tensor:
        """Score framed contexts [B, L] and their candidates [B, C, L'] -> [B, C]. Arguments as of `arrow.run`."""
        states = arrow.run(encoder, layers, context, candidates, False, self.bias, dropout)
        context, candidate = (maths.mean(*part) for part in states)  # [B, D] and [B, C, D]
        cosine = (normalize(context, dim=-1).unsqueeze(1) * normalize(candidate, dim=-1)).sum(-1)
        return SCALE * cosine + self.head(candidate).squeeze(-1)
