"""Uni-Encoder (Song et al. 2023, https://arxiv.org/abs/2106.01263, section 3).

    [CLS] ctxt [SEP]  [CLS] r_1 [SEP]  ...  [CLS] r_C [SEP]      one run for a context and all its candidates
    s_c = W mean(T(...)_c)                                       the mean of candidate c's tokens, one linear map

Candidates are in segment 1, and all of them at the same positions, those after the context's. Arrow attention: a
candidate's tokens attend over the context and their own candidate; the context's tokens attend over everything. The
mask of the whole sequence is never made: each part is run by itself, and padding goes through attention alone.

So the states of the context, and with them every score, depend on which candidates there are. Nothing of a candidate
can be cached, and a pool cannot be split; `--uni-pool` bounds its size. The paper trains on the batch's own responses,
and adds a masked-language loss that is left out here.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from poly_agents.encoders import layers
from poly_agents.encoders.attention import KeysValues, attend, attend_beside, merge, split
from poly_agents.encoders.layers import Layer, layer_output
from poly_agents.encoders.states import token_budget
from poly_agents.errors import InputError
from poly_agents.options import at_least, option
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Ranker
from poly_agents.scoring.ranker_options import RankerOptions
from poly_agents.text.tokens import Real, Tokens


@dataclass(frozen=True)
class UniOptions(RankerOptions):
    """Options of Uni-Encoder."""

    uni_pool: int = option(
        128, "the most candidates that a context may have; more are refused, because all are scored in one run"
    )

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "uni_pool", 1)


class Parts(NamedTuple):
    """Where the T real tokens of contexts and candidates are: all contexts', then all candidates'.

    Maps and norms run on the packed tokens, attention on the two padded parts.
    """

    context: Real  # in [B, L]
    candidates: Real  # in [B, C, L']

    def pack(self, context: Tensor, candidates: Tensor) -> Tensor:
        """Take the real tokens out of contexts [B, L, *] and candidates [B, C, L', *] -> [T, *]."""
        return torch.cat([self.context.pack(context), self.candidates.pack(candidates)])

    def unpack(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """Put real tokens back, [T, D] -> contexts [B, L, D] and candidates [B, C, L', D]."""
        context, candidates = packed.split([len(part.index) for part in self])
        return self.context.unpack(context), self.candidates.unpack(candidates)


def arrow_layer(layer: Layer, states: Tensor, parts: Parts, dropout: float) -> Tensor:
    """Run a layer of the encoder under arrow attention, [T, D] -> [T, D].

    Args:
        layer: a layer of the encoder.
        states: of the packed tokens.
        parts: where these tokens are.
        dropout: the dropout of this run, 0 outside of training.
    """

    def heads(projection: nn.Module) -> list[Tensor]:
        """Project states and split them into heads: [B, H, L, d] of contexts, [B, H, C, L', d] of candidates."""
        return [split(part, layer.heads).movedim(-3, 1) for part in parts.unpack(projection(states))]

    context_queries, candidate_queries = heads(layer.query)
    keys, values = heads(layer.key), heads(layer.value)
    masks = [part.mask.flatten(1)[:, None, None] for part in parts]  # [B, 1, 1, L] and [B, 1, 1, C * L']
    context = KeysValues(keys[0], values[0], masks[0])
    own = KeysValues(keys[1], values[1], parts.candidates.mask[:, None, :, None])
    everything = KeysValues(
        *(torch.cat([far, near.flatten(2, -2)], 2) for far, near in (keys, values)), torch.cat(masks, -1)
    )
    attended = (
        attend(context_queries, everything, dropout),
        attend_beside(candidate_queries, own, context, dropout),
    )
    return layer_output(layer, parts.pack(*(merge(part.movedim(1, -3)) for part in attended)), states, dropout)


def places(tokens: Tokens) -> Tensor:
    """Return the place of each real token in its text, counted from 0: [..., L]. That of padding has no meaning."""
    return tokens.mask.cumsum(-1) - 1


def trim(tokens: Tokens) -> Tokens:
    """Cut the columns that are padding in every row."""
    return tokens.cut(max(1, int(tokens.mask.sum(-1).max())))


class UniRanker(Ranker):
    """Score all candidates of a context in one run."""

    Options = UniOptions
    defaults = {"negatives": 15}
    one_encoder = True
    depends_on_pool = True

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        model = self.context_encoder.model
        if layers.has_relative_positions(model):
            raise InputError(
                f"the attention of {model.config.model_type} depends on the distance of two tokens, and candidates at "
                "the same positions have none; give a --backbone of the BERT family"
            )
        self.layers = layers.read(model)
        self.head = nn.Linear(self.context_encoder.width, 1, bias=False)  # a bias would move all scores alike

    @classmethod
    def can_cache(cls, options):
        return False

    def positions_needed(self, context, candidate):
        return 2 * self.frame.single_length + context + candidate

    def encode(self, candidates: Tokens) -> Tokens:
        framed = self.frame.wrap(candidates)
        return framed._replace(segments=framed.mask.long())

    def score_encoded(self, contexts: Tokens, encoded: Tokens) -> Tensor:
        most = int(encoded.mask.any(-1).sum(-1).max())
        if most > self.options.uni_pool:
            raise InputError(
                f"a context has {most} candidates, --uni-pool allows {self.options.uni_pool}; rank the best of another "
                "system, give fewer (-ecands inline, or a shorter -fcp FILE), or raise --uni-pool if memory allows"
            )
        framed = self.frame.wrap(contexts)
        pools = Tokens(*(part.expand(len(framed.ids), -1, -1) for part in encoded))  # [B, C, L']
        budget = token_budget(framed.ids.device)
        rows = max(1, budget // (framed.mask.shape[1] + encoded.mask[0].numel()))
        order = framed.mask.sum(-1).argsort(descending=True)
        scores = [self.run(trim(framed.select(part)), trim(pools.select(part))) for part in order.split(rows)]
        return torch.cat(scores)[order.argsort()]

    def run(self, context: Tokens, candidates: Tokens) -> Tensor:
        """Score framed contexts [B, L] and their candidates [B, C, L'] -> [B, C]."""
        encoder, dropout = self.context_encoder, self.options.dropout if self.training else 0.0
        parts = Parts(Real.of(context.mask), Real.of(candidates.mask))
        after = context.mask.sum(-1)[:, None, None] + places(candidates)  # [B, C, L']
        ids = parts.pack(context.ids, candidates.ids).unsqueeze(0)  # [1, T]
        positions = parts.pack(places(context), after).unsqueeze(0)
        segments = parts.pack(context.segments, candidates.segments).unsqueeze(0) if encoder.segments else None
        with encoder.autocast(context.ids.device):
            states = layers.embed(encoder.model, ids, positions, segments).squeeze(0)  # [T, D]
            for layer in self.layers:
                states = arrow_layer(layer, states, parts, dropout)
        _, tokens = parts.unpack(states.float())  # [B, C, L', D]
        return self.head(maths.mean(tokens, candidates.mask)).squeeze(-1)
