"""Which candidates each context of a batch is scored against. Equal texts are one candidate."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Pool(NamedTuple):
    """Distinct candidates, and which of them belong to each context."""

    texts: Sequence[str]  # N
    ids: Sequence[Sequence[int]]  # N, bare
    index: Tensor | None  # [G, C] into them, -1 where a row is shorter; None: all N for every context
    labels: Tensor | None  # [B] column of each context's label, -1 where it is not among its candidates

    def row(self, context: int) -> Sequence[int]:
        """Candidate numbers of one context, by column."""
        if self.index is None:
            return range(len(self.texts))
        return [number for number in self.index[context if len(self.index) > 1 else 0].tolist() if number >= 0]


def shared(texts: Sequence[str], ids: Sequence[Sequence[int]], labels: Sequence[str] | None) -> Pool:
    """One pool for the whole batch."""
    texts, ids, place = _distinct(texts, ids)
    return Pool(texts, ids, None, _labels([place] * len(labels), labels) if labels else None)


def separate(
    texts: Sequence[Sequence[str]], ids: Sequence[Sequence[Sequence[int]]], labels: Sequence[str] | None
) -> Pool:
    """Each context's own candidates."""
    all_texts, all_ids, place = _distinct([t for row in texts for t in row], [i for row in ids for i in row])
    rows = [list(dict.fromkeys(place[_key(text)] for text in row)) for row in texts]
    columns = [{_key(all_texts[number]): column for column, number in enumerate(row)} for row in rows]
    return Pool(all_texts, all_ids, _index(rows), _labels(columns, labels) if labels else None)


def columns(pool: Pool, labels: Sequence[str]) -> Tensor:
    """The column of each label in a shared pool, [B]; -1 where it is not in it."""
    place = {_key(text): number for number, text in enumerate(pool.texts)}
    return _labels([place] * len(labels), labels)


def relevance(
    pool: Pool,
    wanted: Sequence[Mapping[str, float]],
    places: Callable[[Sequence[str]], Sequence[int]] | None = None,
) -> Tensor:
    """What each context's candidates are worth, [B, C]: the grade of a `wanted` text, 0 of any other.

    `places` finds the numbers of texts in a pool that has its own way of telling; -1 where a text is not in it.
    """
    texts = list(dict.fromkeys(text for grades in wanted for text in grades))
    numbers = dict(zip(texts, places(texts) if places else columns(pool, texts).tolist(), strict=True))
    width = len(pool.texts) if pool.index is None else pool.index.shape[1]
    worth = torch.zeros(len(wanted), width)  # [B, C]
    for context, grades in enumerate(wanted):
        index = None if pool.index is None else pool.index[context if len(pool.index) > 1 else 0]
        for text, grade in sorted(grades.items(), key=lambda pair: pair[1]):  # of equal texts the best grade stays
            if numbers[text] >= 0:
                worth[context, numbers[text] if index is None else index == numbers[text]] = grade
    return worth


def sample(pool: Pool, negatives: int, seed: int) -> Pool:
    """Of a shared pool, each context's label in column 0 and `negatives` others, drawn without repeats."""
    count = len(pool.texts)
    if pool.labels is None or negatives >= count - 1:
        return pool
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(len(pool.labels), count, generator=generator)
    weights.scatter_(1, pool.labels.unsqueeze(1), 2.0)  # the label is always first
    index = weights.topk(negatives + 1).indices  # [B, 1 + negatives]
    return pool._replace(index=index, labels=torch.zeros_like(pool.labels))


def add(pool: Pool, texts: Sequence[str], ids: Sequence[Sequence[int]], own: Sequence[Sequence[str]]) -> Pool:
    """More candidates, and after those that each context has, its `own` ones of them."""
    texts, ids, place = _distinct([*pool.texts, *texts], [*pool.ids, *ids])
    rows = [[*pool.row(number), *(place[_key(text)] for text in more)] for number, more in enumerate(own)]
    return Pool(texts, ids, _index(rows), pool.labels)


def common(pool: Pool, pools: Sequence[Pool]) -> Pool:
    """One of several `pools`, told in numbers of the candidates of all of them."""
    texts, ids, place = _distinct([t for p in pools for t in p.texts], [i for p in pools for i in p.ids])
    rows = [[place[_key(pool.texts[number])] for number in pool.row(context)] for context in range(len(pool.labels))]
    return Pool(texts, ids, _index(rows), pool.labels)


def _index(rows: Sequence[Sequence[int]]) -> Tensor:
    rows = [torch.tensor(list(dict.fromkeys(row))) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


def _key(text: str) -> str:
    return text.strip()


def _distinct(texts: Sequence[str], ids: Sequence[Sequence[int]]):
    first: dict[str, tuple[str, Sequence[int]]] = {}
    for text, vector in zip(texts, ids, strict=True):
        first.setdefault(_key(text), (text, vector))
    place = {key: number for number, key in enumerate(first)}
    return [text for text, _ in first.values()], [vector for _, vector in first.values()], place


def _labels(places: Sequence[dict[str, int]], labels: Sequence[str]) -> Tensor:
    return torch.tensor([place.get(_key(label or ""), -1) for place, label in zip(places, labels, strict=True)])
