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
    """Tokens that are the same in every row."""

    ids: tuple[int, ...]
    segments: tuple[int, ...]  # the segment of each token


class Text(NamedTuple):
    """Texts, one in each row, and the segment that all of their tokens are in."""

    tokens: Tokens
    segment: int


@dataclass(frozen=True)
class Frame:
    """The special tokens of one encoder, as its own tokenizer sets them. There is no table of model families.

    Attributes:
        single: the tokens before and after one text.
        pair: the tokens before, between and after two texts.
        text_segment: the segment of one text.
        pair_segments: the segments of two texts.
        pad_id: the id of padding.
        context_prompt: ids that `wrap_context` puts before each context.
        candidate_prompt: ids that `wrap_candidate` puts before each candidate.
        max_candidate_length: the maximum length of a candidate with its special tokens, which ParlAI truncates after
            adding them. 0 means no limit.
    """

    single: tuple[Piece, Piece]
    pair: tuple[Piece, Piece, Piece]
    text_segment: int
    pair_segments: tuple[int, int]
    pad_id: int
    context_prompt: tuple[int, ...] = ()
    candidate_prompt: tuple[int, ...] = ()
    max_candidate_length: int = 0

    @property
    def special(self) -> set[int]:
        """Return the ids of all special tokens. One of them is also the separator between turns."""
        return {i for piece in (*self.single, *self.pair) for i in piece.ids}

    @property
    def single_length(self) -> int:
        """Return how many special tokens `wrap` adds."""
        return sum(len(piece.ids) for piece in self.single)

    @property
    def pair_length(self) -> int:
        """Return how many special tokens `join` adds."""
        return sum(len(piece.ids) for piece in self.pair)

    def wrap(self, text: Tokens, prompt: tuple[int, ...] = ()) -> Tokens:
        """Wrap bare texts [..., L] -> [..., L'], with a prompt before each."""
        before, after = self.single
        return self._concatenate(
            before, Piece(prompt, (self.text_segment,) * len(prompt)), Text(text, self.text_segment), after
        )

    def wrap_context(self, text: Tokens) -> Tokens:
        """Wrap bare contexts [..., L] -> [..., L'], with their prompt."""
        return self.wrap(text, self.context_prompt)

    def wrap_candidate(self, text: Tokens) -> Tokens:
        """Wrap bare candidates [..., L] -> [..., L'], with their prompt, and cut the result to the limit."""
        framed = self.wrap(text, self.candidate_prompt)
        return framed.cut(self.max_candidate_length) if self.max_candidate_length else framed

    def join(self, first: Tokens, second: Tokens) -> Tokens:
        """Join bare texts [..., L1] and [..., L2] to one row each, [..., L']. The limit is for the second text."""
        before, between, after = self.pair
        one, two = self.pair_segments
        joint = self._concatenate(before, Text(first, one), between, Text(second, two), after)
        if not self.max_candidate_length:
            return joint
        context = first.mask.sum(-1, keepdim=True) + self.pair_length - self.single_length
        end = context + self.max_candidate_length
        mask = joint.mask & (torch.arange(joint.mask.shape[-1], device=end.device) < end)
        return joint._replace(mask=mask).cut(int(mask.sum(-1).max()))

    def text_mask(self, framed: Tokens) -> Tensor:
        """Mark the tokens of the texts themselves, neither special nor padding: [..., L] bool."""
        special = torch.tensor(sorted(self.special), dtype=torch.long, device=framed.ids.device)
        return framed.mask & ~torch.isin(framed.ids, special)

    def _concatenate(self, *parts: Piece | Text) -> Tokens:
        """Put the parts of each row one after another, without gaps between them."""
        rows = next(part.tokens.ids for part in parts if isinstance(part, Text))
        columns = [_repeated(part, rows) if isinstance(part, Piece) else _with_segment(part) for part in parts]
        ids, mask, segments = (torch.cat(fields, -1) for fields in zip(*columns, strict=True))
        order = (~mask).to(torch.uint8).argsort(dim=-1, stable=True)  # real tokens first, in their order
        order = order[..., : int(mask.sum(-1).max())]
        ids, mask, segments = (field.gather(-1, order) for field in (ids, mask, segments))
        return Tokens(ids.masked_fill(~mask, self.pad_id), mask, segments.masked_fill(~mask, 0))


def _with_segment(text: Text) -> Tokens:
    return text.tokens._replace(segments=torch.full_like(text.tokens.ids, text.segment))


def _repeated(piece: Piece, rows: Tensor) -> Tokens:
    """Repeat a piece for every row of [..., L]."""
    shape = *rows.shape[:-1], len(piece.ids)
    ids, segments = (torch.tensor(part, dtype=torch.long, device=rows.device).expand(shape) for part in piece)
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool), segments)


def read_frame(tokenizer, pad_id: int) -> Frame:
    """Read the frame off a `tokenizers.Tokenizer`, from what it makes of one text and of two."""
    single, (text_segment,) = _pieces_of(tokenizer.encode("a"), 1)
    pair, pair_segments = _pieces_of(tokenizer.encode("a", "a"), 2)
    return Frame(single, pair, text_segment, pair_segments, pad_id)


def _pieces_of(encoding, texts: int) -> tuple[tuple[Piece, ...], tuple[int, ...]]:
    """Return the special tokens before, between and after the texts of an encoding, and the segment of each text."""
    rows = zip(encoding.sequence_ids, encoding.ids, encoding.type_ids, strict=True)
    special, segments = [Piece((), ()) for _ in range(texts + 1)], [0] * texts
    place = 0
    for text, group in groupby(rows, key=lambda row: row[0]):
        _, ids, type_ids = zip(*group, strict=True)
        if text is None:
            special[place] = Piece(ids, type_ids)
        else:
            segments[text] = type_ids[0]
            place = text + 1
    return tuple(special), tuple(segments)
