"""The best of a store -> candidates as they were given, with their scores."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from poly_agents.candidates.search import Search, SearchOptions
from poly_agents.candidates.store import Store
from poly_agents.errors import InputError
from poly_agents.scoring.finite import check_finite
from poly_agents.scoring.ranker import Ranker
from poly_agents.scoring.ranks import check_top
from poly_agents.text import given
from poly_agents.text.tokens import pad


class Retrieved(NamedTuple):
    """A candidate of a store and its score."""

    candidate: dict[str, Any]  # its `text`, and whatever else it was stored with
    score: float


def retrieve(
    ranker: Ranker, fingerprint: str, ids: Sequence[Sequence[int]], within: Search | Store, top: int
) -> list[Retrieved]:
    """Return the best candidates of a store for one context.

    Args:
        ranker: scores the candidates.
        fingerprint: of the model that must have made the store.
        ids: the bare ids of the one context.
        within: the store, and how it is searched. A store alone is searched exactly.
        top: how many to return; all, if the store has fewer.

    Raises:
        ValueError: another model made the store, or a score is not finite.
    """
    if isinstance(within, Store):
        within = Search(within, SearchOptions())
    if not hasattr(within, "best"):
        raise InputError(f"within is a Store, or a Search of one; got {given.short(within)}")
    top = min(check_top(top), len(within.store))
    if within.store.fingerprint != fingerprint:
        raise InputError(
            "the store was made by another model, or by this one in another precision or before it changed; "
            "make it again with this model"
        )
    best = within.best(ranker, pad(ids), top)
    rows, scores = best.rows[0], best.scores[0]
    check_finite(scores, ranker, rows >= 0, "the store has vectors that are not finite; make it again")
    pairs = zip(rows.tolist(), scores.tolist(), strict=True)
    return [Retrieved(within.store[row], score) for row, score in pairs if row >= 0]
