"""Wrap one text with special tokens, or join two. Special tokens live only here.

[CLS] text [SEP]                     wrap: every encoder that reads one text
[CLS] context [SEP] candidate [SEP]  join: a cross-encoder; segments 0 and 1 where the model has them
"""

from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from poly_agents.text.tokens import Tokens


class Piece(NamedTuple):
    """Special tokens at one place of the frame, and the segment of each."""

    ids: tuple[int, ...]
    segments: tuple[int, ...]


@dataclass(frozen=True)
class Frame:
    """The special tokens one encoder wants, read off its own tokeniser: no table of model families."""

    single: tuple[Piece, Piece]  # before and after one text
    pair: tuple[Piece, Piece, Piece]  # before, between and after two
    text_segment: int
    pair_segments: tuple[int, int]
    pad_id: int
    context_prompt: tuple[int, ...] = ()  # what a system puts before each context that it wraps
    candidate_prompt: tuple[int, ...] = ()
    longest: int = 0  # of a candidate with its special tokens, cut where it is longer, as ParlAI does; 0: any

    @property
    def special(self) -> set[int]:
        """Every special token there is; one of them also parts the turns of a context."""
        return {i for piece in (*self.single, *self.pair) for i in piece.ids}

    @property
    def single_length(self) -> int:
        """How many special tokens `wrap` adds."""
        return sum(len(piece.ids) for piece in self.single)

    @property
    def pair_length(self) -> int:
        """How many special tokens `join` adds."""
        return sum(len(piece.ids) for piece in self.pair)

    def wrap(self, text: Tokens, prompt: tuple[int, ...] = ()) -> Tokens:
        """One bare text [..., L] -> [..., L'] as the encoder wants it, with a prompt before it."""
        before, after = self.single
        return self._chain(before, Piece(prompt, (self.text_segment,) * len(prompt)), (text, self.text_segment), after)

    def wrap_context(self, text: Tokens) -> Tokens:
        """One bare context [..., L] -> [..., L'], with its prompt."""
        return self.wrap(text, self.context_prompt)

    def wrap_candidate(self, text: Tokens) -> Tokens:
        """One bare candidate [..., L] -> [..., L'] with its prompt, and cut where it is too long with all that."""
        framed = self.wrap(text, self.candidate_prompt)
        return framed.cut(self.longest) if self.longest else framed

    def join(self, first: Tokens, second: Tokens) -> Tokens:
        """Two bare texts [..., L1] and [..., L2] -> one row [..., L'] each."""
        before, between, after = self.pair
        one, two = self.pair_segments
        joint = self._chain(before, (first, one), between, (second, two), after)
        if not self.longest:
            return joint
        end = first.mask.sum(-1, keepdim=True) + self.pair_length - self.single_length + self.longest
        kept = joint.mask & (torch.arange(joint.mask.shape[-1], device=end.device) < end)
        return joint._replace(mask=kept).cut(int(kept.sum(-1).max()))

    def own(self, framed: Tokens) -> Tensor:
        """Which of the framed tokens are the texts' own, neither special nor padding: [..., L] bool."""
        special = torch.tensor(sorted(self.special), dtype=torch.long, device=framed.ids.device)
        return framed.mask & ~torch.isin(framed.ids, special)

    def _chain(self, *parts) -> Tokens:
        rows = next(part[0].ids for part in parts if isinstance(part[0], Tokens))
        columns = [_text(*part) if isinstance(part[0], Tokens) else _constant(part, rows) for part in parts]
        ids, mask, segments = (torch.cat(part, -1) for part in zip(*columns, strict=True))
        order = (~mask).to(torch.uint8).argsort(dim=-1, stable=True)  # real tokens first, in their order
        order = order[..., : int(mask.sum(-1).max())]
        ids, mask, segments = (part.gather(-1, order) for part in (ids, mask, segments))
        return Tokens(ids.masked_fill(~mask, self.pad_id), mask, segments.masked_fill(~mask, 0))


def _text(tokens: Tokens, segment: int) -> Tokens:
    return tokens._replace(segments=torch.full_like(tokens.ids, segment))


def _constant(piece: Piece, rows: Tensor) -> Tokens:
    shape = *rows.shape[:-1], len(piece.ids)
    ids, segments = (torch.tensor(part, dtype=torch.long, device=rows.device).expand(shape) for part in piece)
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool), segments)


def read_frame(tokenizer, pad_id: int) -> Frame:
    """Ask a `tokenizers.Tokenizer` how it wraps one text and joins two, by letting it do so."""

    def pieces(encoding, texts: int):
        rows = zip(encoding.sequence_ids, encoding.ids, encoding.type_ids, strict=True)
        special, segments = [Piece((), ()) for _ in range(texts + 1)], [0] * texts
        place = 0
        for source, group in groupby(rows, key=lambda row: row[0]):
            group = list(group)
            if source is None:
                special[place] = Piece(tuple(row[1] for row in group), tuple(row[2] for row in group))
            else:
                segments[source] = group[0][2]
                place = source + 1
        return tuple(special), tuple(segments)

    single, (text_segment,) = pieces(tokenizer.encode("a"), 1)
    pair, pair_segments = pieces(tokenizer.encode("a", "a"), 2)
    return Frame(single, pair, text_segment, pair_segments, pad_id)
