"""Find the best k candidates of a store.

A poly score is a weighted mean of inner products, so it is never above the largest of them:

    sum_k softmax_k(S) S_k  <=  max_k S_k,   S_k = view_k . candidate

A candidate whose upper bound of that maximum is below the k-th best score so far cannot be among the best. Every search
returns scores that are computed in float32 from the stored vectors.

`exact`      Bounds come from all inner products, computed in the store's own precision, plus the largest error that
             rounding can make.
`certified`  The same result. Bounds come from int8 codes (`sketch.py`), and only vectors that they cannot rule out are
             read.
`fast`       The candidates with the largest estimates by the codes are scored, and no others. Nothing is proven.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poly_agents.candidates import sketch
from poly_agents.candidates.store import Store
from poly_agents.candidates.vectors import PRECISIONS, Block, Vectors, product_dtype
from poly_agents.encoders.states import map_tensors
from poly_agents.errors import InputError
from poly_agents.options import Options, at_least, option
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Ranker, Views
from poly_agents.scoring.ranks import check_top
from poly_agents.text.tokens import Tokens

SEARCH_MODES = ("exact", "certified", "fast")
PRODUCTS = 2**19  # inner products computed at a time; they and their candidates stay in the processor's cache
ROWS = 2**13  # candidates read at a time, at most
BATCH = 256  # candidates scored in float32 at a time
BOUNDS = 2**26  # bounds held at a time: contexts times candidates
SPREAD = 16  # views of a context that `fast` estimates with


@dataclass(frozen=True)
class SearchOptions(Options):
    """Options of stores and search."""

    search: str = option(
        "exact",
        "how a store is searched; certified returns the same candidates as exact, fast nearly the same",
        SEARCH_MODES,
    )
    search_scored: int = option(500, "how many candidates --search fast scores for each context")
    store_precision: str = option(
        "auto", "type of the stored vectors; auto: the type that the encoder computes in", PRECISIONS
    )

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "search_scored", 1)


class Search:
    """One way to search a store.

    >>> import poly_agents
    >>> model = poly_agents.load("models/poly/model")  # doctest: +SKIP
    >>> store = model.index("store", "candidates.txt")  # doctest: +SKIP
    >>> model.search("how are you?", Search(store, SearchOptions(search="certified")), top=3)  # doctest: +SKIP
    """

    def __init__(self, store: Store, options: SearchOptions):
        """Choose how to search a store.

        Raises:
            ValueError: the search needs one vector for each candidate, and this store holds more.
        """
        if options.search != "exact" and not store.vectors.single:
            raise InputError(
                f"--search {options.search} is for rankers that keep one vector a candidate: bi, poly, early"
            )
        self.store, self.options = store, options

    @torch.no_grad()
    def scores(self, ranker: Ranker, contexts: Tokens) -> Tensor:
        """Score all candidates for bare contexts [B, L] -> [B, N] float32."""
        self.store.check()
        parts = streamed(ranker, ranker.encode_contexts(contexts.to(ranker.device)), self.store.vectors)
        return torch.cat([part for _, part in parts], -1)

    @torch.no_grad()
    def best(self, ranker: Ranker, contexts: Tokens, count: int) -> "SearchResult":
        """Find the best `count` candidates for each bare context [B, L]."""
        count = check_top(count)
        self.store.check()
        encoded, vectors = ranker.encode_contexts(contexts.to(ranker.device)), self.store.vectors
        if not isinstance(encoded, Views) or not vectors.single:
            return streamed_best(ranker, encoded, vectors, count)
        views = encoded.cpu()
        if self.options.search == "certified":
            return certified(views, vectors, count)
        if self.options.search == "fast":
            return fast(views, vectors, count, self.options.search_scored)
        return exact(views, vectors, count)


class SearchResult(NamedTuple):
    """The best k candidates of B contexts, best first. If there are fewer, the rest is minus infinity and row -1."""

    scores: Tensor  # [B, k] float32
    rows: Tensor  # [B, k]
    read: float  # share of the candidates whose vectors were read
    scored: float  # share of the candidates that were scored in float32

    @classmethod
    def of(cls, bests: Sequence["Best"], read: float, scored: float) -> "SearchResult":
        """Put the best candidates of B contexts together."""
        return cls(torch.stack([b.scores for b in bests]), torch.stack([b.rows for b in bests]), read, scored)


class Best:
    """The best k candidates of one context so far."""

    def __init__(self, count: int):
        self.scores = torch.full((count,), -torch.inf)  # [k], falling
        self.rows = torch.full((count,), -1)  # [k]

    def add(self, scores: Tensor, rows: Tensor) -> None:
        """Add candidates [n], and keep the best. Of equal scores the lower row wins, whatever came first."""
        rows, order = torch.cat([self.rows, rows]).sort()
        scores, place = torch.cat([self.scores, scores])[order].sort(descending=True, stable=True)
        count = len(self.rows)
        self.scores, self.rows = scores[:count], rows[place[:count]]

    @property
    def threshold(self) -> float:
        """Return the k-th best score: a candidate below it is not among the best."""
        return float(self.scores[-1])


# --- every ranker that encodes candidates -----------------------------------------------------------------------------


def streamed(ranker: Ranker, contexts: Any, vectors: Vectors) -> Iterator[tuple[int, Tensor]]:
    """Score encoded contexts slice by slice. Yields the first row of each slice and its scores [B, n]."""
    for first, candidates in vectors.slices(max(1, ROWS // vectors.vectors_each)):
        candidates = map_tensors(lambda part: part.unsqueeze(0).to(ranker.device), candidates)  # [1, n, ...]
        if isinstance(contexts, Views):
            candidates = candidates.float()
        yield first, ranker.score_encoded(contexts, candidates).float().cpu()


def streamed_best(ranker: Ranker, contexts: Any, vectors: Vectors, count: int) -> SearchResult:
    """Find the best `count` by the ranker's own scores of all candidates."""
    bests: list[Best] = []
    for first, scores in streamed(ranker, contexts, vectors):
        bests = bests or [Best(count) for _ in scores]
        for best, line in zip(bests, scores, strict=True):
            values, rows = line.topk(min(count, len(line)))
            best.add(values, rows + first)
    return SearchResult.of(bests, 1.0, 1.0)


# --- rankers whose contexts are views ---------------------------------------------------------------------------------


@torch.no_grad()
def exact(contexts: Views, vectors: Vectors, count: int) -> SearchResult:
    """Find the best `count` candidates for each context, from the inner products of all."""
    queries = queries_of(contexts, vectors.dtype)
    most_views = max(len(query.views) for query in queries)
    bests, scored = [], 0
    at_once = max(1, BOUNDS // len(vectors))
    for some in (queries[start : start + at_once] for start in range(0, len(queries), at_once)):
        # A context with fewer views repeats its last one, which changes no maximum.
        joint = torch.cat([q.rounded[torch.arange(most_views).clamp(max=len(q.views) - 1)] for q in some])  # [B K, D]
        bounds = torch.empty(len(some), len(vectors))
        for block in vectors.blocks(max(256, min(ROWS, PRODUCTS // len(joint)))):
            largest = block.products(joint).unflatten(-1, (len(some), most_views)).amax(-1)  # [n, B]
            for query, line, own in zip(some, largest.unbind(-1), bounds, strict=True):
                own[block.first : block.first + len(line)] = query.bound(block.scaled(line), block.norms)
        for query, own in zip(some, bounds, strict=True):
            bests.append(Best(count))
            scored += score_promising(query, vectors, torch.arange(len(vectors)), own, bests[-1])
    return SearchResult.of(bests, 1.0, scored / (len(bests) * len(vectors)))


@torch.no_grad()
def certified(contexts: Views, vectors: Vectors, count: int) -> SearchResult:
    """Find what `exact` finds, without reading every vector."""
    bests, read, scored = [], 0, 0
    for query in queries_of(contexts, vectors.dtype):
        best, bounds = Best(count), sketch.bounds(query.views, vectors, ROWS)
        first = bounds.topk(min(max(BATCH, count), len(bounds))).indices
        best.add(query.score(vectors.block(first)), first)
        possible = bounds >= best.threshold
        possible[first] = False
        rows = possible.nonzero().squeeze(-1)
        if len(rows):
            tight_bounds = torch.cat([query.tight_bounds(vectors.block(part)) for part in rows.split(ROWS)])
            scored += score_promising(query, vectors, rows, tight_bounds, best)
        scored += len(first)
        read += len(first) + len(rows)
        bests.append(best)
    total = len(bests) * len(vectors)
    return SearchResult.of(bests, read / total, scored / total)


@torch.no_grad()
def fast(contexts: Views, vectors: Vectors, count: int, scored: int) -> SearchResult:
    """Find the best `count` of the `scored` candidates with the largest estimates."""
    bests = []
    scored = min(max(scored, count), len(vectors))
    for query in queries_of(contexts, vectors.dtype):
        some_views = sketch.spread_out(query.views, SPREAD)
        rows = sketch.estimates(some_views, vectors, ROWS).topk(scored).indices
        bests.append(Best(count))
        for part in rows.split(BATCH):
            bests[-1].add(query.score(vectors.block(part)), part)
    share = scored / len(vectors)
    return SearchResult.of(bests, share, share)


def score_promising(query: "Query", vectors: Vectors, rows: Tensor, bounds: Tensor, best: Best) -> int:
    """Score the rows whose bounds can still reach the best, highest bound first.

    Args:
        query: the context.
        vectors: all candidates.
        rows: rows to consider, [n].
        bounds: upper bounds of their scores, [n].
        best: the best candidates so far; the scored rows are added.

    Returns:
        How many rows were scored.
    """
    first = bounds.topk(min(BATCH, len(bounds))).indices
    best.add(query.score(vectors.block(rows[first])), rows[first])
    possible = bounds >= best.threshold
    possible[first] = False
    chosen = possible.nonzero().squeeze(-1)
    chosen = chosen[bounds[chosen].argsort(descending=True)]
    done = len(first)
    for part in chosen.split(BATCH) if len(chosen) else ():
        if float(bounds[part[0]]) < best.threshold:
            break
        best.add(query.score(vectors.block(rows[part])), rows[part])
        done += len(part)
    return done


class Query:
    """The views of one context, with a bound on the rounding error of their inner products."""

    def __init__(self, vectors: Tensor, mask: Tensor | None, dtype: torch.dtype, scale: float):
        """Round the views to the type that inner products are computed in.

        Args:
            vectors: views [K, D].
            mask: True for real views, [K]. None: all are real.
            dtype: the type of the products.
            scale: multiplies the products under the softmax of the score.
        """
        self.scale = scale
        self.views = (vectors if mask is None else vectors[mask]).float()  # [K, D], the real ones
        self.rounded = self.views.to(dtype)
        summation = self.views.shape[-1] * 2**-23 * self.views.norm(dim=-1)  # error of adding D products in float32
        self.error = float(((self.views - self.rounded.float()).norm(dim=-1) + summation).max())  # times |candidate|
        self.relative_error = 0.51 * torch.finfo(dtype).eps  # the result is rounded once more

    def bound(self, largest: Tensor, norms: Tensor) -> Tensor:
        """Bound the largest true inner product of candidates with a view, from above.

        Args:
            largest: the largest product of each candidate as it was computed, [n].
            norms: the norms of the candidates, [n].
        """
        return largest + largest.abs() * self.relative_error + norms * self.error

    def tight_bounds(self, block: Block) -> Tensor:
        """Bound the same from the vectors of some candidates, [n]."""
        return self.bound(block.scaled(block.products(self.rounded).amax(-1)), block.norms)

    def score(self, block: Block) -> Tensor:
        """Score some candidates in float32, [n]."""
        return maths.poly(self.views.unsqueeze(0), block.values.unsqueeze(0), scale=self.scale).squeeze(0)


def queries_of(contexts: Views, stored: torch.dtype) -> list[Query]:
    """Make a query of each context, for vectors that are stored in a type."""
    dtype = product_dtype(stored)
    masks = [None] * len(contexts.vectors) if contexts.mask is None else contexts.mask
    return [Query(*pair, dtype, contexts.scale) for pair in zip(contexts.vectors, masks, strict=True)]
