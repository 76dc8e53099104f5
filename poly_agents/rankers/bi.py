"""Bi-encoder (Humeau et al. 2020, https://arxiv.org/abs/1905.01969, section 4.2).

    y_ctxt = red(T1(ctxt)),  y_cand = red(T2(cand)),  s = y_ctxt . y_cand

`red` reduces the states of a text's tokens to one vector (`--reduction`). With `--bi-cosine` both vectors are
normalised and the cosine is multiplied by `--bi-scale`, as sentence-transformers trains its models. A checkpoint of
sentence-transformers brings its pooling, dense layer, similarity and prompts; options that are given win.

With `--layers 2 --init-cross MODEL` it is the dual encoder infused from a cross-encoder (Ananthakrishnan et al. 2025,
https://arxiv.org/abs/2502.03552): embeddings and first layer are the cross-encoder's, the second layer starts with
random weights.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import normalize

from poly_agents.encoders.backbone import reduced_states
from poly_agents.options import above, at_least, option
from poly_agents.pretrained import sentence_transformers
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Ranker, Views
from poly_agents.scoring.ranker_options import PromptOptions
from poly_agents.scoring.reduction import ReductionOptions
from poly_agents.text.tokens import Tokens

INFUSED = 1  # layers that are taken from a cross-encoder


@dataclass(frozen=True)
class BiOptions(ReductionOptions, PromptOptions):
    """Options of the bi-encoder."""

    bi_cosine: bool = option(None, "score by the cosine; false: by the inner product", fallback=True)
    bi_scale: float = option(20.0, "factor of the cosine, with --bi-cosine")
    bi_dense: int = option(None, "width of a dense layer on the reduced vector; 0: no such layer", fallback=0)
    bi_activation: str = option(
        None, "activation of the dense layer that --bi-dense adds", ("tanh", "identity"), fallback="tanh"
    )
    bi_candidate_map: bool = option(False, "two dense layers on the candidate's vector, as ParlAI's shared encoder has")
    layers: int = option(0, "use only the first N layers of the encoder; 0: all")
    init_cross: str = option(
        "", "start from embeddings and first layer of this cross-encoder; its other layers get random weights"
    )
    init_random: bool = option(False, "start with random weights in the shape of the backbone, as a control")

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "layers", 0)
        at_least(self, "bi_dense", 0)
        above(self, "bi_scale", 0)

    @property
    def source(self):
        return self.init_cross or self.backbone

    @property
    def embeddings_stay(self):
        return self.freeze_embeddings and not self.init_random


class BiRanker(Ranker):
    """Score by the inner product, or the cosine, of two vectors."""

    Options = BiOptions

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        width = self.context_encoder.width
        self.dense = nn.Sequential()  # empty: the vector as it is
        self.candidate_map = nn.Sequential()
        if self.options.bi_dense:
            activation = nn.Tanh() if self.options.bi_activation == "tanh" else nn.Identity()
            self.dense = nn.Sequential(nn.Linear(width, self.options.bi_dense), activation)
            width = self.options.bi_dense
        if self.options.bi_candidate_map:
            self.candidate_map = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    @classmethod
    def read_pretrained(cls, options, source, tokenizer):
        return sentence_transformers.vectors(options, source, tokenizer)

    @classmethod
    def adapt_encoder(cls, options, encoder):
        if options.layers:
            encoder.cut(options.layers)
        if options.init_random:
            return encoder.renew(None)
        return encoder.renew(INFUSED) if options.init_cross else encoder

    def encode(self, candidates: Tokens) -> Tensor:
        return reduced_states(self.candidate_encoder, self.frame.wrap_candidate(candidates), self.vector)  # [N, D]

    def encode_contexts(self, contexts: Tokens) -> Views:
        return Views(reduced_states(self.context_encoder, self.frame.wrap_context(contexts), self.views))  # [B, 1, D]

    def score_encoded(self, contexts: Views, encoded: Tensor) -> Tensor:
        return maths.poly(contexts.vectors, encoded)  # [B, C]

    # --- states -> vectors --------------------------------------------------------------------------------------------

    def vector(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Make the vectors of candidates [N, D] from their token states [N, L, D] and mask [N, L]."""
        return self.normalised(self.candidate_map(self.reduced(hidden, mask)))

    def views(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Make the one view of each context, [B, 1, D], from its token states [B, L, D] and mask [B, L]."""
        vectors = self.normalised(self.reduced(hidden, mask)).unsqueeze(1)
        return vectors * self.options.bi_scale if self.options.bi_cosine else vectors

    def real_views(self, mask: Tensor) -> None:
        """Return None: the one view of a context is always real."""

    def reduced(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Reduce token states [N, L, D] with their mask [N, L] to one vector each, [N, D]."""
        return self.dense(self.options.reduce(hidden, mask))

    def normalised(self, vectors: Tensor) -> Tensor:
        """Normalise vectors [..., D] if they are compared by the cosine."""
        return normalize(vectors, dim=-1) if self.options.bi_cosine else vectors
