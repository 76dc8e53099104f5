"""Bi-encoder (Humeau et al. 2020, https://arxiv.org/abs/1905.01969, section 4.2).

    y_ctxt = red(T1(ctxt)),  y_cand = red(T2(cand)),  s = y_ctxt . y_cand

`red` is the first output, the mean of all or of the first m, or the largest numbers of all. With `--bi-cosine` both
vectors are normalised and the cosine is multiplied by `--bi-scale`, as sentence-transformers trains its models. From a
folder of sentence-transformers come its pooling, dense layer, similarity and prompts, unless these options say
otherwise.

With `--layers 2 --init-cross MODEL` it is the dual encoder infused from a cross-encoder (Ananthakrishnan et al. 2025,
https://arxiv.org/abs/2502.03552): embeddings and first layer are the cross-encoder's, the second layer starts new.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import normalize

from poly_agents.encoders.backbone import reduced_states
from poly_agents.options import at_least, option
from poly_agents.pretrained import sentence_transformers
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import PromptOptions, Ranker, Views
from poly_agents.scoring.reduction import ReductionOptions
from poly_agents.text.tokens import Tokens

INFUSED = 1  # layers taken over from a cross-encoder


@dataclass(frozen=True)
class BiOptions(ReductionOptions, PromptOptions):
    bi_cosine: bool = option(None, "score by the cosine, not by the plain dot product", fallback=True)
    bi_scale: float = option(20.0, "what the cosine is multiplied by")
    bi_dense: int = option(None, "width of a dense layer after the reduction; 0: there is none", fallback=0)
    bi_activation: str = option(None, "of that layer", ("tanh", "identity"), fallback="tanh")
    bi_candidate_map: bool = option(False, "two dense layers on the candidate's vector, as ParlAI's shared encoder has")
    layers: int = option(0, "keep so many of the encoder's first layers; 0: all")
    init_cross: str = option("", "take embeddings and first layer from this cross-encoder; other layers start new")
    init_random: bool = option(False, "start all weights new, as a control; the backbone gives the shape alone")

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "layers", 0)
        at_least(self, "bi_dense", 0)

    @property
    def source(self):
        return self.init_cross or self.backbone

    @property
    def embeddings_stay(self):
        return self.freeze_embeddings and not self.init_random


class BiRanker(Ranker):
    Options = BiOptions

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        width, activation = self.options.bi_dense, nn.Tanh() if self.options.bi_activation == "tanh" else nn.Identity()
        self.dense = nn.Sequential(*[nn.Linear(self.context_encoder.width, width), activation] if width else [])
        width = width or self.candidate_encoder.width
        mapped = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)] if options.bi_candidate_map else []
        self.candidate_map = nn.Sequential(*mapped)

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

    def reduced(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Token states to one vector a text: [N, L, D] -> [N, D]."""
        return self.dense(self.options.reduce(hidden, mask))

    def scaled(self, vectors: Tensor) -> Tensor:
        return normalize(vectors, dim=-1) if self.options.bi_cosine else vectors

    def vector(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Token states of candidates to what is kept of each: [N, L, D] -> [N, D]."""
        return self.scaled(self.candidate_map(self.reduced(hidden, mask)))

    def views(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Token states of contexts to what meets a candidate's vector: [B, L, D] -> [B, 1, D]."""
        vectors = self.scaled(self.reduced(hidden, mask)).unsqueeze(1)
        return vectors * self.options.bi_scale if self.options.bi_cosine else vectors

    def real_views(self, mask: Tensor) -> None:
        """The one view of a context is always real."""

    def encode(self, candidates: Tokens) -> Tensor:
        return reduced_states(self.candidate_encoder, self.frame.wrap_candidate(candidates), self.vector)  # [N, D]

    def encode_contexts(self, contexts: Tokens) -> Views:
        return Views(reduced_states(self.context_encoder, self.frame.wrap_context(contexts), self.views))

    def score_encoded(self, contexts: Views, kept: Tensor) -> Tensor:
        return maths.poly(contexts.vectors, kept)  # [B, C]
