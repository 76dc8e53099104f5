"""Bi-encoder (Humeau et al. 2020, https://arxiv.org/abs/1905.01969, section 4.2).

    y_ctxt = red(T1(ctxt)),  y_cand = red(T2(cand)),  s = y_ctxt . y_cand

`red` is the first output, the mean of all, or the mean of the first m. With `--bi-cosine` both vectors are normalised
and the cosine is multiplied by `--bi-scale`, as sentence-transformers trains its models.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from poly_agents import maths
from poly_agents.agent import RankerAgent
from poly_agents.options import option
from poly_agents.ranker import Ranker, states
from poly_agents.reduction import ReductionOptions
from poly_agents.tokens import Tokens


@dataclass(frozen=True)
class BiOptions(ReductionOptions):
    bi_cosine: bool = option(True, "score by the cosine, not by the plain dot product")
    bi_scale: float = option(20.0, "what the cosine is multiplied by")


class BiRanker(Ranker):
    Options = BiOptions

    def vector(self, encoder, text: Tokens) -> Tensor:
        """One vector a text: [N, L] -> [N, D]."""
        vectors = states(encoder, self.frame.wrap(text), self.options.reduce)
        return normalize(vectors, dim=-1) if self.options.bi_cosine else vectors

    def encode(self, candidates: Tokens) -> Tensor:
        return self.vector(self.candidate_encoder, candidates)  # [N, D]

    def score(self, contexts: Tokens, kept: Tensor) -> Tensor:
        scores = maths.dot(self.vector(self.context_encoder, contexts), kept)  # [B, C]
        return scores * self.options.bi_scale if self.options.bi_cosine else scores


class BiAgent(RankerAgent):
    """`-m poly_agents/bi`"""

    ranker = BiRanker
