"""Tokens -> states of an encoder-decoder of the T5 family, and one decoder pass over many texts.

Shapes: M encoded texts, R texts that are decoded over each of them, P = 1 (the same for each) or M, T tokens, H heads.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from torch.utils.checkpoint import checkpoint as recompute

from poly_agents.encoders.attention import merge, split, weights
from poly_agents.encoders.backbone import UNLIMITED, Backbone
from poly_agents.encoders.loading import T5, load_pretrained
from poly_agents.encoders.precision import attention
from poly_agents.encoders.states import TokenStates, budget_slices, token_budget
from poly_agents.errors import InputError
from poly_agents.text.tokens import Tokens

LOGITS = 2**25  # logits that are made at a time, because a vocabulary is large


class EncoderDecoder(Backbone):
    """A HuggingFace encoder-decoder of the T5 family. Each weight has one name."""

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        config = model.config
        config.max_position_embeddings = UNLIMITED
        config.tied_output = model.lm_head.weight is model.shared.weight
        super().__init__(model, dtype)
        model.encoder.embed_tokens = model.decoder.embed_tokens = None  # other names of `shared`
        if config.tied_output:
            model.lm_head = None
        # T5 scales what it multiplies with tied embeddings. Only configurations by transformers 5 say whether it does.
        scaled = config.tied_output and getattr(config, "scale_decoder_outputs", True)
        self.output_scale: float = config.d_model**-0.5 if scaled else 1.0
        start = getattr(config, "decoder_start_token_id", None)
        self.start: int = config.pad_token_id if start is None else start
        for number in (self.start, *self.answers):
            if type(number) is not int or not 0 <= number < len(self.output):
                raise InputError(f"its configuration has an id {number!r}, which is not in its vocabulary")

    @property
    def answers(self) -> list[int]:
        """Return the ids of true and false."""
        answers = getattr(self.model.config, "answers", None)
        if not isinstance(answers, list) or len(answers) != 2:
            raise InputError(f"its configuration says answers {answers!r}, which are the ids of true and false")
        return answers

    @classmethod
    def downloaded(cls, source, dtype):
        """Load an encoder-decoder by HuggingFace name or folder.

        Raises:
            ValueError: the checkpoint is of another family, lacks weights, or has no tokens for true and false.
        """
        from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

        check_family(AutoConfig.from_pretrained(source).model_type, source)
        model = load_pretrained(AutoModelForSeq2SeqLM, source)
        tokenizer = AutoTokenizer.from_pretrained(source)
        answers = [first_piece(tokenizer, word) for word in ("true", "false")]
        if answers[0] == answers[1]:
            raise InputError(
                f"'true' and 'false' both begin with {tokenizer.convert_ids_to_tokens(answers[0])!r} in the vocabulary "
                f"of {source}; give a --backbone that tells them apart, for example google/flan-t5-small"
            )
        model.config.answers = answers  # saved with the configuration in every model file
        return cls(model, dtype)

    @classmethod
    def blank(cls, config, dtype, stored=torch.float32):
        from transformers import AutoConfig, AutoModelForSeq2SeqLM

        check_family(config["model_type"], "the model file")
        config = AutoConfig.for_model(**config)
        model = AutoModelForSeq2SeqLM.from_config(config, dtype=stored, attn_implementation=attention())
        if not config.tied_output:  # transformers 5 ties the output of every T5 that it makes
            model.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        else:
            model.tie_weights()  # transformers does not if the weights are not drawn (`without_values`)
        return cls(model, dtype)

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.encoder.block

    @property
    def output(self) -> Tensor:
        """Return the output embedding, a row for each token of the vocabulary: [V, D]."""
        return self.model.shared.weight if self.model.lm_head is None else self.model.lm_head.weight

    # --- encoder ------------------------------------------------------------------------------------------------------

    def forward(self, tokens: Tokens) -> Tensor:
        """Run the encoder: framed tokens [N, L] -> states [N, L, D] in float32."""
        return self._run(self.model.encoder, tokens).last_hidden_state.float()

    # --- decoder ------------------------------------------------------------------------------------------------------

    def read(self, texts: Tokens, encoded: TokenStates, reduce: Callable[[Tensor, Tokens], Tensor]) -> Tensor:
        """Decode texts over encoded ones and reduce the decoder's states.

        Rows of similar length are run together, under a budget of padded tokens. What the decoder makes of an encoded
        text is computed once for all R texts, and never copied.

        Args:
            texts: bare texts [P, R, T].
            encoded: states of the encoder, [M, L, D].
            reduce: takes states [m, r, t + 1, D] and the texts [1 or m, r, t], and returns [m, r, K].

        Returns:
            [M, R, K]
        """
        budget, shared = token_budget(texts.ids.device), len(texts.ids) == 1
        lengths, order = texts.mask.sum(-1).sort(-1, descending=True)  # [P, R]
        texts = Tokens(*(part.gather(1, order.unsqueeze(-1).expand_as(part)) for part in texts))
        encoded_lengths = encoded.mask.sum(-1)  # [M]
        rows = (lengths[:, 0] * (encoded.mask.shape[-1] + 1) + encoded_lengths).argsort(descending=True)  # [M]
        steps = 1 + lengths[:, 0].expand(len(rows))[rows]  # [M], positions of the longest text
        costs = (steps * (budget // steps).clamp(1, lengths.shape[1])).tolist()  # as many texts as fit in a run
        outputs = []
        with self.autocast(texts.ids.device):
            for part in budget_slices(costs, budget):
                own = rows[part]
                length = max(1, int(encoded_lengths[own].max()))
                states = TokenStates(encoded.vectors[own, :length], encoded.mask[own, :length])
                outputs.append(self._read_rows(texts if shared else texts.select(own), states, reduce, budget))
        in_order = torch.cat(outputs)[rows.argsort()]  # [M, R, K]
        return in_order.gather(1, order.argsort(-1).unsqueeze(-1).expand_as(in_order))

    def _read_rows(self, texts: Tokens, encoded: TokenStates, reduce: Callable, budget: int) -> Tensor:
        """Decode texts, longest first, over all of these encoded texts at a time. Arguments and result as of `read`."""
        vectors = encoded.vectors if self.dtype == torch.float32 else encoded.vectors.to(self.dtype)
        layers = [EncodedTexts(block.layer[1].EncDecAttention, vectors) for block in self.model.decoder.block]
        real = encoded.mask | ~encoded.mask.any(-1, keepdim=True)  # an absent text has any score, but a number
        bias = torch.zeros_like(real, dtype=torch.float32).masked_fill(~real, -torch.inf)[:, None, None]  # [M, 1, 1, L]
        lengths = texts.mask.sum(-1).amax(0).tolist()  # R of them, longest first
        outputs = []
        for part in budget_slices([len(real) * (length + 1) for length in lengths], budget):
            some = Tokens(*(field[:, part, : max(1, lengths[part.start])] for field in texts))
            outputs.append(reduce(self.decode(some.ids, layers, bias), some))
        return torch.cat(outputs, 1)

    def decode(self, ids: Tensor, encoded: Sequence["EncodedTexts"], bias: Tensor) -> Tensor:
        """Run the decoder. A later id never changes an earlier state.

        Texts that are the same for all M encoded ones are run once until the first layer attends over these.

        Args:
            ids: [P, R, T].
            encoded: the encoded texts, for each layer.
            bias: added to the logits of attention over encoded texts, [M, 1, 1, L].

        Returns:
            States after the start token and after each id, [M, R, T + 1, D].
        """
        decoder, shape = self.model.decoder, (ids.shape[1], ids.shape[2] + 1)
        hidden = decoder.dropout(self.model.shared(pad(ids, (1, 0), value=self.start)).float())  # [P, R, T + 1, D]
        later = torch.ones(shape[1], shape[1], dtype=torch.bool, device=ids.device).triu(1)
        for block, texts in zip(decoder.block, encoded, strict=True):
            own, cross, feed = block.layer
            heads = own.SelfAttention
            dropout = heads.dropout if self.training else 0.0
            if heads.has_relative_attention_bias:  # T5: the first layer's is used in all; UMT5: each has its own
                distance = heads.compute_bias(shape[1], shape[1]).float().masked_fill(later, -torch.inf)
            normed = own.layer_norm(hidden)
            q, k, v = (split(project(normed), heads.n_heads) for project in (heads.q, heads.k, heads.v))
            attended = weights(q @ k.mT + distance, dropout) @ v  # [., R, H, T + 1, d]
            hidden = hidden + own.dropout(heads.o(merge(attended)))
            heads = cross.EncDecAttention
            q = split(heads.q(cross.layer_norm(hidden)).flatten(1, 2), heads.n_heads)  # [., H, R (T + 1), d]
            attended = texts.attend(q, bias, dropout)  # [M, H, R (T + 1), d]
            hidden = hidden + cross.dropout(heads.o(merge(attended))).unflatten(1, shape)  # [M, R, T + 1, D]
            hidden = feed(hidden)
        return decoder.dropout(decoder.final_layer_norm(hidden)) * self.output_scale

    def log_p(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Return the log-probabilities of ids, over the whole vocabulary.

        The logits are made for a part of the states at a time. In training they are made again rather than held.

        Args:
            hidden: states of the decoder, [N, D].
            ids: [N, K].

        Returns:
            [N, K]
        """

        def part(hidden: Tensor, ids: Tensor) -> Tensor:
            return linear(hidden, self.output).log_softmax(-1, dtype=torch.float32).gather(-1, ids)

        size = max(1, LOGITS // len(self.output))
        parts = zip(hidden.split(size), ids.split(size), strict=True)
        return torch.cat([recompute(part, *each, use_reentrant=False) for each in parts])


class EncodedTexts:
    """Encoded texts [M, L, D], as one layer of the decoder attends over them."""

    def __init__(self, attention: nn.Module, vectors: Tensor):
        self.attention = attention
        self.vectors = vectors

    @cached_property
    def keys_and_values(self) -> list[Tensor]:
        """Return keys and values, [M, H, L, d] each."""
        maps = self.attention.k, self.attention.v
        return [split(project(self.vectors), self.attention.n_heads) for project in maps]

    def attend(self, queries: Tensor, bias: Tensor, dropout: float) -> Tensor:
        """Attend over the texts.

        q (x K)^T = (q K^T) x^T: if there are fewer queries than a head has dimensions, it is cheaper to apply the maps
        of keys and values to the queries, and to use the texts' states x as they are.

        Args:
            queries: [M or 1, H, Q, d].
            bias: added to the logits, [M, 1, 1, L].
            dropout: the dropout of this run, 0 outside of training.

        Returns:
            [M, H, Q, d]
        """
        count, width = queries.shape[-2:]
        if count >= width:
            keys, values = self.keys_and_values
            return weights(queries @ keys.mT + bias, dropout) @ values
        key, value = (part.weight.unflatten(0, (-1, width)) for part in (self.attention.k, self.attention.v))
        wide = torch.einsum("mhqd,hdw->mhqw", queries, key)  # [M or 1, H, Q, D]
        logits = (wide.flatten(1, 2) @ self.vectors.mT).unflatten(1, (-1, count))  # [M, H, Q, L]
        share = weights(logits + bias, dropout).flatten(1, 2).to(self.vectors.dtype)  # [M, H Q, L]
        return torch.einsum("mhqw,hdw->mhqd", (share @ self.vectors).unflatten(1, (-1, count)), value)


def check_family(family: str, source: str) -> None:
    """Raise ValueError for a model that is not of the T5 family."""
    if family not in T5:
        raise InputError(
            f"{source} is a {family}; this ranker needs an encoder-decoder of one of these families: "
            f"{', '.join(T5)}; give for example --backbone google/flan-t5-small"
        )


def first_piece(tokenizer, word: str) -> int | None:
    """Return the id of a word's first piece that is more than a space or a mark of one."""
    ids = tokenizer.encode(word, add_special_tokens=False)
    return next((number for number in ids if tokenizer.decode([number]).strip()), None)
