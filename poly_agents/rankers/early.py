"""Embeddings from an early layer of a cross-encoder (Ananthakrishnan et al. 2025, https://arxiv.org/abs/2502.03552).

    h^l   = layer l of T([text, text])               each text is paired with itself
    y     = mean of h^l over the tokens of the text  both copies; no separators, no padding
    s     = cos(y_ctxt, y_cand)

The early layers of a trained cross-encoder embed better than those of a bi-encoder, without further training. The
layers above them are neither kept nor run. `parlai poly_layers` ranks with every layer, to help choose `--early-layer`.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from poly_agents.encoders.backbone import Backbone
from poly_agents.encoders.states import by_length
from poly_agents.options import above, at_least, option
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Ranker, Views
from poly_agents.scoring.ranker_options import RankerOptions
from poly_agents.text.tokens import Tokens


@dataclass(frozen=True)
class EarlyOptions(RankerOptions):
    """Options of early-layer embeddings."""

    cross_model: str = option("", "the trained cross-encoder whose layers embed; default: --backbone")
    early_layer: int = option(2, "the layer whose states are averaged, counted from 1")
    early_scale: float = option(20.0, "factor of the cosine")

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "early_layer", 1)
        above(self, "early_scale", 0)

    @property
    def source(self):
        return self.cross_model or self.backbone


class EarlyRanker(Ranker):
    """Score by the cosine of two vectors from an early layer."""

    Options = EarlyOptions
    defaults = {"text_truncate": 250}  # a text and its copy share the positions

    @classmethod
    def adapt_encoder(cls, options, encoder):
        return encoder.cut(options.early_layer)

    def positions_needed(self, context, candidate):
        return self.frame.pair_length + 2 * max(context, candidate)

    def encode(self, candidates: Tokens) -> Tensor:
        return self.vector(self.candidate_encoder, candidates)  # [N, D]

    def encode_contexts(self, contexts: Tokens) -> Views:
        return Views(self.options.early_scale * self.vector(self.context_encoder, contexts).unsqueeze(1))  # [B, 1, D]

    def score_encoded(self, contexts: Views, encoded: Tensor) -> Tensor:
        return maths.poly(contexts.vectors, encoded)  # [B, C]

    def vector(self, encoder: Backbone, text: Tokens) -> Tensor:
        """Embed bare texts [N, L] -> unit vectors [N, D]."""

        def run(pairs: Tokens) -> Tensor:
            return maths.mean(encoder(pairs), self.frame.text_mask(pairs))

        return normalize(by_length(run, self.frame.join(text, text)), dim=-1)
