"""Run the layers of a BERT-like encoder on a CPU, for inference: nothing is padded, and no weight is converted twice.

    [T, D]         every real token of the batch; what is done token by token is done to all of them at once
    [n, H, L, d]   a run of n texts of equal length; attention takes one run after another and needs no mask

Weights are copied into the order that oneDNN multiplies them in, query, key and value as one. The copies are made again
when a weight has changed.
"""

import os
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.activations import GELUActivation

from poly_agents.encoders import layers
from poly_agents.encoders.changes import versions
from poly_agents.text.tokens import Real, Tokens

CACHED_PROGRAMS = "32"


def limit_program_caches() -> None:
    """Have oneDNN keep few compiled programs.

    It keeps one for each of the last 1,024 shapes, and texts come in every shape: half a gigabyte that saves no time.
    torch and oneDNN read these variables when they run their first product.
    """
    for capacity in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(capacity, CACHED_PROGRAMS)


class Product:
    """One linear map, or several of the same input side by side."""

    def __init__(self, maps: Sequence[nn.Linear], dtype: torch.dtype):
        self.bias = torch.cat([part.bias for part in maps]).to(dtype)
        weight = torch.cat([part.weight for part in maps]).to(dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight)

    def __call__(self, rows: Tensor, activation: str = "none") -> Tensor:
        """Multiply, [T, D] -> [T, D']. The activation `gelu` is fused into the product."""
        return torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, activation, [], "none")

    def add_to(self, residual: Tensor, rows: Tensor) -> Tensor:
        """Multiply rows [T, D] and add the residual [T, D'] in the same pass: [T, D']."""
        return torch.ops.mkldnn._linear_pointwise.binary(rows, residual, self.weight, self.bias, "add")


class Run(NamedTuple):
    """Texts of equal length that follow one another."""

    texts: int
    length: int


class Batch(NamedTuple):
    """The input of the first layer."""

    states: Tensor  # [T, D]
    runs: list[Run]
    bias: Tensor | None  # [1, H, L, L], added to the logits
    real: Real
    between: list[Tensor] | None = None  # of each run, [n, 1, L, L]: 1 between the two texts of a row, else 0


class PackedLayer:
    """One layer."""

    def __init__(self, layer: layers.Layer, dtype: torch.dtype):
        self.heads = layer.heads
        self.query_key_value = Product([layer.query, layer.key, layer.value], dtype)
        self.out, self.up, self.down = (Product([part], dtype) for part in (layer.out, layer.up, layer.down))
        norms = layer.attention_norm, layer.output_norm
        self.norms = [(*layers.affine(part, dtype), part.eps) for part in norms]
        self.activation = None if isinstance(layer.activation, GELUActivation) else layer.activation
        self.attention = stepwise_attention if dtype == torch.bfloat16 else scaled_dot_product_attention

    def __call__(self, states: Tensor, batch: Batch, first: bool = False, between: Tensor | None = None) -> Tensor:
        """Run the layer, [T, D] -> [T, D]; with `first`, for the first token of each text alone, [N, D].

        `between` is added to the logits between the two texts of a row, [H].
        """
        attended = self.attend(self.query_key_value(states), batch, first, between)
        if first:
            states = torch.cat([part[:, 0] for part in split_runs(states, batch.runs)])
        states = self.norm(0, self.out.add_to(states, attended))
        wide = self.up(states, "gelu") if self.activation is None else self.activation(self.up(states))
        return self.norm(1, self.down.add_to(states, wide))

    def norm(self, number: int, states: Tensor) -> Tensor:
        weight, bias, eps = self.norms[number]
        return nn.functional.layer_norm(states, weight.shape, weight, bias, eps)

    def attend(self, query_key_value: Tensor, batch: Batch, first: bool, between: Tensor | None) -> Tensor:
        """Attend within each text: queries, keys and values [T, 3 D] -> [T, D], or [N, D] with `first`."""
        parts = []
        for number, part in enumerate(split_runs(query_key_value, batch.runs)):
            queries, keys, values = part.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [n, H, L, d]
            queries = queries[:, :, :1] if first else queries
            bias = None if batch.bias is None else batch.bias[..., : queries.shape[2], : keys.shape[2]]
            if between is not None:
                bias = batch.between[number] * between.view(1, -1, 1, 1)  # [n, H, L, L]
            parts.append(self.attention(queries, keys, values, bias).transpose(1, 2).flatten(2).flatten(0, 1))
        return torch.cat(parts)


def stepwise_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Run torch's attention step by step. In bfloat16 the fused one is slower from 14 to 360 tokens (MiniLM)."""
    logits = (queries * queries.shape[-1] ** -0.5) @ keys.mT
    return (logits if bias is None else logits + bias).softmax(-1) @ values


def split_runs(rows: Tensor, runs: Sequence[Run]) -> list[Tensor]:
    """Split packed rows into runs: [T, D] -> [n, L, D] each."""
    parts = rows.split([run.texts * run.length for run in runs])
    return [part.view(*run, -1) for part, run in zip(parts, runs, strict=True)]


class PackedEncoder:
    """An encoder's layers, with its weights as they were when this was made."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, segments: bool):
        self.model, self.dtype, self.segments = model, dtype, segments
        self.versions = versions(layers.modules(model).parameters())
        self.layers = [PackedLayer(layer, dtype) for layer in layers.read(model)]

    def is_current(self) -> bool:
        """Tell whether the model still has the weights that were copied."""
        return self.versions == versions(layers.modules(self.model).parameters())

    def hidden(self, tokens: Tokens, after: Sequence[int]) -> list[Tensor]:
        """Return states [N, L, D] in float32 after some of the layers, zeros for padding. 0 is before the first."""
        batch = self.pack(tokens)
        outputs = {0: (states := batch.states)}
        for number, layer in enumerate(self.layers[: max(after)], 1):
            outputs[number] = states = layer(states, batch)
        return [batch.real.unpack(outputs[number].float()) for number in after]

    def first(self, tokens: Tokens) -> Tensor:
        """Return the last states of each row's first token, [N, D] in float32. The last layer runs for them alone."""
        batch = self.pack(tokens)
        states = batch.states
        for number, layer in enumerate(self.layers, 1):
            states = layer(states, batch, first=number == len(self.layers))
        return Real.of(tokens.mask.any(-1)).unpack(states.float())

    def apart(self, first: Tokens, second: Tokens, biases: Tensor) -> tuple[Tensor, Tensor]:
        """Run two framed texts, [N, L] and [N, L'], that read each other under a bias, as `arrow.run` does.

        Args:
            first: one text of each row.
            second: the other one. Its positions start at 0, too.
            biases: what each layer adds to the logits between the two, [layers, H].

        Returns:
            The last states, [N, L, D] and [N, L', D] in float32.
        """
        lengths = first.ids.shape[1], second.ids.shape[1]
        tokens = Tokens(*(torch.cat(fields, 1) for fields in zip(first, second, strict=True)))
        batch = self.pack(tokens, torch.cat([first.places, second.places], 1))
        is_second = (torch.arange(sum(lengths)) >= lengths[0]).expand_as(tokens.ids)
        sides = split_runs(batch.real.pack(is_second).unsqueeze(1), batch.runs)  # [n, L + L', 1] each
        batch = batch._replace(between=[(side != side.mT).unsqueeze(1).to(self.dtype) for side in sides])
        states = batch.states
        for layer, bias in zip(self.layers, biases.to(self.dtype), strict=True):
            states = layer(states, batch, between=bias)
        return batch.real.unpack(states.float()).split(lengths, 1)

    def pack(self, tokens: Tokens, positions: Tensor | None = None) -> Batch:
        """Embed framed tokens [N, L] at their positions. Rows of equal length should follow one another."""
        real = Real.of(tokens.mask)
        positions = tokens.places if positions is None else positions
        ids, positions, segments = (real.pack(part).unsqueeze(0) for part in (tokens.ids, positions, tokens.segments))
        states = layers.embed(self.model, ids, positions, segments if self.segments else None)  # [1, T, D]
        lengths = groupby(tokens.mask.sum(-1).tolist())
        bias = None
        if layers.has_relative_positions(self.model):
            bias = self.model.encoder.compute_position_bias(tokens.mask[:1].unsqueeze(-1)).to(self.dtype)
        runs = [Run(len(list(same)), length) for length, same in lengths if length]
        return Batch(states.squeeze(0).to(self.dtype), runs, bias, real)


def can_run(model: nn.Module, dtype: torch.dtype, tokens: Tokens) -> bool:
    """Tell whether these tokens can be run without padding here and now."""
    return (
        not torch.is_grad_enabled()
        and tokens.ids.device.type == "cpu"
        and dtype in native_types()
        and model.config.model_type in layers.PATHS
    )


@cache
def native_types() -> set[torch.dtype]:
    """Return the types that oneDNN multiplies on this processor."""
    if not torch.backends.mkldnn.is_available():
        return set()
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return {torch.float32, torch.bfloat16}
    return {torch.float32}
