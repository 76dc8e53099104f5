"""Poly-encoder (Humeau et al. 2020, https://arxiv.org/abs/1905.01969, section 4.4 and appendix C).

    y^i    = sum_j softmax_j(c_i . h_j) h_j        m views of the context's token states h
    y_ctxt = sum_i softmax_i(y_cand . y^i) y^i     the candidate picks among them
    s      = y_ctxt . y_cand

The views are made by learned codes c, or are the first m states, the last m, or the last m and the first
(`--poly-views`). As in the paper no softmax is scaled and nothing is projected. As in ParlAI either attention can
divide its products by sqrt(d), or have projections and several heads (`--codes-attention-type`,
`--poly-attention-type`).

With `--start backbone` views and candidates have length 1, and the products are multiplied by 20. The learned codes are
small, so at first every view is near the mean of the states, and the score near the bi-encoder's.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from poly_agents.encoders.backbone import reduced_states
from poly_agents.encoders.states import TokenStates
from poly_agents.errors import InputError
from poly_agents.options import at_least, option
from poly_agents.scoring import maths
from poly_agents.scoring.multihead import MultiHead
from poly_agents.scoring.ranker import Ranker, Views
from poly_agents.scoring.ranker_options import PromptOptions
from poly_agents.scoring.reduction import ReductionOptions
from poly_agents.scoring.starts import SCALE, StartOptions
from poly_agents.text.tokens import Tokens

ATTENTIONS = ("basic", "sqrt", "multihead")
VIEWS = ("codes", "first", "last", "last-first")


@dataclass(frozen=True)
class PolyOptions(StartOptions, ReductionOptions, PromptOptions):
    """Options of the poly-encoder."""

    poly_codes: int = option(64, "how many vectors represent a context (m in the paper)")
    poly_views: str = option(
        "codes",
        "what the vectors of a context are: outputs of an attention with learned codes, or the states of its first "
        "tokens, of its last tokens, or of its last tokens and the first",
        VIEWS,
    )
    codes_attention_type: str = option(
        "basic",
        "how the codes attend over the context's states: by the inner product (basic), the inner product over sqrt(d) "
        "(sqrt), or with projections and several heads (multihead)",
        ATTENTIONS,
    )
    codes_attention_num_heads: int = option(4, "heads of --codes-attention-type multihead")
    poly_attention_type: str = option(
        "basic",
        "how a candidate attends over the context's vectors: by the inner product (basic), the inner product over "
        "sqrt(d) (sqrt), or with projections and several heads (multihead)",
        ATTENTIONS,
    )
    poly_attention_num_heads: int = option(4, "heads of --poly-attention-type multihead")

    def __post_init__(self):
        super().__post_init__()
        for name in ("poly_codes", "codes_attention_num_heads", "poly_attention_num_heads"):
            at_least(self, name, 1)

    def over_decoder(self) -> Self:
        if self.poly_views == "first":
            raise InputError(
                "--poly-views first: the backbone reads from left to right, so its first states know nothing of the "
                "rest of the context; give --poly-views codes or last"
            )
        return super().over_decoder()


class PolyRanker(Ranker):
    """Score by an attention of the candidate over several views of the context."""

    Options = PolyOptions
    backbone_start = {"start": "backbone"}

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        width = self.context_encoder.width
        self.scales = {"basic": 1.0, "sqrt": width**-0.5}
        if self.options.poly_views == "codes":
            # Small: every view starts near the mean of the states, yet no two are the same.
            self.codes = nn.Parameter(torch.randn(self.options.poly_codes, width) * 0.05)  # [K, D]
            if self.options.codes_attention_type == "multihead":
                self.code_attention = MultiHead(width, self.options.codes_attention_num_heads)
        if self.options.poly_attention_type == "multihead":
            self.attention = MultiHead(width, self.options.poly_attention_num_heads)

    def encode(self, candidates: Tokens) -> Tensor:
        return reduced_states(self.candidate_encoder, self.frame.wrap_candidate(candidates), self.vector)  # [N, D]

    def encode_contexts(self, contexts: Tokens) -> Views | TokenStates:
        framed = self.frame.wrap_context(contexts)
        return self.from_views(reduced_states(self.context_encoder, framed, self.views), self.real_views(framed.mask))

    def from_views(self, views: Tensor, mask: Tensor | None) -> Views | TokenStates:
        if self.options.poly_attention_type == "multihead":
            return TokenStates(views, torch.ones_like(views[..., 0], dtype=torch.bool) if mask is None else mask)
        return Views(views, mask, self.scales[self.options.poly_attention_type])

    def score_encoded(self, contexts: Views | TokenStates, encoded: Tensor) -> Tensor:
        if isinstance(contexts, TokenStates):
            return self.attention.score(contexts, encoded)  # [B, C]
        return maths.poly(contexts.vectors, encoded, contexts.mask, contexts.scale)  # [B, C]

    # --- states -> vectors --------------------------------------------------------------------------------------------

    def vector(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Make the vectors of candidates [N, D] from their token states [N, L, D] and mask [N, L]."""
        vectors = self.options.reduce(hidden, mask)
        return normalize(vectors, dim=-1) if self.options.from_backbone else vectors

    def views(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Make m views of each context from its token states [B, L, D] and mask [B, L].

        Returns:
            [B, K, D], where K is m or, with `last-first`, m + 1. Views that `real_views` does not mark have no meaning.
        """
        views = self.raw_views(hidden, mask)
        return SCALE * normalize(views, dim=-1) if self.options.from_backbone else views

    def raw_views(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Make the views as `views` does, without their norm."""
        if self.options.poly_views == "codes":
            kind = self.options.codes_attention_type
            if kind == "multihead":
                return self.code_attention(self.codes, hidden, mask)
            return maths.attend(self.codes * self.scales[kind], hidden, mask)
        index = self.positions(mask).clamp(min=0, max=hidden.shape[1] - 1)  # [B, K]
        return hidden.gather(1, index.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))

    def real_views(self, mask: Tensor) -> Tensor | None:
        """Mark the views that are real, for contexts with this token mask [B, L]: [B, K] bool. None: all are."""
        if self.options.poly_views == "codes":
            return None
        positions = self.positions(mask)
        return (positions >= 0) & (positions < mask.sum(-1, keepdim=True))

    def positions(self, mask: Tensor) -> Tensor:
        """Return which token's state each view is, for a token mask [B, L]: [B, K].

        A context with fewer than m tokens has no state for some views. Their positions are outside of it.
        """
        m = torch.arange(self.options.poly_codes, device=mask.device)
        lengths = mask.sum(-1, keepdim=True)  # [B, 1]
        if self.options.poly_views == "first":
            return m.expand(len(mask), -1)
        last = lengths - 1 - m  # [B, m]
        if self.options.poly_views == "last":
            return last
        # The first state, unless it is among the last m already.
        first = torch.where(lengths > len(m), 0, -1)
        return torch.cat([last, first], -1)
