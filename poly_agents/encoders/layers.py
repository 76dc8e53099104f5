"""The parts of a post-norm encoder's layers, whatever its family calls them, for systems that run layers themselves.

    a  = softmax(q k^T / sqrt(d)) v              attention, for each head
    h' = norm(out(a) + h)                        finish, first half
    h  = norm(down(activation(up(h'))) + h')     finish, second half

What the queries meet, and under which mask, is the system's own business.
"""

from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop

if TYPE_CHECKING:
    from poly_agents.encoders.backbone import Backbone


class Layer(NamedTuple):
    """The modules of one layer; they stay the encoder's own."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module
    attention_norm: nn.Module
    up: nn.Module
    activation: nn.Module
    down: nn.Module
    output_norm: nn.Module
    heads: int


_FEED_FORWARD = "intermediate.dense", "intermediate.intermediate_act_fn", "output.dense", "output.LayerNorm"
_BERT = (
    *(f"attention.self.{name}" for name in ("query", "key", "value")),
    "attention.output.dense",
    "attention.output.LayerNorm",
    *_FEED_FORWARD,
)
PATHS = {  # model type -> where each part is, in the order of `Layer`
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
    "mpnet": (*(f"attention.attn.{name}" for name in "qkvo"), "attention.LayerNorm", *_FEED_FORWARD),
    "distilbert": (
        *(f"attention.{name}_lin" for name in ("q", "k", "v", "out")),
        "sa_layer_norm",
        *(f"ffn.{name}" for name in ("lin1", "activation", "lin2")),
        "output_layer_norm",
    ),
    "parlai": Layer._fields[:-1],
}


def read(encoder: "Backbone") -> list[Layer]:
    """The layers of an encoder, first to last."""
    config = encoder.model.config
    if config.model_type not in PATHS:
        raise ValueError(
            f"the layers of {config.model_type} are not built as BERT's, so they cannot be run apart; "
            f"give a --backbone of one of these families: {', '.join(PATHS)}"
        )
    paths = PATHS[config.model_type]
    return [
        Layer(*(reduce(getattr, path.split("."), layer) for path in paths), heads=config.num_attention_heads)
        for layer in encoder.layers
    ]


def embed(encoder: "Backbone", ids: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
    """What the first layer takes of ids [N, L], at positions counted from 0 and in segments: [N, L, D]."""
    embeddings = encoder.model.embeddings
    first = getattr(embeddings, "padding_idx", None)  # RoBERTa counts from padding_idx + 1
    inputs = {"token_type_ids": segments} if encoder.segments else {}
    states = embeddings(input_ids=ids, position_ids=positions + (0 if first is None else first + 1), **inputs)
    project = getattr(encoder.model, "embeddings_project", None)  # ELECTRA's embeddings may be narrower
    return states if project is None else project(states)


def affine(norm: nn.LayerNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias of a norm, [D] each, with what it multiplies its output by where it does (`ScaledNorm`)."""
    scale = getattr(norm, "scale", 1.0)
    return (norm.weight * scale).to(dtype), (norm.bias * scale).to(dtype)


def relative(encoder: "Backbone") -> bool:
    """Whether attention also depends on the distance of two tokens, as MPNet's does; `products` knows nothing of it."""
    return hasattr(getattr(encoder.model, "encoder", None), "relative_attention_bias")


def split(states: Tensor, heads: int) -> Tensor:
    """[..., L, D] -> [..., H, L, D / H]

    >>> split(torch.arange(8.0).view(2, 4), 2).tolist()
    [[[0.0, 1.0], [4.0, 5.0]], [[2.0, 3.0], [6.0, 7.0]]]
    """
    return states.unflatten(-1, (heads, -1)).transpose(-2, -3)


def merge(states: Tensor) -> Tensor:
    """[..., H, L, D / H] -> [..., L, D], what `split` has parted."""
    return states.transpose(-2, -3).flatten(-2)


def weights(logits: Tensor, dropout: float) -> Tensor:
    """Weights [..., Lq, Lk] of scaled products; minus infinity gets none, and a row needs one that is finite."""
    return drop(logits.softmax(-1), dropout, dropout > 0)


class Seen(NamedTuple):
    """What queries meet: the mask is True for real tokens, of a shape that the weights' first axes broadcast with."""

    keys: Tensor  # [..., H, L, D / H]
    values: Tensor  # [..., H, L, D / H]
    mask: Tensor  # [..., 1, 1, L] bool


def products(queries: Tensor, seen: Seen) -> Tensor:
    """Logits of an attention: [..., H, Lq, D / H] -> [..., H, Lq, L]."""
    scaled = queries * queries.shape[-1] ** -0.5
    return (scaled @ seen.keys.mT).masked_fill(~seen.mask, -torch.inf)


def attend(queries: Tensor, seen: Seen, dropout: float) -> Tensor:
    """Attention over one sequence: [B, H, Lq, D / H] -> [B, H, Lq, D / H]."""
    return weights(products(queries, seen), dropout) @ seen.values


def attend_beside(queries: Tensor, own: Seen, context: Seen, dropout: float) -> Tensor:
    """Attention of C candidates, each over the context and itself under one softmax.

    `queries` [G, H, C, Lq, D / H], `own` the same with L tokens each, `context` [B, H, L, D / H] with no axis of
    candidates -> [B, H, C, Lq, D / H]
    """
    shape = queries.shape[2:4]
    far = products(queries.flatten(2, 3), context).unflatten(2, shape)  # [B, H, C, Lq, L of the context]
    near = products(queries, own).expand(len(far), -1, -1, -1, -1)  # [B, H, C, Lq, L]
    far, near = weights(torch.cat([far, near], -1), dropout).split([far.shape[-1], near.shape[-1]], -1)
    return (far.flatten(2, 3) @ context.values).unflatten(2, shape) + near @ own.values


def finish(layer: Layer, attended: Tensor, residual: Tensor, dropout: float = 0.0) -> Tensor:
    """From what the heads have attended to, merged, to the layer's output: [..., L, D] each.

    `dropout` is the share to drop now: 0 when nothing is learnt.
    """
    return feed(layer, layer.attention_norm(drop(layer.out(attended), dropout, dropout > 0) + residual), dropout)


def feed(layer: Layer, states: Tensor, dropout: float = 0.0) -> Tensor:
    """The second half: the feed-forward with its residual and norm, [..., L, D]."""
    wide = layer.activation(layer.up(states))  # [..., L, 4 D]
    return layer.output_norm(drop(layer.down(wide), dropout, dropout > 0) + states)
