"""Access to the layers of a post-norm encoder of any family, for systems that run layers themselves.

    a  = softmax(q k^T / sqrt(d)) v              attention, for each head (`attention.py`)
    h' = norm(out(a) + h)                        layer_output, first half
    h  = norm(down(activation(up(h'))) + h')     layer_output, second half: feed_forward

Each system decides what the queries attend to, and under which mask.
"""

from contextlib import suppress
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop

from poly_agents.errors import InputError


class Layer(NamedTuple):
    """The modules of one layer. They stay the encoder's own: no weight is copied."""

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
LISTS = ("encoder.layer", "transformer.layer", "layers", "h", "encoder.block")  # where model families keep their layers


def path(model: nn.Module) -> str:
    """Return the name of the list of layers in a HuggingFace model. Raises ValueError for an unknown family."""
    for name in LISTS:
        with suppress(AttributeError):
            model.get_submodule(name)
            return name
    raise InputError(
        f"no list of layers was found in {model.config.model_type} (looked for {', '.join(LISTS)}); "
        "give another --backbone"
    )


def modules(model: nn.Module) -> nn.ModuleList:
    """Return the layers of a HuggingFace model, first to last."""
    return model.get_submodule(path(model))


def read(model: nn.Module) -> list[Layer]:
    """Return the parts of every layer, first to last. Raises ValueError for a family with other layers than BERT's."""
    config = model.config
    if config.model_type not in PATHS or getattr(config, "is_decoder", False):
        reason = "read from left to right" if config.model_type in PATHS else "are not built as BERT's"
        raise InputError(
            f"the layers of {config.model_type} {reason}, so they cannot be run apart; "
            f"give a --backbone of one of these families: {', '.join(PATHS)}"
        )
    paths = PATHS[config.model_type]
    return [
        Layer(*(reduce(getattr, name.split("."), layer) for name in paths), heads=config.num_attention_heads)
        for layer in modules(model)
    ]


def embed(model: nn.Module, ids: Tensor, positions: Tensor, segments: Tensor | None) -> Tensor:
    """Embed tokens for the first layer.

    Args:
        ids: [N, L].
        positions: [N, L], counted from 0.
        segments: [N, L], or None for a model that has none.

    Returns:
        [N, L, D]
    """
    embeddings = model.embeddings
    first = getattr(embeddings, "padding_idx", None)  # RoBERTa counts from padding_idx + 1
    inputs = {} if segments is None else {"token_type_ids": segments}
    states = embeddings(input_ids=ids, position_ids=positions + (0 if first is None else first + 1), **inputs)
    project = getattr(model, "embeddings_project", None)  # ELECTRA's embeddings may be narrower
    return states if project is None else project(states)


def affine(norm: nn.LayerNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a norm, [D] each, multiplied by its output scale if it has one (`ScaledNorm`)."""
    scale = getattr(norm, "scale", 1.0)
    return (norm.weight * scale).to(dtype), (norm.bias * scale).to(dtype)


def has_relative_positions(model: nn.Module) -> bool:
    """Tell whether attention depends on the distance of two tokens, as MPNet's does, and `attention.py` does not."""
    return hasattr(getattr(model, "encoder", None), "relative_attention_bias")


def layer_output(layer: Layer, attended: Tensor, residual: Tensor, dropout: float = 0.0) -> Tensor:
    """Finish a layer from the merged output of its heads.

    Args:
        attended: what the heads have attended to, [..., L, D].
        residual: the states that entered the layer, [..., L, D].
        dropout: the share to drop now, 0 outside of training.

    Returns:
        [..., L, D]
    """
    attended = drop(layer.out(attended), dropout, dropout > 0)
    return feed_forward(layer, layer.attention_norm(attended + residual), dropout)


def feed_forward(layer: Layer, states: Tensor, dropout: float = 0.0) -> Tensor:
    """Run a layer's feed-forward network with its residual and norm, [..., L, D] -> [..., L, D]."""
    wide = layer.activation(layer.up(states))  # [..., L, 4 D]
    return layer.output_norm(drop(layer.down(wide), dropout, dropout > 0) + states)
