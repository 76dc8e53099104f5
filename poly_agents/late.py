"""Late interaction (ColBERT; Khattab and Zaharia 2020, https://arxiv.org/abs/2004.12832, section 3).

    E_x = normalize(W T1(x)),  E_y = normalize(W T2(y))      a vector for every token
    s   = sum_i max_j E_x_i . E_y_j                          each context token meets its best candidate token

The context stands in the query's place. W is one linear map without bias for both sides. The paper's marks of query and
document, its query filled up with [MASK] and its filter of punctuation are left out: a dialogue's context is long.
Hence the mean over the context's tokens, times `--late-scale`, where the paper has the sum: a context's ranking is the
same, and the loss no sharper for a longer context.

While nothing is learnt the vectors are kept in the encoder's own precision: they are many.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from poly_agents import maths
from poly_agents.agent import RankerAgent
from poly_agents.options import at_least, option
from poly_agents.ranker import Ranker, RankerOptions, TokenStates, states
from poly_agents.tokens import Tokens


@dataclass(frozen=True)
class LateOptions(RankerOptions):
    late_width: int = option(128, "width of a token's vector")
    late_scale: float = option(20.0, "what the mean over the context's tokens is multiplied by; 0: the paper's sum")

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "late_width", 1)
        at_least(self, "late_scale", 0)


class LateRanker(Ranker):
    Options = LateOptions

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        self.project = nn.Linear(self.context_encoder.width, options.late_width, bias=False)
        nn.init.orthogonal_(self.project.weight)  # keeps angles, as far as the width goes

    def vectors(self, encoder, text: Tokens) -> TokenStates:
        """A vector for every token of every text: [N, L] -> [N, L', D]."""
        framed = self.frame.wrap(text)
        vectors = states(encoder, framed, lambda hidden, _: normalize(self.project(hidden), dim=-1))
        return TokenStates(vectors if torch.is_grad_enabled() else vectors.to(encoder.dtype), framed.mask)

    def encode(self, candidates: Tokens) -> TokenStates:
        return self.vectors(self.candidate_encoder, candidates)  # [N, L', D]

    def prepare(self, contexts: Tokens) -> TokenStates:
        return self.vectors(self.context_encoder, contexts)

    def match(self, prepared: TokenStates, kept: TokenStates) -> Tensor:
        scores = maths.maxsim(*prepared, *kept)  # [B, C]
        if not self.options.late_scale:
            return scores
        return scores * (self.options.late_scale / prepared.mask.sum(-1, keepdim=True))


class LateAgent(RankerAgent):
    """`-m poly_agents/late`"""

    ranker = LateRanker
