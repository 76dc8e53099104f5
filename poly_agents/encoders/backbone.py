"""Tokens -> states: a transformers encoder, its precision, and batching by length."""

import copy
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from poly_agents.encoders import packed
from poly_agents.files import checkpoint
from poly_agents.text.tokens import Tokens

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
LAYERS = ("encoder.layer", "transformer.layer", "layers")  # where families keep them
TOKEN_BUDGET = {"cpu": 2048, "cuda": 65536}  # padded tokens in one run


class Backbone(nn.Module):
    """A HuggingFace encoder without its pooler.

    Master weights stay float32 while training; the products run in `dtype` under autocast.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        super().__init__()
        if hasattr(model, "pooler"):
            model.pooler = None  # trained for another task; no system here reads it
        self.model = model
        self.dtype = dtype
        self._copies: packed.Copies | None = None
        self.width: int = model.config.hidden_size
        takes_segments = "token_type_ids" in inspect.signature(model.forward).parameters
        self.segments = takes_segments and getattr(model.config, "type_vocab_size", 0) > 1
        offset = getattr(getattr(model, "embeddings", None), "padding_idx", None)  # RoBERTa counts from padding_idx + 1
        self.positions: int = model.config.max_position_embeddings - (0 if offset is None else offset + 1)

    @classmethod
    def pretrained(cls, source: str, dtype: torch.dtype) -> Self:
        """By HuggingFace name or folder, or the encoder of a model file of ours.

        A checkpoint that lacks weights is refused, never filled with random ones.
        """
        return cls.trained(source, dtype) if Path(source).is_file() else cls.downloaded(source, dtype)

    @classmethod
    def trained(cls, model_file: str, dtype: torch.dtype) -> Self:
        """The context's encoder of a model that any ranker here has saved."""
        saved = checkpoint.read(model_file)
        with unfilled():
            encoder = cls.blank(saved.header["backbone"], dtype)
        prefix = "context_encoder.model."
        own = {f"{prefix}{name}": tensor for name, tensor in encoder.model.state_dict().items()}
        wrong = sorted(own.keys() ^ {name for name in saved.weights if name.startswith(prefix)})
        if wrong:
            raise ValueError(f"the encoder in {model_file} does not fit here, first {wrong[0].removeprefix(prefix)!r}")
        for name, tensor in own.items():
            tensor.copy_(saved.weights.pop(name))
        return encoder

    @classmethod
    def downloaded(cls, folder: str, dtype: torch.dtype) -> Self:
        """By HuggingFace name or folder."""
        from transformers import AutoModel
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # it takes a moment, and would break up ParlAI's lines
        model, report = AutoModel.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention(), output_loading_info=True
        )
        missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
        if missing:
            raise ValueError(f"the checkpoint {folder} lacks {len(missing)} weights of its encoder: {missing[:3]} ...")
        return cls(model, dtype)

    @classmethod
    def blank(cls, config: dict[str, Any], dtype: torch.dtype, kept: torch.dtype = torch.float32) -> Self:
        """The architecture with random weights, kept in a type, from what `config` of another one holds."""
        from transformers import AutoConfig, AutoModel

        from poly_agents.pretrained import parlai_transformer  # noqa: F401

        config = AutoConfig.for_model(**config)
        return cls(AutoModel.from_config(config, dtype=kept, attn_implementation=attention()), dtype)

    @property
    def config(self) -> dict[str, Any]:
        """All that `blank` needs, as JSON."""
        return self.model.config.to_diff_dict() | {"model_type": self.model.config.model_type}

    @property
    def layers(self) -> nn.ModuleList:
        """The layers of the encoder, first to last."""
        return self.model.get_submodule(self._layers_at)

    @property
    def _layers_at(self) -> str:
        names = {name for name, _ in self.model.named_modules()}
        place = next((path for path in LAYERS if path in names), None)
        if place is None:
            raise ValueError(f"where {self.model.config.model_type} keeps its layers is not known here; take another")
        return place

    def cut(self, count: int) -> Self:
        """Keep only the first `count` layers; the others are neither kept nor run."""
        if not 1 <= count <= len(self.layers):
            raise ValueError(f"the encoder has {len(self.layers)} layers; {count} of them cannot be kept")
        del self.layers[count:]
        config = self.model.config
        config.num_hidden_layers = count
        if getattr(config, "layer_types", None):  # ModernBERT's also lists what each layer is
            config.layer_types = config.layer_types[:count]
        return self

    def renew(self, kept: int | None) -> Self:
        """Give random weights to the layers after the first `kept` ones; with None to the embeddings too."""
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
        """One rate for all that the model drops: states and attention."""
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = share
            if isinstance(getattr(module, "attention_dropout", None), float):  # ModernBERT reads a plain number
                module.attention_dropout = share

    def forward(self, tokens: Tokens, before: Tensor | None = None) -> Tensor:
        """Framed tokens [N, L] -> states [N, L, D] in float32; with vectors [K, D] `before` them, [N, K + L, D]."""
        if before is None and self._packs(tokens):
            return self._copies.hidden(self, tokens, [len(self.layers)])[0]
        return self._run(self.model, tokens, before).last_hidden_state.float()

    def first(self, tokens: Tokens) -> Tensor:
        """The states of each row's first token, [N, D]."""
        return self._copies.first(self, tokens) if self._packs(tokens) else self(tokens)[:, 0]

    def hidden(self, tokens: Tokens, after: Sequence[int]) -> list[Tensor]:
        """States [N, L, D] after some of the layers; 0: before the first. Layers above the last one are not run."""
        if self._packs(tokens):
            return self._copies.hidden(self, tokens, after)
        found: list[Tensor] = []

        def keep(layer, args, kwargs):  # transformers' own way of it hooks into layers for good, and these are shared
            found.append(args[0] if args else kwargs["hidden_states"])

        count = max(1, *after)
        hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in self.layers[:count]]
        try:
            found.append(self._run(self._below(count), tokens).last_hidden_state)
        finally:
            for hook in hooks:
                hook.remove()
        return [found[number].float() for number in after]

    def autocast(self, device: torch.device) -> torch.autocast:
        """The precision of its runs, for whoever runs a part of it."""
        return torch.autocast(device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def _run(self, model: nn.Module, tokens: Tokens, before: Tensor | None = None) -> Any:
        inputs = {"input_ids": tokens.ids}
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

    def _packs(self, tokens: Tokens) -> bool:
        """Whether to run without padding now; then the copies are those of the weights as they are."""
        if not packed.suits(self, tokens):
            self._copies = None  # to learn, perhaps: a fused optimiser changes weights and leaves no mark
        elif self._copies is None or self._copies.made_of != packed.signature(self):
            self._copies = packed.Copies(self)
        return self._copies is not None

    def _below(self, count: int) -> nn.Module:
        """The model's first layers, as a copy that shares every weight."""
        model = holder = shallow(self.model)
        *path, name = self._layers_at.split(".")
        for step in path:
            setattr(holder, step, shallow(getattr(holder, step)))
            holder = getattr(holder, step)
        setattr(holder, name, self.layers[:count])
        return model


def unfilled():
    """A context in which new modules have memory but no numbers: what is loaded next need not be drawn before."""
    from transformers.initialization import no_init_weights

    return no_init_weights()


def by_length(run: Callable[[Tokens], Tensor], tokens: Tokens) -> Tensor:
    """Apply `run` ([N, L] -> [N, ...]) to rows of like length together, under a budget of padded tokens.

    The longest come first, so a batch that does not fit in memory fails at once and not after an hour.
    """
    budget = TOKEN_BUDGET.get(tokens.ids.device.type, 2048)
    lengths, order = tokens.mask.sum(-1).sort(descending=True)
    lengths = lengths.tolist()
    outputs, start = [], 0
    while start < len(lengths):
        length = max(1, lengths[start])
        rows = order[start : start + max(1, budget // length)]
        outputs.append(run(tokens.select(rows).cut(length)))
        start += len(rows)
    return chain(outputs)[order.argsort()]


def chain(parts: Sequence[Any]) -> Any:
    """Put rows from several runs together, [N, ...] each: tensors, or NamedTuples of them. Token axes are padded."""
    if not isinstance(parts[0], Tensor):
        return type(parts[0])(*(chain(field) for field in zip(*parts, strict=True)))
    if parts[0].dim() > 1 and any(part.shape[1] != parts[0].shape[1] for part in parts):
        widest = max(part.shape[1] for part in parts)
        grown = [0, 0] * (parts[0].dim() - 2)
        parts = [pad(part, (*grown, 0, widest - part.shape[1])) for part in parts]
    return torch.cat(list(parts))


def shallow(module: nn.Module) -> nn.Module:
    """Another module of the same parts; one can be exchanged without changing the first."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def attention() -> str:
    """On CPU plain attention trains 1.4 times faster than the fused one (MiniLM, bf16); on GPU the fused one wins."""
    return "sdpa" if torch.cuda.is_available() else "eager"


def choose_dtype(precision: str, device: str) -> torch.dtype:
    """`auto` is bfloat16 where the processor or the GPU multiplies it natively, else float32."""
    if precision == "auto":
        native = torch.cuda.is_bf16_supported(False) if device == "cuda" else torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if native else torch.float32
    return getattr(torch, precision)
