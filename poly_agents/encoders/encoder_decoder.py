"""Tokens -> states of an encoder-decoder of the T5 family, and one decoder pass over many texts.

Shapes: M encoded texts, R texts read over each of them, P = 1 (the same for each) or M, T tokens, H heads.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from torch.utils.checkpoint import checkpoint as recompute

from poly_agents.encoders.attention import merge, split, weights
from poly_agents.encoders.backbone import Backbone
from poly_agents.encoders.precision import attention
from poly_agents.encoders.states import TokenStates, token_budget
from poly_agents.text.tokens import Tokens

FAMILIES = ("t5", "mt5", "umt5")
LOGITS = 2**25  # held at a time: a vocabulary is large


class EncoderDecoder(Backbone):
    """A HuggingFace encoder-decoder of the T5 family, each weight under one name."""

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        config = model.config
        config.max_position_embeddings = 2**20  # T5 knows distances, not positions: any length
        config.tied_output = model.lm_head.weight is model.shared.weight
        super().__init__(model, dtype)
        model.encoder.embed_tokens = model.decoder.embed_tokens = None  # `shared` again
        if config.tied_output:
            model.lm_head = None
        # T5 scales what meets tied embeddings. Configurations written by transformers 5 say whether; older ones do not.
        scaled = config.tied_output and getattr(config, "scale_decoder_outputs", True)
        self.output_scale: float = config.d_model**-0.5 if scaled else 1.0
        start = getattr(config, "decoder_start_token_id", None)
        self.start: int = config.pad_token_id if start is None else start

    @classmethod
    def downloaded(cls, folder, dtype):
        from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # it takes a moment, and would break up ParlAI's lines
        refuse_others(AutoConfig.from_pretrained(folder).model_type, folder)
        model, report = AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention(), output_loading_info=True
        )
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            raise ValueError(f"the checkpoint {folder} lacks {len(missing)} of its weights: {missing[:3]} ...")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        answers = [first_piece(tokenizer, word) for word in ("true", "false")]
        if answers[0] == answers[1]:
            raise ValueError(
                f"'true' and 'false' both begin with {tokenizer.convert_ids_to_tokens(answers[0])!r} in the vocabulary "
                f"of {folder}; give a --backbone that tells them apart, for example google/flan-t5-small"
            )
        model.config.answers = answers  # travels with the configuration into every model file
        return cls(model, dtype)

    @classmethod
    def blank(cls, config, dtype, stored=torch.float32):
        from transformers import AutoConfig, AutoModelForSeq2SeqLM

        refuse_others(config["model_type"], "the model file")
        config = AutoConfig.for_model(**config)
        model = AutoModelForSeq2SeqLM.from_config(config, dtype=stored, attn_implementation=attention())
        if not config.tied_output:  # transformers 5 ties every T5 that it makes
            model.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        else:
            model.tie_weights()  # which it does not where its weights are not drawn
        return cls(model, dtype)

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.encoder.block

    @property
    def output(self) -> Tensor:
        """The output embedding, a row a word: [V, D]."""
        return self.model.shared.weight if self.model.lm_head is None else self.model.lm_head.weight

    def set_dropout(self, share):
        super().set_dropout(share)
        for module in self.model.modules():
            if hasattr(module, "has_relative_attention_bias"):  # an attention: it reads a plain number
                module.dropout = share

    def forward(self, tokens: Tokens) -> Tensor:
        """Framed tokens [N, L] -> the encoder's states [N, L, D] in float32."""
        with self.autocast(tokens.ids.device):
            embedded = self.model.shared(tokens.ids).float()  # T5 adds up its layers in float32, or loses them
            return self.model.encoder(
                inputs_embeds=embedded, attention_mask=tokens.mask.long()
            ).last_hidden_state.float()

    def read(self, texts: Tokens, encoded: TokenStates, reduce: Callable[[Tensor, Tokens], Tensor]) -> Tensor:
        """Decode bare texts [P, R, T] over encoded ones [M, L, D]; keep `reduce(states, texts)`: [M, R, K].

        Rows of like length go together, under a budget of padded tokens. What the decoder reads of an encoded text is
        computed once and met by all R texts; none of it is copied.
        """
        budget = token_budget(texts.ids.device)
        lengths, order = texts.mask.sum(-1).sort(-1, descending=True)  # [P, R]
        texts = Tokens(*(part.gather(1, order.unsqueeze(-1).expand_as(part)) for part in texts))
        memory_lengths = encoded.mask.sum(-1)  # [M]
        rows = (lengths[:, 0] * (encoded.mask.shape[-1] + 1) + memory_lengths).argsort(descending=True)  # [M]
        parts, start = [], 0
        with self.autocast(texts.ids.device):
            while start < len(rows):
                steps = 1 + int(lengths[rows[start] if len(lengths) > 1 else 0, 0])
                at_once = min(lengths.shape[1], max(1, budget // steps))  # of the texts that go over one memory
                own = rows[start : start + max(1, budget // (steps * at_once))]
                length = max(1, int(memory_lengths[own].max()))
                part = TokenStates(encoded.vectors[own, :length], encoded.mask[own, :length])
                parts.append(self._read(texts.select(own) if len(lengths) > 1 else texts, part, reduce, budget))
                start += len(own)
        found = torch.cat(parts)[rows.argsort()]  # [M, R, K]
        return found.gather(1, order.argsort(-1).unsqueeze(-1).expand_as(found))

    def _read(self, texts: Tokens, encoded: TokenStates, reduce: Callable, budget: int) -> Tensor:
        vectors = encoded.vectors if self.dtype == torch.float32 else encoded.vectors.to(self.dtype)
        memory = [Memory(block.layer[1].EncDecAttention, vectors) for block in self.model.decoder.block]
        real = encoded.mask | ~encoded.mask.any(-1, keepdim=True)  # no candidate: whatever, but a number
        bias = torch.zeros_like(real, dtype=torch.float32).masked_fill(~real, -torch.inf)[:, None, None]  # [M, 1, 1, L]
        lengths = texts.mask.sum(-1).amax(0).tolist()  # R, falling
        parts, start = [], 0
        while start < len(lengths):
            length = max(1, lengths[start])
            end = start + max(1, budget // (len(real) * (length + 1)))
            part = Tokens(*(field[:, start:end, :length] for field in texts))
            parts.append(reduce(self.decode(part.ids, memory, bias), part))
            start = end
        return torch.cat(parts, 1)

    def decode(self, ids: Tensor, memory: list["Memory"], bias: Tensor) -> Tensor:
        """States [M, R, T + 1, D] after start and each of the ids [P, R, T]; a later id never changes an earlier state.

        Until the first layer has met the memory, texts that are the same for all M are run once.
        """
        decoder, shape = self.model.decoder, (ids.shape[1], ids.shape[2] + 1)
        hidden = decoder.dropout(self.model.shared(pad(ids, (1, 0), value=self.start)).float())  # [P, R, T + 1, D]
        later = torch.ones(shape[1], shape[1], dtype=torch.bool, device=ids.device).triu(1)
        for block, seen in zip(decoder.block, memory, strict=True):
            own, cross, feed = block.layer
            heads = own.SelfAttention
            dropout = heads.dropout if self.training else 0.0
            if heads.has_relative_attention_bias:  # T5: the first layer's serves all; UMT5: each has its own
                distance = heads.compute_bias(shape[1], shape[1]).float().masked_fill(later, -torch.inf)
            normed = own.layer_norm(hidden)
            q, k, v = (split(project(normed), heads.n_heads) for project in (heads.q, heads.k, heads.v))
            attended = weights(q @ k.mT + distance, dropout) @ v  # [., R, H, T + 1, d]
            hidden = hidden + own.dropout(heads.o(merge(attended)))
            heads = cross.EncDecAttention
            q = split(heads.q(cross.layer_norm(hidden)).flatten(1, 2), heads.n_heads)  # [., H, R (T + 1), d]
            attended = seen.attend(q, bias, dropout)  # [M, H, R (T + 1), d]
            hidden = hidden + cross.dropout(heads.o(merge(attended))).unflatten(1, shape)  # [M, R, T + 1, D]
            hidden = feed(hidden)
        return decoder.dropout(decoder.final_layer_norm(hidden)) * self.output_scale

    def log_p(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """log p of some ids [N, K] over the whole vocabulary, after states [N, D]: [N, K].

        The logits of a part at a time; to learn from them they are made again rather than held.
        """

        def part(hidden: Tensor, ids: Tensor) -> Tensor:
            return linear(hidden, self.output).log_softmax(-1, dtype=torch.float32).gather(-1, ids)

        size = max(1, LOGITS // len(self.output))
        parts = zip(hidden.split(size), ids.split(size), strict=True)
        return torch.cat([recompute(part, *each, use_reentrant=False) for each in parts])


class Memory:
    """Encoded texts [M, L, D] as one layer of the decoder reads them."""

    def __init__(self, attention: nn.Module, vectors: Tensor):
        self.attention = attention
        self.vectors = vectors

    @cached_property
    def projected(self) -> tuple[Tensor, Tensor]:
        """Keys and values [M, H, L, d]."""
        keys, values = self.attention.k(self.vectors), self.attention.v(self.vectors)
        return split(keys, self.attention.n_heads), split(values, self.attention.n_heads)

    def attend(self, queries: Tensor, bias: Tensor, dropout: float) -> Tensor:
        """Queries [M or 1, H, Q, d] -> [M, H, Q, d].

        q (x K)^T = (q K^T) x^T: where there are fewer queries than a head is wide, it is they that go through the
        maps of keys and values, and the states x are met as they are.
        """
        count, width = queries.shape[-2:]
        if count >= width:
            keys, values = self.projected
            return weights(queries @ keys.mT + bias, dropout) @ values
        key, value = (part.weight.unflatten(0, (-1, width)) for part in (self.attention.k, self.attention.v))
        wide = torch.einsum("mhqd,hdw->mhqw", queries, key)  # [M or 1, H, Q, D]
        logits = (wide.flatten(1, 2) @ self.vectors.mT).unflatten(1, (-1, count))  # [M, H, Q, L]
        share = weights(logits + bias, dropout).flatten(1, 2).to(self.vectors.dtype)  # [M, H Q, L]
        return torch.einsum("mhqw,hdw->mhqd", (share @ self.vectors).unflatten(1, (-1, count)), value)


def refuse_others(family: str, source: str) -> None:
    if family not in FAMILIES:
        raise ValueError(
            f"{source} is a {family}; this ranker needs an encoder-decoder of one of these families: "
            f"{', '.join(FAMILIES)}; give for example --backbone google/flan-t5-small"
        )


def first_piece(tokenizer, word: str) -> int | None:
    """The id of a word's first piece that is more than the mark of a beginning word."""
    ids = tokenizer.encode(word, add_special_tokens=False)
    return next((number for number in ids if tokenizer.decode([number]).strip()), None)
