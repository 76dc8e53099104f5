"""Bi-encoder (Humeau et al. 2020, https://arxiv.org/abs/1905.01969, section 4.2).

    y_ctxt = red(T1(ctxt)),  y_cand = red(T2(cand)),  s = y_ctxt . y_cand

`red` is the first output, the mean of all or of the first m, or the largest numbers of all. With `--bi-cosine` both
vectors are normalised and the cosine is multiplied by `--bi-scale`, as sentence-transformers trains its models.

With `--layers 2 --init-cross MODEL` it is the dual encoder infused from a cross-encoder (Ananthakrishnan et al. 2025,
https://arxiv.org/abs/2502.03552): embeddings and first layer are the cross-encoder's, the second layer starts new.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import normalize

from poly_agents import maths
from poly_agents.agent import RankerAgent
from poly_agents.options import at_least, option
from poly_agents.ranker import Ranker, Views, states
from poly_agents.reduction import ReductionOptions
from poly_agents.tokens import Tokens

INFUSED = 1  # layers taken over from a cross-encoder


@dataclass(frozen=True)
class BiOptions(ReductionOptions):
    bi_cosine: bool = option(True, "score by the cosine, not by the plain dot product")
    bi_scale: float = option(20.0, "what the cosine is multiplied by")
    bi_candidate_map: bool = option(False, "two dense layers on the candidate's vector, as ParlAI's shared encoder has")
    layers: int = option(0, "keep so many of the encoder's first layers; 0: all")
    init_cross: str = option("", "take embeddings and first layer from this cross-encoder; other layers start new")
    init_random: bool = option(False, "start all weights new, as a control; the backbone gives the shape alone")

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "layers", 0)

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
        width = self.candidate_encoder.width
        mapped = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)] if options.bi_candidate_map else []
        self.candidate_map = nn.Sequential(*mapped)

    @classmethod
    def start(cls, options, encoder):
        if options.layers:
            encoder.cut(options.layers)
        if options.init_random:
            return encoder.renew(None)
        return encoder.renew(INFUSED) if options.init_cross else encoder

    def scaled(self, vectors: Tensor) -> Tensor:
        return normalize(vectors, dim=-1) if self.options.bi_cosine else vectors

    def encode(self, candidates: Tokens) -> Tensor:
        framed = self.frame.wrap_candidate(candidates)
        return self.scaled(self.candidate_map(states(self.candidate_encoder, framed, self.options.reduce)))  # [N, D]

    def prepare(self, contexts: Tokens) -> Views:
        framed = self.frame.wrap(contexts)
        vectors = self.scaled(states(self.context_encoder, framed, self.options.reduce)).unsqueeze(1)  # [B, 1, D]
        return Views(vectors * self.options.bi_scale if self.options.bi_cosine else vectors)

    def match(self, prepared: Views, kept: Tensor) -> Tensor:
        return maths.poly(prepared.vectors, kept)  # [B, C]


class BiAgent(RankerAgent):
    """`-m poly_agents/bi`"""

    ranker = BiRanker
