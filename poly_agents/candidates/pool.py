"""Choose which candidates each context of a batch is scored against. Texts that are equal are one candidate."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from poly_agents.encoders.states import padded_index
from poly_agents.text.near import near_key

MIXED = 15  # random candidates that the hardest are looked for among


class Pool(NamedTuple):
    """N distinct candidates, and which of them belong to each of B contexts."""

    texts: Sequence[str]  # N
    ids: Sequence[Sequence[int]]  # N, bare; empty if the candidates are encoded elsewhere
    index: Tensor | None  # [G, C] candidate numbers, -1 where a row is shorter. None: all N for every context
    labels: Tensor | None  # [B] column of each context's label, -1 if the label is not among its candidates

    @classmethod
    def without_ids(cls, texts: Sequence[str], index: Tensor | None = None) -> "Pool":
        """Make a pool of candidates that are encoded elsewhere, as those of a store are, or scored already."""
        return cls(texts, (), index, None)

    def row(self, context: int) -> Sequence[int]:
        """Return the candidate numbers of one context, by column."""
        if self.index is None:
            return range(len(self.texts))
        return [number for number in self._index_row(context).tolist() if number >= 0]

    def column_of(self, context: int, number: int) -> Tensor | int:
        """Find a candidate by its number among those of one context. Returns its column, or a mask [C] with it."""
        return number if self.index is None else self._index_row(context) == number

    def _index_row(self, context: int) -> Tensor:
        return self.index[context if len(self.index) > 1 else 0]


def shared(texts: Sequence[str], ids: Sequence[Sequence[int]], labels: Sequence[str] | None) -> Pool:
    """Make one pool for the whole batch.

    Args:
        texts: candidates. Equal ones may come several times.
        ids: the bare ids of each.
        labels: the right response of each context. None: there are no labels.

    >>> shared(["yes", "no", "yes"], [[5], [6], [5]], ["no"])
    Pool(texts=['yes', 'no'], ids=[[5], [6]], index=None, labels=tensor([1]))
    """
    texts, ids, numbers = _distinct(texts, ids)
    return Pool(texts, ids, None, _columns([numbers] * len(labels), labels) if labels else None)


def separate(
    texts: Sequence[Sequence[str]], ids: Sequence[Sequence[Sequence[int]]], labels: Sequence[str] | None
) -> Pool:
    """Give each context its own candidates. Takes the arguments of `shared`, with one list for each context."""
    all_texts, all_ids, numbers = _distinct([t for row in texts for t in row], [i for row in ids for i in row])
    rows = [_unique(numbers[_key(text)] for text in row) for row in texts]
    places = [{_key(all_texts[number]): column for column, number in enumerate(row)} for row in rows]
    return Pool(all_texts, all_ids, padded_index(rows), _columns(places, labels) if labels else None)


def columns(pool: Pool, labels: Sequence[str]) -> Tensor:
    """Find the column of each label in a shared pool, [B]. It is -1 if the label is not in the pool."""
    numbers = {_key(text): number for number, text in enumerate(pool.texts)}
    return _columns([numbers] * len(labels), labels)


def relevance(
    pool: Pool,
    wanted: Sequence[Mapping[str, float]],
    rows_of: Callable[[Sequence[str]], Sequence[int]] | None = None,
) -> Tensor:
    """Grade the candidates of each context: a `wanted` text has its grade, any other text 0.

    Args:
        pool: the candidates.
        wanted: for each of B contexts the grades of some texts. Of equal texts the best grade counts.
        rows_of: finds candidate numbers by text, -1 for a text that is no candidate. Give that of a store whose texts
            are on disk. None: the texts of the pool are looked through.

    Returns:
        The grades, [B, C].
    """
    texts = list(dict.fromkeys(text for grades in wanted for text in grades))
    numbers = dict(zip(texts, rows_of(texts) if rows_of else columns(pool, texts).tolist(), strict=True))
    width = len(pool.texts) if pool.index is None else pool.index.shape[1]
    graded = torch.zeros(len(wanted), width)  # [B, C]
    for context, grades in enumerate(wanted):
        for text, grade in sorted(grades.items(), key=lambda pair: pair[1]):  # the best grade is written last
            if numbers[text] >= 0:
                graded[context, pool.column_of(context, numbers[text])] = grade
    return graded


def sample(pool: Pool, negatives: int, seed: int, hardness: Tensor | None = None, by: str = "random") -> Pool:
    """Choose negatives from a shared pool without repeats.

    Args:
        pool: all candidates for every context, or those of an index that `without_right` made.
        negatives: how many each context gets, or fewer if there are no more.
        seed: of the random choice.
        hardness: a score of each candidate for each context, [B, N]. Only `random` does without.
        by: `random`; `hardest`, the ones with the highest scores; or `mixed`, where the hardest of `MIXED` random ones
            are taken and the last one is random. The hardest of many are often right, too.

    Returns:
        A pool in which each context has its label in column 0 and its negatives after it. It is the same pool if there
        are no more candidates than that.
    """
    count = len(pool.texts)
    if pool.labels is None or negatives >= count - 1:
        return pool
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(len(pool.labels), count, generator=generator)  # [B, N], a random order for each context
    if pool.index is not None:
        drawn = drawn.masked_fill(pool.index < 0, -1.0)
    label = pool.labels.unsqueeze(1)
    if by == "random":
        order = drawn.scatter(1, label, 2.0)  # the label is always first
    elif by == "hardest":
        order = torch.where(drawn < 0, -torch.inf, hardness).scatter(1, label, torch.inf)
    else:
        order = drawn.scatter(1, label, -1.0)
        among = order.topk(min(MIXED, count - 1)).indices
        hard = hardness.gather(1, among).topk(min(negatives - 1, among.shape[1])).indices
        order = order.scatter(1, among.gather(1, hard), 2.0).masked_fill(drawn < 0, -1.0).scatter(1, label, 3.0)
    index = order.topk(negatives + 1).indices  # [B, 1 + negatives]
    index = index.masked_fill(drawn.gather(1, index) < 0, -1)
    return pool._replace(index=index, labels=torch.zeros_like(pool.labels))


def add(pool: Pool, texts: Sequence[str], ids: Sequence[Sequence[int]], own: Sequence[Sequence[str]]) -> Pool:
    """Give each context more candidates, after those that it has.

    Args:
        pool: the candidates so far.
        texts: new candidates of all contexts.
        ids: the bare ids of each.
        own: for each context, which of `texts` become its candidates.

    >>> pool = shared(["hi", "no"], [[1], [2]], ["hi", "no"])
    >>> add(pool, ["yes"], [[3]], [["yes"], []]).index.tolist()
    [[0, 1, 2], [0, 1, -1]]
    """
    texts, ids, numbers = _distinct([*pool.texts, *texts], [*pool.ids, *ids])
    rows = [_unique([*pool.row(number), *(numbers[_key(text)] for text in new)]) for number, new in enumerate(own)]
    return Pool(texts, ids, padded_index(rows), pool.labels)


def without_right(pool: Pool, right: Sequence[Collection[str]]) -> Pool:
    """Take from each context the candidates that are right too, and near copies of them. It keeps its label.

    Args:
        pool: candidates, with a label for each of B contexts.
        right: for each context the `near_key` of all its right responses.

    Returns:
        A pool with the same columns, whose index is -1 where a candidate was taken.

    >>> pool = shared(["yes", "Yes!", "no"], [[1], [2], [3]], ["yes", "Yes!", "no"])
    >>> without_right(pool, [{"yes"}, {"yes"}, {"no"}]).index.tolist()
    [[0, -1, 2], [-1, 1, 2], [0, 1, 2]]
    """
    copies: dict[str, set[int]] = defaultdict(set)  # key -> numbers of near copies
    for number, text in enumerate(pool.texts):
        copies[near_key(text)].add(number)
    before = torch.arange(len(pool.texts)).unsqueeze(0) if pool.index is None else pool.index
    before = before.expand(len(right), -1)  # [B, C]
    index = before.clone()
    for row, label, keys in zip(index, pool.labels.tolist(), right, strict=True):
        for number in set().union(*(copies.get(key, ()) for key in keys)) - {int(row[label])}:
            row[row == number] = -1
    return pool if index.equal(before) else pool._replace(index=index)


def common(pool: Pool, pools: Sequence[Pool]) -> Pool:
    """Number the candidates of a pool by their place among the candidates of all processes.

    Args:
        pool: the pool of this process.
        pools: the pools of all processes, in the order of their ranks.

    Returns:
        A pool with the candidates of all processes, in which each context has the candidates that it had before.

    >>> first, second = shared(["hi", "no"], [[1], [2]], ["no"]), shared(["yes", "hi"], [[3], [1]], ["yes"])
    >>> joined = common(second, [first, second])
    >>> joined.texts, joined.index.tolist()
    (['hi', 'no', 'yes'], [[2, 0]])
    """
    texts, ids, numbers = _distinct([t for p in pools for t in p.texts], [i for p in pools for i in p.ids])
    rows = [[numbers[_key(pool.texts[number])] for number in pool.row(context)] for context in range(len(pool.labels))]
    return Pool(texts, ids, padded_index([_unique(row) for row in rows]), pool.labels)


def _key(text: str) -> str:
    """Return the part of a text by which texts are compared: all but the space around it."""
    return text.strip()


def _unique(numbers: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(numbers))


def _distinct(
    texts: Sequence[str], ids: Sequence[Sequence[int]]
) -> tuple[list[str], list[Sequence[int]], dict[str, int]]:
    """Return texts without repeats, the ids of each, and the number of each by its key."""
    first: dict[str, tuple[str, Sequence[int]]] = {}
    for text, own in zip(texts, ids, strict=True):
        first.setdefault(_key(text), (text, own))
    numbers = {key: number for number, key in enumerate(first)}
    return [text for text, _ in first.values()], [own for _, own in first.values()], numbers


def _columns(places: Sequence[Mapping[str, int]], labels: Sequence[str | None]) -> Tensor:
    """Look up the column of each label by its key, [B]. It is -1 for a label that is not found, or is None."""
    return torch.tensor([place.get(_key(label or ""), -1) for place, label in zip(places, labels, strict=True)])
