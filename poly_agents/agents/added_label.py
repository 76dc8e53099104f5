"""Add the label to a fixed pool that lacks it, for each context alone: `--add-label-to-fixed-candidates true`."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from poly_agents.candidates.pool import Pool

Find = Callable[[Sequence[str]], Sequence[int]]


class Joined(Sequence[str]):
    """The texts of a pool, which may be on disk, and after them those of labels."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str]):
        self.texts, self.labels = texts, labels

    def __len__(self) -> int:
        return len(self.texts) + len(self.labels)

    def __getitem__(self, number: int) -> str:
        count = len(self.texts)
        return self.texts[number] if number < count else self.labels[number - count]


def with_labels(pool: Pool, labels: Sequence[str], ids: Sequence[Sequence[int]]) -> Pool:
    """Give a pool of N candidates one more column, which has the labels that it lacks.

    Args:
        pool: the candidates of all contexts, with the column of each label.
        labels: of B contexts.
        ids: the bare ids of each.

    Returns:
        A pool with the index [B, N + 1]. Its last column is -1 where the label is in the pool already.

    >>> from poly_agents.candidates.pool import shared
    >>> pool = with_labels(shared(["hi", "no"], [[1], [2]], ["no", "yes"]), ["no", "yes"], [[2], [3]])
    >>> pool.index.tolist(), pool.labels.tolist(), list(pool.texts)
    ([[0, 1, -1], [0, 1, 3]], [1, 2], ['hi', 'no', 'no', 'yes'])
    """
    count = len(pool.texts)
    own = added_numbers(count, labels)
    numbers = torch.tensor([own[label.strip()] for label in labels])  # [B]
    lacking = pool.labels < 0  # [B]
    index = torch.cat([torch.arange(count).expand(len(labels), -1), numbers.where(lacking, -1).unsqueeze(1)], 1)
    return Pool(Joined(pool.texts, labels), [*pool.ids, *ids], index, pool.labels.where(~lacking, count))


def added_numbers(count: int, labels: Sequence[str]) -> dict[str, int]:
    """Return the numbers of labels that follow N candidates, by their texts. Equal labels have that of the first."""
    numbers: dict[str, int] = {}
    for number, label in enumerate(labels, count):
        numbers.setdefault(label.strip(), number)
    return numbers


def labels_alone(pool: Pool) -> Pool:
    """Return the label of each context of such a pool as its one candidate, [B, 1]."""
    labels = pool.texts.labels
    numbers = pool.index[:, -1:] - len(pool.texts.texts)
    return Pool(labels, pool.ids[-len(labels) :], numbers.clamp(min=0), None)


def joined(pool: Pool, base: Tensor, labels: Tensor) -> Tensor:
    """Join the scores of the candidates [B, N] and of the labels [B, 1] to those of the pool, [B, N + 1]."""
    return torch.cat([base, labels.masked_fill(pool.index[:, -1:] < 0, -torch.inf)], 1)


def rows_of(pool: Pool, find: Find) -> Find:
    """Return a function that finds texts in such a pool. `find` finds them among the N candidates."""
    added = added_numbers(len(pool.texts.texts), pool.texts.labels)

    def rows(texts: Sequence[str]) -> list[int]:
        found = zip(texts, find(texts), strict=True)
        return [int(row) if row >= 0 else added.get(text.strip(), -1) for text, row in found]

    return rows
