"""The layers of a BERT-like encoder on a processor, for inference: nothing is padded, and no weight is converted twice.

    [T, D]         every real token of the batch; whatever is done token by token is done to all of them at once
    [n, H, L, d]   n texts of equal length, a run: attention takes one run after another and needs no mask

Weights are copied into the order that oneDNN multiplies them in, query, key and value as one; a copy is made anew when
a weight has changed.
"""

import os
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.activations import GELUActivation

from poly_agents.encoders import layers
from poly_agents.text.tokens import Real, Tokens

if TYPE_CHECKING:
    from poly_agents.encoders.backbone import Backbone

# oneDNN keeps a program for each of the last 1,024 shapes, and texts come in every shape: half a gigabyte that saves no
# time. Both caches, torch's and its own, are sized when first used.
for capacity in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(capacity, "32")


class Product:
    """One or several linear maps of the same input, side by side."""

    def __init__(self, maps: Sequence[nn.Linear], dtype: torch.dtype):
        self.bias = torch.cat([part.bias for part in maps]).to(dtype)
        weight = torch.cat([part.weight for part in maps]).to(dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight)

    def __call__(self, rows: Tensor, activation: str = "none") -> Tensor:
        """[T, D] -> [T, D']; `gelu` is done on the way out."""
        return torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, activation, [], "none")

    def onto(self, rows: Tensor, residual: Tensor) -> Tensor:
        """[T, D] -> [T, D'], added to the residual [T, D'] on the way out."""
        return torch.ops.mkldnn._linear_pointwise.binary(rows, residual, self.weight, self.bias, "add")


class Run(NamedTuple):
    """Texts of equal length that follow one another."""

    texts: int
    length: int


class Batch(NamedTuple):
    """What the first layer takes."""

    states: Tensor  # [T, D]
    runs: list[Run]
    bias: Tensor | None  # [1, H, L, L], added to the logits
    real: Real


class Packed:
    """One layer."""

    def __init__(self, layer: layers.Layer, dtype: torch.dtype):
        self.heads = layer.heads
        self.asked = Product([layer.query, layer.key, layer.value], dtype)
        self.out, self.up, self.down = (Product([part], dtype) for part in (layer.out, layer.up, layer.down))
        norms = layer.attention_norm, layer.output_norm
        self.norms = [(*layers.affine(part, dtype), part.eps) for part in norms]
        self.activation = None if isinstance(layer.activation, GELUActivation) else layer.activation
        self.attention = products if dtype == torch.bfloat16 else scaled_dot_product_attention

    def __call__(self, states: Tensor, batch: Batch, first: bool = False) -> Tensor:
        """[T, D] -> [T, D]; with `first` each text's first token alone, [N, D]."""
        attended = self.attend(self.asked(states), batch, first)
        if first:
            states = torch.cat([part[:, 0] for part in texts(states, batch.runs)])
        states = self.norm(0, self.out.onto(attended, states))
        wide = self.up(states, "gelu") if self.activation is None else self.activation(self.up(states))
        return self.norm(1, self.down.onto(wide, states))

    def norm(self, number: int, states: Tensor) -> Tensor:
        weight, bias, eps = self.norms[number]
        return nn.functional.layer_norm(states, weight.shape, weight, bias, eps)

    def attend(self, asked: Tensor, batch: Batch, first: bool) -> Tensor:
        """Queries, keys and values [T, 3 D] -> what the heads have attended to, [T, D] or [N, D]."""
        parts = []
        for part in texts(asked, batch.runs):
            queries, keys, values = part.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [n, H, L, d]
            queries = queries[:, :, :1] if first else queries
            bias = None if batch.bias is None else batch.bias[..., : queries.shape[2], : keys.shape[2]]
            parts.append(self.attention(queries, keys, values, bias).transpose(1, 2).flatten(2).flatten(0, 1))
        return torch.cat(parts)


def products(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """torch's own attention in its steps: in bfloat16, from 14 tokens to 360, faster than the fused one (MiniLM)."""
    logits = (queries * queries.shape[-1] ** -0.5) @ keys.mT
    return (logits if bias is None else logits + bias).softmax(-1) @ values


def texts(rows: Tensor, runs: Sequence[Run]) -> list[Tensor]:
    """The texts of each run apart: [T, D] -> [n, L, D] each."""
    parts = rows.split([run.texts * run.length for run in runs])
    return [part.view(*run, -1) for part, run in zip(parts, runs, strict=True)]


class Copies:
    """An encoder's layers as they were when this was made."""

    def __init__(self, encoder: "Backbone"):
        self.made_of = signature(encoder)
        self.layers = [Packed(layer, encoder.dtype) for layer in layers.read(encoder)]

    def hidden(self, encoder: "Backbone", tokens: Tokens, after: Sequence[int]) -> list[Tensor]:
        """States [N, L, D] in float32 after some of the layers, zeros for padding; 0: before the first."""
        batch = pack(encoder, tokens)
        found = {0: (states := batch.states)}
        for number, layer in enumerate(self.layers[: max(after)], 1):
            found[number] = states = layer(states, batch)
        return [batch.real.unpack(found[number].float()) for number in after]

    def first(self, encoder: "Backbone", tokens: Tokens) -> Tensor:
        """The last states of each row's first token, [N, D] in float32: the last layer is run for them alone."""
        batch = pack(encoder, tokens)
        states = batch.states
        for number, layer in enumerate(self.layers, 1):
            states = layer(states, batch, first=number == len(self.layers))
        return Real.of(tokens.mask.any(-1)).unpack(states.float())


def pack(encoder: "Backbone", tokens: Tokens) -> Batch:
    """Embed framed tokens [N, L]; rows of equal length should follow one another."""
    real = Real.of(tokens.mask)
    places = tokens.mask.cumsum(-1) - 1
    inputs = (real.pack(part).unsqueeze(0) for part in (tokens.ids, places, tokens.segments))  # [1, T] each
    states = layers.embed(encoder, *inputs).squeeze(0).to(encoder.dtype)
    lengths = groupby(tokens.mask.sum(-1).tolist())
    bias = None
    if layers.relative(encoder):
        bias = encoder.model.encoder.compute_position_bias(tokens.mask[:1].unsqueeze(-1)).to(encoder.dtype)
    return Batch(states, [Run(len(list(same)), length) for length, same in lengths if length], bias, real)


def signature(encoder: "Backbone") -> list[tuple[int, int]]:
    """Which weights the layers have: where they are, and how often each was changed."""
    return [(part.data_ptr(), part._version) for part in encoder.layers.parameters()]


def suits(encoder: "Backbone", tokens: Tokens) -> bool:
    """Whether this is the way to run it now."""
    return (
        not (torch.is_grad_enabled() or encoder.training)
        and tokens.ids.device.type == "cpu"
        and encoder.dtype in multiplied()
        and encoder.model.config.model_type in layers.PATHS
    )


@cache
def multiplied() -> set[torch.dtype]:
    """The types that oneDNN multiplies on this processor."""
    if not torch.backends.mkldnn.is_available():
        return set()
    return {torch.float32, *([torch.bfloat16] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else [])}
