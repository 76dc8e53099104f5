"""MixEncoder (Yang et al. 2023, "Once is Enough", https://arxiv.org/abs/2210.05261, section 3).

    E_0 = k vectors of the candidate                  made without the context, and kept
    E_j = Attn(Q', [K'; K], [V'; V])                  (1)  Q', K', V' of E_j-1; K, V the context's own of that layer
    H_j = Gate(Attn(Q*, K, V), H_j-1),  H_0 = 0       (2)  Q* of the mean of E_j-1
    s   = e . h,  e = mean_k E,  h = H                of the last interaction layer

The context is encoded once. At the interaction layers each candidate's vectors attend over the context and themselves,
under one softmax, never over another candidate. Every interaction layer starts as a copy of the encoder's same layer;
E and H go through the same output map, norms and feed-forward.

    Gate(new, old) = w new + (1 - w) old,  w = sigmoid(W [mean E_j-1; new; old])     in the place of the residual

S-strategy (default): k learnt vectors stand in the place of the start token and their outputs are kept. C-strategy: k
learnt codes attend over the candidate's states. The paper scores by the cosine, its code by the dot product, which is
the default here. `--mix a`: one vector, last layer; b: one vector, last three layers; c: two vectors, last three.
"""

import copy
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from poly_agents.encoders.attention import KeysValues, attend, attend_beside, merge, split
from poly_agents.encoders.backbone import reduced_states
from poly_agents.encoders.layers import Layer, feed_forward, layer_output, read
from poly_agents.encoders.states import by_length
from poly_agents.options import at_least, option
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Ranker, RankerOptions
from poly_agents.text.tokens import Tokens

PRESETS = {"a": (1, "last"), "b": (1, "last3"), "c": (2, "last3")}  # vectors, layers
WEIGHTS = 2**23  # attention weights at a time when nothing is to be learnt: bounds the memory of a large pool


@dataclass(frozen=True)
class MixOptions(RankerOptions):
    mix: str = option("a", "the paper's variant: sets the next two where they are not given", tuple(PRESETS))
    mix_vectors: int = option(0, "k, the vectors of a candidate; 0: as --mix says")
    mix_layers: str = option("", "interaction layers: last, last3, or numbers from 1 as 4,6; empty: as --mix says")
    mix_strategy: str = option("special", "special: k special tokens' outputs; codes: k attend", ("special", "codes"))
    mix_cosine: bool = option(False, "score by the cosine, not by the dot product")
    mix_scale: float = option(20.0, "what the cosine is multiplied by")

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "mix_vectors", 0)
        if self.mix_layers and not re.fullmatch(r"last\d*|\d+(,\d+)*", self.mix_layers):
            raise ValueError(f"--mix-layers must be last, last3, or numbers as 4,6; got {self.mix_layers!r}")

    @property
    def vectors(self) -> int:
        return self.mix_vectors or PRESETS[self.mix][0]

    def layers(self, count: int) -> list[int]:
        """Interaction layers of an encoder with `count`, counted from 1, in order."""
        named = self.mix_layers or PRESETS[self.mix][1]
        if named.startswith("last"):
            chosen = list(range(count + 1 - int(named.removeprefix("last") or 1), count + 1))
        else:
            chosen = sorted({int(number) for number in named.split(",")})
        if not chosen or chosen[0] < 1 or chosen[-1] > count:
            raise ValueError(f"--mix-layers {named}: the encoder has layers 1 to {count}")
        return chosen


class Interaction(nn.Module):
    """One interaction layer, started as a copy of the encoder's."""

    def __init__(self, layer: Layer):
        super().__init__()
        for name, part in layer._asdict().items():
            setattr(self, name, copy.deepcopy(part))
        self.hint_query = copy.deepcopy(layer.query)
        self.gate = nn.Linear(3 * layer.query.out_features, layer.query.out_features)

    def forward(
        self, vectors: Tensor, hint: Tensor | None, context: KeysValues, dropout: float
    ) -> tuple[Tensor, Tensor]:
        """E [G, C, K, D] and H [B, C, D] (None: 0) to those of the next layer, [B, C, K, D] and [B, C, D]."""
        mean = vectors.mean(-2)  # [G, C, D]
        new = self.out(self.attend_hint(mean, context, dropout))  # [B, C, D]
        old = torch.zeros_like(new) if hint is None else hint
        share = self.gate(torch.cat([mean.expand_as(new), new, old], -1)).sigmoid()  # [B, C, D]
        hint = feed_forward(self, self.attention_norm(share * new + (1 - share) * old), dropout)
        return layer_output(self, self.attend(vectors, context, dropout), vectors, dropout), hint

    def attend(self, vectors: Tensor, context: KeysValues, dropout: float) -> Tensor:
        """Each candidate's vectors [G, C, K, D] read the context and themselves: [B, C, K, D]."""
        rows = (part(vectors).flatten(1, 2) for part in (self.query, self.key, self.value))
        queries, *own = (split(row, self.heads).unflatten(2, vectors.shape[1:3]) for row in rows)  # [G, H, C, K, D / H]
        everything = context.mask.new_ones(1)
        read = attend_beside(queries, KeysValues(*own, everything), context, dropout)  # [B, H, C, K, D / H]
        return merge(read.flatten(2, 3)).unflatten(1, vectors.shape[1:3])

    def attend_hint(self, mean: Tensor, context: KeysValues, dropout: float) -> Tensor:
        """One query a candidate, of [G, C, D], reads the context alone: [B, C, D]."""
        return merge(attend(split(self.hint_query(mean), self.heads), context, dropout))


class MixRanker(Ranker):
    Options = MixOptions

    def __init__(self, options, frame, build):
        super().__init__(options, frame, build)
        layers = read(self.context_encoder.model)
        self.layers = options.layers(len(layers))
        self.interactions = nn.ModuleList(Interaction(layers[number - 1]) for number in self.layers)
        if options.mix_strategy == "codes":
            # Small: every vector starts near the mean of the states, yet no two are the same.
            self.codes = nn.Parameter(torch.randn(options.vectors, self.context_encoder.width) * 0.05)  # [K, D]
        else:
            start = self.candidate_encoder.model.get_input_embeddings().weight[frame.single[0].ids[0]]
            self.specials = nn.Parameter(start.detach().float().repeat(options.vectors, 1))  # [K, D]

    def positions_needed(self, context, candidate):
        return self.frame.single_length + max(context, candidate + self.options.vectors - 1)

    def lower_precision(self):
        super().lower_precision()
        self.interactions.to(self.context_encoder.dtype)

    def encode(self, candidates: Tokens) -> Tensor:
        framed, encoder = self.frame.wrap(candidates), self.candidate_encoder
        if self.options.mix_strategy == "codes":
            vectors = reduced_states(encoder, framed, lambda hidden, mask: maths.attend(self.codes, hidden, mask))
        else:
            rest = Tokens(*(part[:, len(self.frame.single[0].ids) :] for part in framed))
            vectors = by_length(lambda part: encoder(part, self.specials)[:, : len(self.specials)], rest)
        return vectors if torch.is_grad_enabled() else vectors.to(encoder.dtype)  # [N, K, D]

    def encode_contexts(self, contexts: Tokens) -> list[KeysValues]:
        """Run the contexts up to the last interaction layer's door; what each such layer sees of them."""
        framed = self.frame.wrap(contexts)
        encoder, doors = self.context_encoder, [number - 1 for number in self.layers]
        layers, seen = read(encoder.model), []
        with encoder.autocast(framed.ids.device):
            hidden = by_length(lambda part: torch.stack(encoder.hidden(part, doors), 2), framed)  # [B, L, J, D]
            for number, entering in zip(doors, hidden.unbind(2), strict=True):
                layer = layers[number]
                pair = (split(part(entering), layer.heads) for part in (layer.key, layer.value))
                seen.append(KeysValues(*pair, framed.mask[:, None, None]))
        return seen

    def score_encoded(self, contexts: list[KeysValues], kept: Tensor) -> Tensor:
        with self.context_encoder.autocast(kept.device):
            if torch.is_grad_enabled():
                return self.interact(kept, contexts)
            size = contexts[0].keys.shape[:3].numel() * (1 + kept.shape[2])  # weights of one candidate
            slices = kept.split(max(1, WEIGHTS // size), dim=1)
            return torch.cat([self.interact(part, contexts) for part in slices], -1)  # [B, C]

    def interact(self, kept: Tensor, contexts: list[KeysValues]) -> Tensor:
        """Scores [B, C] of kept candidates [G, C, K, D]."""
        dropout = self.options.dropout if self.training else 0.0
        vectors, hint = kept, None
        for interaction, context in zip(self.interactions, contexts, strict=True):
            vectors, hint = interaction(vectors, hint, context, dropout)
        candidate, hint = vectors.float().mean(-2), hint.float()  # [B, C, D]
        if self.options.mix_cosine:
            return self.options.mix_scale * (normalize(candidate, dim=-1) * normalize(hint, dim=-1)).sum(-1)
        return (candidate * hint).sum(-1)
