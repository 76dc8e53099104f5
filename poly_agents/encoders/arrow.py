"""Run an encoder over contexts and their candidates in one pass, under arrow attention (Song et al. 2023, section 3).

    [CLS] ctxt [SEP]  [CLS] r_1 [SEP]  ...  [CLS] r_C [SEP]

A candidate's tokens attend over the context and their own candidate. The context's tokens attend over everything. The
mask of the whole sequence is never made: each part is run by itself, and padding goes through attention alone.

A bias can be added to the logits between the context and its candidates. At minus infinity each part would be encoded
as if it were alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from poly_agents.encoders import layers
from poly_agents.encoders.attention import KeysValues, attend, attend_beside, merge, split
from poly_agents.encoders.backbone import Backbone
from poly_agents.encoders.layers import Layer, layer_output
from poly_agents.encoders.states import TokenStates, token_budget
from poly_agents.text.tokens import Real, Tokens


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


def run(
    encoder: Backbone,
    encoder_layers: Sequence[Layer],
    context: Tokens,
    candidates: Tokens,
    follow: bool,
    biases: Tensor | None,
    dropout: float,
) -> tuple[TokenStates, TokenStates]:
    """Run an encoder.

    Args:
        encoder: of a BERT-like family.
        encoder_layers: its layers, as `layers.read` returns them.
        context: framed contexts [B, L].
        candidates: their framed candidates [B, C, L'].
        follow: the positions of candidates follow those of their context; otherwise they start at 0 too.
        biases: what each layer adds to the logits between contexts and candidates, [layers, H]. None: nothing.
        dropout: the dropout of this run, 0 outside of training.

    Returns:
        The last states of the contexts, [B, L, D], and of the candidates, [B, C, L', D], in float32.
    """
    single = candidates.ids.shape[1] == 1 and biases is not None and not follow
    if single and not layers.has_relative_positions(encoder.model) and (packed := encoder.packed_now(context)):
        first, second = packed.apart(context, Tokens(*(part.squeeze(1) for part in candidates)), biases)
        return TokenStates(first, context.mask), TokenStates(second.unsqueeze(1), candidates.mask)
    parts = Parts(Real.of(context.mask), Real.of(candidates.mask))
    after = candidates.places
    if follow:
        after = after + context.mask.sum(-1)[:, None, None]  # [B, C, L']
    distances = None
    if layers.has_relative_positions(encoder.model):
        longest = max(context.mask.shape[-1], candidates.mask.shape[-1])
        distances = encoder.model.encoder.compute_position_bias(context.ids.new_zeros(1, longest, 1))  # [1, H, M, M]
    ids = parts.pack(context.ids, candidates.ids).unsqueeze(0)  # [1, T]
    positions = parts.pack(context.places, after).unsqueeze(0)
    segments = parts.pack(context.segments, candidates.segments).unsqueeze(0) if encoder.segments else None
    with encoder.autocast(context.ids.device):
        states = layers.embed(encoder.model, ids, positions, segments).squeeze(0)  # [T, D]
        for number, layer in enumerate(encoder_layers):
            bias = None if biases is None else biases[number]
            states = arrow_layer(layer, states, parts, bias, distances, dropout)
    masks = context.mask, candidates.mask
    return tuple(TokenStates(*part) for part in zip(parts.unpack(states.float()), masks, strict=True))


def arrow_layer(
    layer: Layer, states: Tensor, parts: Parts, bias: Tensor | None, distances: Tensor | None, dropout: float
) -> Tensor:
    """Run a layer of the encoder under arrow attention, [T, D] -> [T, D].

    Args:
        layer: a layer of the encoder.
        states: of the packed tokens.
        parts: where these tokens are.
        bias: what each head adds to the logits between a context and its candidates, [H]. A context attends over all
            its candidates, so it adds less the more there are: they weigh as much as one. None: nothing.
        distances: what each head adds to the logits within a text, [1, H, M, M], M at least the length of the longest
            text. Between texts it adds nothing. None: the encoder has absolute positions.
        dropout: the dropout of this run, 0 outside of training.
    """

    def heads(projection: nn.Module) -> list[Tensor]:
        """Project states and split them into heads: [B, H, L, d] of contexts, [B, H, C, L', d] of candidates."""
        return [split(part, layer.heads).movedim(-3, 1) for part in parts.unpack(projection(states))]

    context_queries, candidate_queries = heads(layer.query)
    keys, values = heads(layer.key), heads(layer.value)
    masks = [part.mask.flatten(1)[:, None, None] for part in parts]  # [B, 1, 1, L] and [B, 1, 1, C * L']
    lengths = [part.mask.shape[-1] for part in parts]
    context = KeysValues(keys[0], values[0], masks[0])
    own = KeysValues(keys[1], values[1], parts.candidates.mask[:, None, :, None])
    everything = KeysValues(
        *(torch.cat([far, near.flatten(2, -2)], 2) for far, near in (keys, values)), torch.cat(masks, -1)
    )
    if bias is not None:
        bias = bias.view(1, -1, 1, 1)
        count = parts.candidates.mask.any(-1).sum(-1).clamp(min=1).view(-1, 1, 1, 1)  # candidates of each context
        far = (bias - count.log()).expand(-1, -1, 1, masks[1].shape[-1])
        context = context._replace(bias=bias)
        everything = everything._replace(bias=pad(far, (lengths[0], 0)))  # [B, H, 1, L + C * L']
    if distances is not None:
        within, own_within = (distances[..., :length, :length] for length in lengths)
        within = pad(within, (0, masks[1].shape[-1]))  # [1, H, L, L + C * L']
        everything = everything._replace(bias=within if bias is None else within + everything.bias)
        own = own._replace(bias=own_within.unsqueeze(2))
    attended = (
        attend(context_queries, everything, dropout),
        attend_beside(candidate_queries, own, context, dropout),
    )
    return layer_output(layer, parts.pack(*(merge(part.movedim(1, -3)) for part in attended)), states, dropout)


def in_slices(score: Callable[[Tokens, Tokens], Tensor], context: Tokens, candidates: Tokens) -> Tensor:
    """Score framed contexts [B, L] and their candidates [B, C, L'], the longest first, under a budget -> [B, C]."""
    budget = token_budget(context.ids.device)
    lengths = context.mask.sum(-1) + candidates.mask.sum((-1, -2))
    order = lengths.argsort(descending=True)
    rows = max(1, budget // (context.mask.shape[1] + candidates.mask[0].numel()))
    scores = [score(trim(context.select(part)), trim(candidates.select(part))) for part in order.split(rows)]
    return torch.cat(scores)[order.argsort()]


def trim(tokens: Tokens) -> Tokens:
    """Cut the columns that are padding in every row."""
    return tokens.cut(max(1, int(tokens.mask.sum(-1).max())))
