"""Late interaction (ColBERT; Khattab and Zaharia 2020, https://arxiv.org/abs/2004.12832, section 3).

    E_x = normalize(W T1(x)),  E_y = normalize(W T2(y))      a vector for every token
    s   = sum_i max_j E_x_i . E_y_j                          each context token meets its best candidate token

The context x takes the place of the paper's query. W is one linear map without bias for both sides. The paper pads a
query with [MASK] tokens and leaves out punctuation; here neither is done, because a dialogue's context is long and a
response short. The score is the mean over the context's tokens times `--late-scale` instead of the sum: the ranking of
a context's candidates is the same, and the loss is no sharper for a longer context.

With `--start backbone` the mean state of a text, times a learned weight, is added to each of its states. The vectors
are as wide as the encoder's, and the score is the mean of both directions (`--late-direction both`).

A ColBERT checkpoint (in its authors' form, PyLate's or that of sentence-transformers) brings W, the sum, and the marks
of query and document as `--context-prompt` and `--candidate-prompt`. The scores are those of the checkpoint without its
[MASK] tokens and with punctuation.

Outside of training the vectors of candidates are held in the encoder's precision, because there are many.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from poly_agents.encoders.backbone import Backbone, reduced_states
from poly_agents.encoders.states import TokenStates
from poly_agents.options import at_least, option
from poly_agents.pretrained import sentence_transformers
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Ranker
from poly_agents.scoring.ranker_options import PromptOptions
from poly_agents.scoring.starts import StartOptions
from poly_agents.text.tokens import Tokens

MEAN_WEIGHT = 2.0  # weight of a text's mean state in the vector of each token, with --start backbone


@dataclass(frozen=True)
class LateOptions(StartOptions, PromptOptions):
    """Options of late interaction."""

    late_width: int = option(None, "dimensions of a token's vector; 0: those of the encoder", fallback=128)
    late_direction: str = option(
        None,
        "which tokens look for their best partner: those of the context, as in the paper, or those of both texts",
        ("context", "both"),
        fallback="context",
    )
    late_scale: float = option(
        None,
        "factor of the score, which is the mean over the context's tokens; 0: the score is their sum, as in the paper",
        fallback=20.0,
    )

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "late_width", 0)
        at_least(self, "late_scale", 0)


class LateRanker(Ranker):
    """Score by the best product of each context token with a candidate token."""

    Options = LateOptions
    backbone_start = {"start": "backbone", "late_width": 0, "late_direction": "both"}

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        width = self.context_encoder.width
        self.project = nn.Linear(width, self.options.late_width or width, bias=False)
        nn.init.orthogonal_(self.project.weight)  # keeps angles, as far as the width allows
        if self.options.from_backbone:
            self.mean_weight = nn.Parameter(torch.tensor(MEAN_WEIGHT))

    @classmethod
    def read_pretrained(cls, options, source, tokenizer):
        return sentence_transformers.token_vectors(options, source, tokenizer)

    def encode(self, candidates: Tokens) -> TokenStates:
        return self.vectors(self.candidate_encoder, self.frame.wrap_candidate(candidates))

    def encode_contexts(self, contexts: Tokens) -> TokenStates:
        return self.vectors(self.context_encoder, self.frame.wrap_context(contexts))

    def score_encoded(self, contexts: TokenStates, encoded: TokenStates) -> Tensor:
        scale, lengths = self.options.late_scale, contexts.mask.sum(-1, keepdim=True)
        if self.options.late_direction == "context":
            scores = maths.maxsim(*contexts, *encoded)  # [B, C]
            return scores * (scale / lengths) if scale else scores
        scores, others = maths.maxsim_both(*contexts, *encoded)  # [B, C]
        if scale:
            scores, others = scores * (scale / lengths), others * (scale / encoded.mask.sum(-1).clamp(min=1))
        return (scores + others) / 2

    # --- states -> vectors --------------------------------------------------------------------------------------------

    def vectors(self, encoder: Backbone, framed: Tokens) -> TokenStates:
        """Make a vector for every token of framed texts, [N, L] -> [N, L, D']."""
        vectors = reduced_states(encoder, framed, self.vector)
        return TokenStates(vectors if torch.is_grad_enabled() else vectors.to(encoder.dtype), framed.mask)

    def vector(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Project token states [N, L, D] to unit vectors [N, L, D'], by --start backbone with a share of their mean."""
        if self.options.from_backbone:
            hidden = hidden + self.mean_weight * maths.mean(hidden, mask).unsqueeze(-2)
        return normalize(self.project(hidden), dim=-1)

    views = vector

    def real_views(self, mask: Tensor) -> Tensor:
        """Mark the views that are real: one for each real token, [B, L]."""
        return mask

    def from_views(self, views: Tensor, mask: Tensor) -> TokenStates:
        return TokenStates(views, mask)
