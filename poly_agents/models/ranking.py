"""Candidates as a program gives them -> distinct texts to encode -> rankings of what was given."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from poly_agents.encoders.states import padded_index
from poly_agents.errors import InputError
from poly_agents.text import given


class Ranked(NamedTuple):
    """A candidate, its score and its place."""

    text: str
    score: float
    index: int  # place in the list that was given, counted from 0


class Remembered(NamedTuple):
    """The candidates that were encoded last."""

    texts: list[str]
    version: tuple  # of all that the encodings depend on
    encoded: Any  # [N, ...]


NOTHING = Remembered([], (), None)


class Pools:
    """Pools of candidates: one for all contexts, or one for each. Equal texts are encoded and scored once.

    Attributes:
        texts: the distinct texts of all pools, N.
        index: for `Ranker.score_ids`: the rows in `texts` of each pool, [G, C]; None: one pool, with all of them.
    """

    def __init__(self, pools: Iterable[Iterable[str]]):
        """Check candidates.

        Raises:
            ValueError: a pool is empty or no list, or one of its candidates is no text. The message names its place.
        """
        if not given.is_list(pools):
            raise InputError(f"pools is a list of lists of candidates, got {given.short(pools)}")
        pools = list(pools)
        places = [f" of context {place}" for place in range(len(pools))] if len(pools) > 1 else [""] * len(pools)
        self.pools = [candidate_texts(pool, place) for pool, place in zip(pools, places, strict=True)]
        self.texts = list(dict.fromkeys(text for pool in self.pools for text in pool))
        number = {text: row for row, text in enumerate(self.texts)}
        rows = [list(dict.fromkeys(number[text] for text in pool)) for pool in self.pools]
        self.columns = [{self.texts[row]: column for column, row in enumerate(own)} for own in rows]
        self.index = padded_index(rows) if len(rows) > 1 else None

    def rankings(self, scores: Tensor, top: int | None) -> list[list[Ranked]]:
        """Put the candidates of each context in order, best first. Equal scores keep the order that was given.

        Args:
            scores: [B, C]; the columns are those of `index`.
            top: how many of the best to return; None: all.
        """
        times = len(scores) // len(self.pools)  # one pool serves all contexts
        rankings = []
        for pool, columns, line in zip(self.pools * times, self.columns * times, scores.float().cpu(), strict=True):
            values, order = line[[columns[text] for text in pool]].sort(descending=True, stable=True)
            pairs = zip(order[:top].tolist(), values[:top].tolist(), strict=True)
            rankings.append([Ranked(pool[place], score, place) for place, score in pairs])
        return rankings


def pools_of(candidates: Iterable[str] | Iterable[Iterable[str]]) -> Iterable[Iterable[str]]:
    """Return pools as they are, and one list of candidates as one pool.

    >>> pools_of(["yes", "no"]), pools_of([["yes"], ["no"]])
    ([['yes', 'no']], [['yes'], ['no']])
    """
    if isinstance(candidates, Iterator):
        candidates = list(candidates)
    nested = given.is_list(candidates) and given.is_list(next(iter(candidates), None))
    return candidates if nested else [candidates]


def candidate_texts(candidates: Iterable[str], of: str = "") -> list[str]:
    """Return candidates as a list of strings.

    Args:
        candidates: any iterable of strings.
        of: where the list belongs, for errors.

    Raises:
        ValueError: it is empty or no list, or one of them is no text. The message names its place.
    """
    texts = given.texts(candidates, "candidate", of)
    if not texts:
        raise InputError(f"there is nothing to rank: the list of candidates{of} is empty")
    return texts
