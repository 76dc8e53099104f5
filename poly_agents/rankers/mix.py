"""MixEncoder (Yang et al. 2023, "Once is Enough", https://arxiv.org/abs/2210.05261, section 3).

    E_0 = k vectors of the candidate                  made without the context, and cached
    E_j = Attn(Q', [K'; K], [V'; V])                  (1)  Q', K', V' of E_j-1; K, V the context's own of that layer
    H_j = Gate(Attn(Q*, K, V), H_j-1),  H_0 = 0       (2)  Q* of the mean of E_j-1
    s   = e . h,  e = mean_k E,  h = H                of the last interaction layer

The context is encoded once. In an interaction layer each candidate's vectors attend over the context and over
themselves, under one softmax, and never over another candidate. Every interaction layer starts as a copy of the
encoder's layer with the same number. E and H go through the same output map, norms and feed-forward network.

    Gate(new, old) = w new + (1 - w) old,  w = sigmoid(W [mean E_j-1; new; old])     instead of the residual

S-strategy (the default): k learned vectors take the place of the start token, and E_0 is their outputs. C-strategy: k
learned codes attend over the candidate's states. The paper scores by the cosine. Its code scores by the inner product,
which is the default here.

With `--start backbone` E_0 is made by codes, and H_0 is the mean of the context's states. Each layer adds a learned
share of its E and H, 0 at first; the rest is that of the layer before. The score is 20 times the cosine.

`--mix a`: one vector, last layer; b: one vector, last three layers; c: two vectors, last three.
"""

import copy
import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from poly_agents.encoders import layers
from poly_agents.encoders.attention import KeysValues, attend, attend_beside, merge, split
from poly_agents.encoders.backbone import reduced_states
from poly_agents.encoders.layers import Layer, feed_forward, layer_output
from poly_agents.encoders.states import by_length
from poly_agents.errors import InputError
from poly_agents.options import above, at_least, option
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Ranker
from poly_agents.scoring.starts import SCALE, StartOptions
from poly_agents.text.tokens import Tokens

SPEED = 100.0  # the shares of interaction layers learn as if their learning rate were so many times as high
WEIGHTS = 2**23  # attention weights that are held at a time, to bound the memory that a large pool needs


class Preset(NamedTuple):
    """A variant of the paper."""

    vectors: int
    layers: str


PRESETS = {"a": Preset(1, "last"), "b": Preset(1, "last3"), "c": Preset(2, "last3")}


@dataclass(frozen=True)
class MixOptions(StartOptions):
    """Options of MixEncoder."""

    mix: str = option(
        "a",
        "variant of the paper: sets --mix-vectors and --mix-layers where they are not given; a: 1 vector, last layer; "
        "b: 1 vector, last three layers; c: 2 vectors, last three layers",
        tuple(PRESETS),
    )
    mix_vectors: int = option(0, "how many vectors represent a candidate (k in the paper); 0: set by --mix")
    mix_layers: str = option(
        "",
        "layers in which candidates attend over the context: last, last3, or numbers counted from 1, such as 4,6; "
        "empty: set by --mix",
    )
    mix_strategy: str = option(
        "special",
        "how the vectors of a candidate are made: outputs of special tokens before it, or of an attention with learned "
        "codes",
        ("special", "codes"),
    )
    mix_cosine: bool = option(False, "score by the cosine; false: by the inner product")
    mix_scale: float = option(20.0, "factor of the cosine, with --mix-cosine")

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "mix_vectors", 0)
        above(self, "mix_scale", 0)
        if self.mix_layers and not re.fullmatch(r"last\d*|\d+(,\d+)*", self.mix_layers):
            raise InputError(f"--mix-layers must be last, last3, or numbers as 4,6; got {self.mix_layers!r}")

    @property
    def uses_codes(self) -> bool:
        """Tell whether learned codes make the vectors of a candidate. So they start as the mean of its states."""
        return self.mix_strategy == "codes" or self.from_backbone

    @property
    def vectors(self) -> int:
        """Return how many vectors represent a candidate."""
        return self.mix_vectors or PRESETS[self.mix].vectors

    def layers(self, count: int) -> list[int]:
        """Return the numbers of the interaction layers of an encoder with `count` layers, counted from 1, in order.

        Raises:
            ValueError: the encoder does not have them.
        """
        named = self.mix_layers or PRESETS[self.mix].layers
        if named.startswith("last"):
            chosen = list(range(count + 1 - int(named.removeprefix("last") or 1), count + 1))
        else:
            chosen = sorted({int(number) for number in named.split(",")})
        if not chosen or chosen[0] < 1 or chosen[-1] > count:
            raise InputError(f"--mix-layers {named}: the encoder has layers 1 to {count}")
        return chosen


class Mixed(NamedTuple):
    """The state of C candidates for each context between two interaction layers."""

    vectors: Tensor  # E, [B, C, K, D]; before the first layer [G, C, K, D]
    hint: Tensor | None  # H, [B, C, D]; None before the first layer, where it is 0


class Contexts(NamedTuple):
    """Encoded contexts."""

    layers: list[KeysValues]  # of each interaction layer, [B, H, L, d]
    mean: Tensor | None  # of the last states, [B, D], with --start backbone


class Interaction(nn.Module):
    """An interaction layer. It starts as a copy of a layer of the encoder, and has the parts of a `Layer`."""

    def __init__(self, layer: Layer, from_backbone: bool):
        super().__init__()
        for name, part in layer._asdict().items():  # query, key, value, out, up, down, ...
            setattr(self, name, copy.deepcopy(part))
        self.hint_query = copy.deepcopy(layer.query)
        self.gate = nn.Linear(3 * layer.query.out_features, layer.query.out_features)
        if from_backbone:
            self.shares = nn.Parameter(torch.zeros(2))  # of the layer's E and H, divided by SPEED

    def forward(self, mixed: Mixed, context: KeysValues, dropout: float) -> Mixed:
        """Run the layer.

        Args:
            mixed: E and H of the layer before.
            context: keys and values of the context in this layer, [B, H, L, d].
            dropout: the dropout of this run, 0 outside of training.
        """
        vectors = mixed.vectors.to(self.query.weight.dtype)
        mean = vectors.mean(-2)  # [G, C, D]
        new = self.out(self.attend_hint(mean, context, dropout))  # [B, C, D]
        old = torch.zeros_like(new) if mixed.hint is None else mixed.hint.to(vectors.dtype)
        share = self.gate(torch.cat([mean.expand_as(new), new, old], -1)).sigmoid()  # [B, C, D]
        hint = feed_forward(self, self.attention_norm(share * new + (1 - share) * old), dropout)
        output = layer_output(self, self.attend(vectors, context, dropout), vectors, dropout)
        if hasattr(self, "shares"):
            shares = SPEED * self.shares
            output = torch.lerp(mixed.vectors.expand_as(output).float(), output.float(), shares[0])
            hint = torch.lerp(mixed.hint.float(), hint.float(), shares[1])
        return Mixed(output, hint)

    def attend(self, vectors: Tensor, context: KeysValues, dropout: float) -> Tensor:
        """Let each candidate's vectors attend over the context and themselves, (1): [G, C, K, D] -> [B, C, K, D]."""
        rows = (part(vectors).flatten(1, 2) for part in (self.query, self.key, self.value))
        queries, *own = (split(row, self.heads).unflatten(2, vectors.shape[1:3]) for row in rows)  # [G, H, C, K, D / H]
        everything = context.mask.new_ones(1)
        read = attend_beside(queries, KeysValues(*own, everything), context, dropout)  # [B, H, C, K, D / H]
        return merge(read.flatten(2, 3)).unflatten(1, vectors.shape[1:3])

    def attend_hint(self, mean: Tensor, context: KeysValues, dropout: float) -> Tensor:
        """Let the mean of each candidate's vectors attend over the context, (2): [G, C, D] -> [B, C, D]."""
        return merge(attend(split(self.hint_query(mean), self.heads), context, dropout))


class MixRanker(Ranker):
    """Score by a few vectors of the candidate that attend over the context in some layers."""

    Options = MixOptions
    backbone_start = {"start": "backbone"}

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        parts = layers.read(self.context_encoder.model)
        self.layers = self.options.layers(len(parts))
        from_backbone = self.options.from_backbone
        self.interactions = nn.ModuleList(Interaction(parts[number - 1], from_backbone) for number in self.layers)
        if self.options.uses_codes:
            # Small: every vector starts near the mean of the states, yet no two are the same.
            spread = 0.02 if from_backbone else 0.05
            self.codes = nn.Parameter(torch.randn(self.options.vectors, self.context_encoder.width) * spread)  # [K, D]
        else:
            start = self.candidate_encoder.model.get_input_embeddings().weight[self.frame.single[0].ids[0]]
            self.specials = nn.Parameter(start.detach().float().repeat(self.options.vectors, 1))  # [K, D]

    def positions_needed(self, context, candidate):
        return self.frame.single_length + max(context, candidate + self.options.vectors - 1)

    def lower_precision(self):
        super().lower_precision()
        self.interactions.to(self.context_encoder.dtype)

    def encode(self, candidates: Tokens) -> Tensor:
        framed, encoder = self.frame.wrap(candidates), self.candidate_encoder
        if self.options.uses_codes:
            vectors = reduced_states(encoder, framed, lambda hidden, mask: maths.attend(self.codes, hidden, mask))
        else:
            rest = Tokens(*(part[:, len(self.frame.single[0].ids) :] for part in framed))
            vectors = by_length(lambda part: encoder(part, self.specials)[:, : len(self.specials)], rest)
        exact = torch.is_grad_enabled() or self.options.from_backbone
        return vectors if exact else vectors.to(encoder.dtype)  # [N, K, D]

    def encode_contexts(self, contexts: Tokens) -> Contexts:
        """Run bare contexts [B, L] up to the last interaction layer.

        Returns:
            Keys and values [B, H, L, d] of the contexts in each interaction layer.
        """
        framed, encoder = self.frame.wrap(contexts), self.context_encoder
        parts, before = layers.read(encoder.model), [number - 1 for number in self.layers]
        mask = framed.mask[:, None, None]
        encoded = []
        with encoder.autocast(framed.ids.device):
            after = [*before, len(parts)] if self.options.from_backbone else before
            hidden = by_length(lambda part: torch.stack(encoder.hidden(part, after), 2), framed)  # [B, L, J, D]
            for number, states in zip(before, hidden.unbind(2), strict=False):
                layer = parts[number]
                keys, values = (split(part(states), layer.heads) for part in (layer.key, layer.value))
                encoded.append(KeysValues(keys, values, mask))
        mean = maths.mean(hidden[:, :, -1].float(), framed.mask) if self.options.from_backbone else None
        return Contexts(encoded, mean)

    def score_encoded(self, contexts: Contexts, encoded: Tensor) -> Tensor:
        with self.context_encoder.autocast(encoded.device):
            if torch.is_grad_enabled():
                return self.interact(contexts, encoded)
            size = contexts.layers[0].keys.shape[:3].numel() * (
                1 + encoded.shape[2]
            )  # attention weights of one candidate
            slices = encoded.split(max(1, WEIGHTS // size), dim=1)
            return torch.cat([self.interact(contexts, part) for part in slices], -1)  # [B, C]

    def interact(self, contexts: Contexts, encoded: Tensor) -> Tensor:
        """Run the interaction layers: encoded contexts and candidates [G, C, K, D] -> scores [B, C]."""
        hint = None if contexts.mean is None else contexts.mean.unsqueeze(1).expand(-1, encoded.shape[1], -1)
        mixed = Mixed(encoded, hint)
        for interaction, context in zip(self.interactions, contexts.layers, strict=True):
            mixed = interaction(mixed, context, self.dropout_now)
        candidate, hint = mixed.vectors.float().mean(-2), mixed.hint.float()  # [B, C, D]
        if self.options.from_backbone or self.options.mix_cosine:
            scale = SCALE if self.options.from_backbone else self.options.mix_scale
            return scale * (normalize(candidate, dim=-1) * normalize(hint, dim=-1)).sum(-1)
        return (candidate * hint).sum(-1)
