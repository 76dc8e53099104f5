"""Late interaction (ColBERT; Khattab and Zaharia 2020, https://arxiv.org/abs/2004.12832, section 3).

    E_x = normalize(W T1(x)),  E_y = normalize(W T2(y))      a vector for every token
    s   = sum_i max_j E_x_i . E_y_j                          each context token meets its best candidate token

The context stands in the query's place. W is one linear map without bias for both sides. The paper's query filled up
with [MASK] and its filter of punctuation are left out: a dialogue's context is long, and a response short. Hence the
mean over the context's tokens, times `--late-scale`, where the paper has the sum: a context's ranking is the same, and
the loss no sharper for a longer context.

From a ColBERT checkpoint (the authors' own format, PyLate's, or that of sentence-transformers) come W, the sum, and the
paper's marks of query and document, as `--context-prompt` and `--candidate-prompt`. Scores are then those of the
checkpoint without its [MASK] tokens and with punctuation.

While nothing is learnt the vectors are kept in the encoder's own precision: they are many.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from poly_agents.encoders.backbone import reduced_states
from poly_agents.encoders.states import TokenStates
from poly_agents.options import at_least, option
from poly_agents.pretrained import sentence_transformers
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import PromptOptions, Ranker
from poly_agents.text.tokens import Tokens


@dataclass(frozen=True)
class LateOptions(PromptOptions):
    late_width: int = option(None, "width of a token's vector", fallback=128)
    late_scale: float = option(
        None, "what the mean over the context's tokens is multiplied by; 0: the paper's sum", fallback=20.0
    )

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "late_width", 1)
        at_least(self, "late_scale", 0)


class LateRanker(Ranker):
    Options = LateOptions

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        self.project = nn.Linear(self.context_encoder.width, self.options.late_width, bias=False)
        nn.init.orthogonal_(self.project.weight)  # keeps angles, as far as the width goes

    @classmethod
    def read_pretrained(cls, options, source, tokenizer):
        return sentence_transformers.token_vectors(options, source, tokenizer)

    def vector(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Token states to a vector each: [N, L, D] -> [N, L, D']."""
        return normalize(self.project(hidden), dim=-1)

    views = vector

    def real_views(self, mask: Tensor) -> Tensor:
        """The tokens that are: [B, L]."""
        return mask

    def from_views(self, views: Tensor, mask: Tensor) -> TokenStates:
        return TokenStates(views, mask)

    def vectors(self, encoder, framed: Tokens) -> TokenStates:
        """A vector for every token of every framed text: [N, L] -> [N, L, D]."""
        vectors = reduced_states(encoder, framed, self.vector)
        return TokenStates(vectors if torch.is_grad_enabled() else vectors.to(encoder.dtype), framed.mask)

    def encode(self, candidates: Tokens) -> TokenStates:
        return self.vectors(self.candidate_encoder, self.frame.wrap_candidate(candidates))

    def encode_contexts(self, contexts: Tokens) -> TokenStates:
        return self.vectors(self.context_encoder, self.frame.wrap_context(contexts))

    def score_encoded(self, contexts: TokenStates, kept: TokenStates) -> Tensor:
        scores = maths.maxsim(*contexts, *kept)  # [B, C]
        if not self.options.late_scale:
            return scores
        return scores * (self.options.late_scale / contexts.mask.sum(-1, keepdim=True))
