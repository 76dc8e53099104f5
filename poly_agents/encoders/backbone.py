"""Tokens -> states: a HuggingFace encoder and the precision it runs in."""

import copy
import inspect
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from poly_agents.encoders import layers, packed
from poly_agents.encoders.loading import T5, is_causal, load_pretrained, text_model
from poly_agents.encoders.precision import attention
from poly_agents.encoders.states import by_length
from poly_agents.errors import InputError, first_line
from poly_agents.text.tokens import Tokens

UNLIMITED = 2**20  # positions of a model that uses distances between tokens instead


class Backbone(nn.Module):
    """A HuggingFace encoder without its pooler.

    Master weights stay float32 while training. The matrix products run in `dtype` under autocast.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        super().__init__()
        packed.limit_program_caches()
        if hasattr(model, "pooler"):
            model.pooler = None  # trained for another task; no system here reads it
        config = model.config
        self.is_t5 = config.model_type in T5
        if self.is_t5 and dtype == torch.float16:
            raise InputError("--precision float16: T5's states outgrow its range; give bfloat16 or float32")
        self.model = model
        self.dtype = dtype
        self._packed: packed.PackedEncoder | None = None
        self.width: int | None = getattr(config, "hidden_size", None)
        if self.width is None:
            raise InputError(f"a {config.model_type} is no encoder of texts; give another --backbone")
        takes_segments = "token_type_ids" in inspect.signature(model.forward).parameters
        self.segments = takes_segments and getattr(config, "type_vocab_size", 0) > 1
        offset = getattr(getattr(model, "embeddings", None), "padding_idx", None)  # RoBERTa counts from padding_idx + 1
        positions = getattr(config, "max_position_embeddings", None) or UNLIMITED
        self.positions: int = UNLIMITED if positions < 0 else positions - (0 if offset is None else offset + 1)
        self.causal = is_causal(model)
        if self.causal:
            config.use_cache = False  # keys and values of earlier tokens are for generating text
        if self.is_t5:
            model.encoder.embed_tokens = None  # another name of `shared`

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy gets, in this process or another one. It lays its weights out again when it runs."""
        return vars(self) | {"_packed": None}

    @classmethod
    def downloaded(cls, source: str, dtype: torch.dtype) -> Self:
        """Load an encoder by HuggingFace name or folder.

        Raises:
            ValueError: as `load_pretrained`; or it is no encoder of texts.
        """
        from transformers import AutoConfig

        encoder = cls(load_pretrained(text_model(AutoConfig.from_pretrained(source).model_type), source), dtype)
        encoder.try_out(source)
        return encoder

    @classmethod
    def blank(cls, config: dict[str, Any], dtype: torch.dtype, stored: torch.dtype = torch.float32) -> Self:
        """Build the architecture of another encoder with random weights.

        Args:
            config: what `config` of the other one returns.
            dtype: the type of the matrix products.
            stored: the type that the weights are held in.
        """
        from transformers import AutoConfig

        config = AutoConfig.for_model(**config)
        auto = text_model(config.model_type)
        return cls(auto.from_config(config, dtype=stored, attn_implementation=attention()), dtype)

    def try_out(self, source: str) -> None:
        """Run two tokens. Raises ValueError that names `source` if the model cannot be run as an encoder of texts."""
        ids = torch.tensor([[0, 1]], device=next(self.parameters()).device)
        try:
            with torch.no_grad():
                self(Tokens(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids)))
        except Exception as error:  # whatever a model of an unknown family raises
            raise InputError(
                f"{source}, a {self.model.config.model_type}, does not run as an encoder of texts "
                f"({first_line(error)}); give another --backbone"
            ) from error

    @property
    def config(self) -> dict[str, Any]:
        """Return the configuration that `blank` needs, as JSON."""
        return self.model.config.to_diff_dict() | {"model_type": self.model.config.model_type}

    @property
    def layers(self) -> nn.ModuleList:
        """Return the layers of the encoder, first to last."""
        return layers.modules(self.model)

    def cut(self, count: int) -> Self:
        """Keep only the first `count` layers. The others are neither kept nor run."""
        if not 1 <= count <= len(self.layers):
            raise InputError(f"the encoder has {len(self.layers)} layers; {count} of them cannot be kept")
        del self.layers[count:]
        config = self.model.config
        config.num_hidden_layers = count
        if getattr(config, "layer_types", None):  # ModernBERT's also lists what each layer is
            config.layer_types = config.layer_types[:count]
        return self

    def renew(self, kept: int | None) -> Self:
        """Give random weights to the layers after the first `kept` ones. With None, to the embeddings too."""
        blank = type(self).blank(self.config, self.dtype)
        if kept is None:
            self.model.load_state_dict(blank.model.state_dict())
        else:
            self.layers[kept:].load_state_dict(blank.layers[kept:].state_dict())
        return self

    def freeze_embeddings(self) -> None:
        """Leave the word embeddings as they are (Humeau et al. 2020, Table 3: as good, and faster)."""
        self.model.get_input_embeddings().weight.requires_grad_(False)

    def set_dropout(self, share: float) -> None:
        """Set one rate for everything that the model drops, states and attention."""
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = share
            if isinstance(getattr(module, "attention_dropout", None), float):  # ModernBERT reads a plain number
                module.attention_dropout = share
            if hasattr(module, "has_relative_attention_bias"):  # so does T5's attention
                module.dropout = share

    def forward(self, tokens: Tokens, before: Tensor | None = None) -> Tensor:
        """Run the encoder.

        Args:
            tokens: framed tokens [N, L].
            before: vectors [K, D] to put before the tokens of each row.

        Returns:
            States [N, L, D] in float32, or [N, K + L, D].
        """
        if before is None and (encoder := self.packed_now(tokens)):
            return encoder.hidden(tokens, [len(self.layers)])[0]
        return self._run(self.model, tokens, before).last_hidden_state.float()

    def first(self, tokens: Tokens) -> Tensor:
        """Return the last states of each row's first token, [N, D]."""
        encoder = self.packed_now(tokens)
        return encoder.first(tokens) if encoder else self(tokens)[:, 0]

    def hidden(self, tokens: Tokens, after: Sequence[int]) -> list[Tensor]:
        """Return the states after some of the layers, [N, L, D] each.

        Args:
            tokens: framed tokens [N, L].
            after: numbers of layers, counted from 1; 0 is before the first. Layers above the last one are not run.
        """
        if encoder := self.packed_now(tokens):
            return encoder.hidden(tokens, after)
        inputs: list[Tensor] = []
        thread = get_ident()

        def keep(layer, args, kwargs):  # transformers would leave its hooks in the layers, which are shared
            if get_ident() == thread:  # another thread may run the same layers now
                inputs.append(args[0] if args else kwargs["hidden_states"])

        count = max(1, *after)
        hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in self.layers[:count]]
        try:
            inputs.append(self._run(self._below(count), tokens).last_hidden_state)
        finally:
            for hook in hooks:
                hook.remove()
        return [inputs[number].float() for number in after]

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context that this encoder's matrix products run in, for systems that run a part of it."""
        return torch.autocast(device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def _run(self, model: nn.Module, tokens: Tokens, before: Tensor | None = None) -> Any:
        inputs = {"input_ids": tokens.ids}
        if self.is_t5:  # it adds up its layers in float32, or loses precision
            inputs = {"inputs_embeds": self.model.get_input_embeddings()(tokens.ids).float()}
        if before is not None:
            words = model.get_input_embeddings()(tokens.ids)
            rows = before.to(words.dtype).expand(len(words), -1, -1)
            inputs = {"inputs_embeds": torch.cat([rows, words], 1)}
            front = (len(before), 0)
            tokens = Tokens(tokens.ids, pad(tokens.mask, front, value=True), pad(tokens.segments, front))
        if self.segments:
            inputs["token_type_ids"] = tokens.segments
        with self.autocast(tokens.ids.device):
            return model(attention_mask=tokens.mask.long(), **inputs)

    def packed_now(self, tokens: Tokens) -> packed.PackedEncoder | None:
        """Return the encoder that runs without padding, with today's weights, or None where it cannot be used."""
        encoder = self._packed  # other threads may set it meanwhile
        if self.training or self.causal or not packed.can_run(self.model, self.dtype, tokens):
            encoder = None  # a training step may follow, and a fused optimizer changes weights without a trace
        elif encoder is None or not encoder.is_current():
            encoder = packed.PackedEncoder(self.model, self.dtype, self.segments)
        self._packed = encoder
        return encoder

    def _below(self, count: int) -> nn.Module:
        """Return the model's first layers, as a copy that shares every weight."""
        model = holder = shallow_copy(self.model)
        *path, name = layers.path(self.model).split(".")
        for step in path:
            setattr(holder, step, shallow_copy(getattr(holder, step)))
            holder = getattr(holder, step)
        setattr(holder, name, self.layers[:count])
        return model


def reduced_states(encoder: Backbone, tokens: Tokens, reduce: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Run an encoder by length and reduce the states of each run before they are put together.

    Args:
        tokens: framed tokens [N, L].
        reduce: takes states [n, l, D] and mask [n, l], and returns one row for each, [n, ...].

    Returns:
        [N, ...]
    """
    return by_length(lambda part: reduce(encoder(part), part.mask), tokens)


def shallow_copy(module: nn.Module) -> nn.Module:
    """Copy a module but not its parts, so that a part can be exchanged without changing the original."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
