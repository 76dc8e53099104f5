"""The best k candidates of a store.

A poly score is a mean of inner products, so it is never above the largest of them:

    sum_k softmax_k(S) S_k  <=  max_k S_k,   S_k = view_k . candidate

Whoever has a bound of that maximum for what has not been scored, and the k-th best score so far, knows when no other
candidate can be among the best. Every search here returns scores in float32 of the vectors as they are kept.

`exact`      bounds from all inner products, in the store's own precision: as computed, with all that rounding can do.
`certified`  the same result from bounds of int8 codes (`sketch.py`); only the vectors that these leave over are read.
`fast`       the candidates of which the codes promise most, and no others: nothing is proven.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poly_agents.candidates import sketch
from poly_agents.candidates.store import Store
from poly_agents.candidates.vectors import PRECISIONS, Block, Vectors, blocks, computed_in
from poly_agents.encoders.states import map_tensors
from poly_agents.options import Options, at_least, option
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Ranker, Views
from poly_agents.text.tokens import Tokens

SEARCH_MODES = ("exact", "certified", "fast")
PRODUCTS = 2**19  # at a time: they and the candidates stay in cache
ROWS = 2**13  # candidates at a time, at most
BATCH = 256  # candidates that are scored in float32 at a time
BOUNDS = 2**26  # held at a time: of so many contexts and candidates
SPREAD = 16  # views that stand for all of a context's in `fast`


@dataclass(frozen=True)
class SearchOptions(Options):
    """How a store is searched, and kept."""

    search: str = option(
        "exact", "the best of the kept candidates: exact, certified (the same, bounded), fast", SEARCH_MODES
    )
    search_scored: int = option(500, "how many candidates --search fast scores for each context")
    store_precision: str = option("auto", "of kept candidates; auto: what the encoder computes in", PRECISIONS)

    def __post_init__(self):
        super().__post_init__()
        at_least(self, "search_scored", 1)


class SearchResult(NamedTuple):
    """The best of each of B contexts, best first; minus infinity and row -1 where there are fewer than k."""

    scores: Tensor  # [B, k] float32
    rows: Tensor  # [B, k]
    read: float  # share of the candidates whose vectors were looked at
    scored: float  # share of them that were scored in float32


class Search:
    """A store, and one way of finding the best in it."""

    def __init__(self, store: Store, options: SearchOptions):
        if options.search != "exact" and not store.vectors.single:
            raise ValueError(
                f"--search {options.search} is for rankers that keep one vector a candidate: bi, poly, early"
            )
        self.store, self.options = store, options

    @torch.no_grad()
    def scores(self, ranker: Ranker, contexts: Tokens) -> Tensor:
        """Of all candidates, for some bare contexts: [B, N] in float32."""
        parts = streamed(ranker, ranker.encode_contexts(contexts.to(ranker.device)), self.store.vectors)
        return torch.cat([part for _, part in parts], -1)

    @torch.no_grad()
    def best(self, ranker: Ranker, contexts: Tokens, count: int) -> SearchResult:
        """The best `count` for each of some bare contexts [B, L]."""
        prepared, vectors = ranker.encode_contexts(contexts.to(ranker.device)), self.store.vectors
        if not isinstance(prepared, Views) or not vectors.single:
            return streamed_best(ranker, prepared, vectors, count)
        prepared = prepared.cpu()
        if self.options.search == "certified":
            return certified(prepared, vectors, count)
        if self.options.search == "fast":
            return fast(prepared, vectors, count, self.options.search_scored)
        return exact(prepared, vectors, count)


# --- any ranker that keeps candidates -------------------------------------------------------------------------------


def streamed(ranker: Ranker, prepared: Any, vectors: Vectors) -> Iterator[tuple[int, Tensor]]:
    """First row and scores [B, n] of one slice after another."""
    for first, kept in vectors.slices(max(1, ROWS // vectors.tokens)):
        kept = map_tensors(lambda part: part.unsqueeze(0).to(ranker.device), kept)
        if isinstance(prepared, Views):
            kept = kept.float()
        yield first, ranker.score_encoded(prepared, kept).float().cpu()


def streamed_best(ranker: Ranker, prepared: Any, vectors: Vectors, count: int) -> SearchResult:
    """The ranker's own scores, merged slice by slice."""
    bests: list[Best] = []
    for first, part in streamed(ranker, prepared, vectors):
        bests = bests or [Best(count) for _ in part]
        for best, line in zip(bests, part, strict=True):
            values, rows = line.topk(min(count, len(line)))
            best.add(values, rows + first)
    return found(bests, 1.0, 1.0)


# --- rankers whose contexts are views -------------------------------------------------------------------------------


@torch.no_grad()
def exact(prepared: Views, vectors: Vectors, count: int) -> SearchResult:
    """The best `count` of all candidates, for each context."""
    queries = queries_of(prepared, vectors.kind)
    most = max(len(query.views) for query in queries)
    bests, scored = [], 0
    at_once = max(1, BOUNDS // len(vectors))
    for some in (queries[start : start + at_once] for start in range(0, len(queries), at_once)):
        together = torch.cat([q.rounded[torch.arange(most).clamp(max=len(q.views) - 1)] for q in some])  # [B K, D]
        bounds = torch.empty(len(some), len(vectors))
        for block in blocks(vectors, max(256, min(ROWS, PRODUCTS // len(together)))):
            largest = block.products(together).unflatten(-1, (len(some), most)).amax(-1)  # [n, B]
            for query, line, own in zip(some, largest.unbind(-1), bounds, strict=True):
                own[block.first : block.first + len(line)] = query.bound(block.scaled(line), block.norms)
        for query, own in zip(some, bounds, strict=True):
            bests.append(Best(count))
            scored += score_promising(query, vectors, torch.arange(len(vectors)), own, bests[-1])
    return found(bests, 1.0, scored / (len(bests) * len(vectors)))


@torch.no_grad()
def certified(prepared: Views, vectors: Vectors, count: int) -> SearchResult:
    """What `exact` finds."""
    bests, read, scored = [], 0, 0
    for query in queries_of(prepared, vectors.kind):
        best, bounds = Best(count), query.codes(vectors, sketch.bound)
        first = bounds.topk(min(max(BATCH, count), len(bounds))).indices
        best.add(query.score(vectors.block(first)), first)
        left = bounds >= best.threshold
        left[first] = False
        rows = left.nonzero().squeeze(-1)
        if len(rows):
            tight_bounds = torch.cat([query.tight_bounds(vectors.block(part)) for part in rows.split(ROWS)])
            scored += score_promising(query, vectors, rows, tight_bounds, best)
        scored += len(first)
        read += len(first) + len(rows)
        bests.append(best)
    total = len(bests) * len(vectors)
    return found(bests, read / total, scored / total)


@torch.no_grad()
def fast(prepared: Views, vectors: Vectors, count: int, scored: int) -> SearchResult:
    """The best `count` of the `scored` candidates whose codes promise most."""
    bests = []
    for query in queries_of(prepared, vectors.kind):
        query.views, views = sketch.spread_out(query.views, SPREAD), query.views
        rows = query.codes(vectors, sketch.largest).topk(min(max(scored, count), len(vectors))).indices
        query.views = views
        bests.append(Best(count))
        for part in rows.split(BATCH):
            bests[-1].add(query.score(vectors.block(part)), part)
    share = len(rows) / len(vectors)
    return found(bests, share, share)


def score_promising(query: "Query", vectors: Vectors, rows: Tensor, bounds: Tensor, best: "Best") -> int:
    """Score what can still be among the best of `rows`, most promising first; how many that were."""
    first = bounds.topk(min(BATCH, len(bounds))).indices
    best.add(query.score(vectors.block(rows[first])), rows[first])
    left = bounds >= best.threshold
    left[first] = False
    chosen = left.nonzero().squeeze(-1)
    chosen = chosen[bounds[chosen].argsort(descending=True)]
    done = len(first)
    for part in chosen.split(BATCH) if len(chosen) else ():
        if float(bounds[part[0]]) < best.threshold:
            break
        best.add(query.score(vectors.block(rows[part])), rows[part])
        done += len(part)
    return done


class Query:
    """One context's views, and how far from true a product with them can be once rounded."""

    def __init__(self, vectors: Tensor, mask: Tensor | None, kind: torch.dtype, scale: float):
        self.scale = scale
        self.views = (vectors if mask is None else vectors[mask]).float()  # [K, D], the real ones
        self.rounded = self.views.to(kind)
        summed = self.views.shape[-1] * 2**-23 * self.views.norm(dim=-1)  # of D products, added up in float32
        self.off = float(((self.views - self.rounded.float()).norm(dim=-1) + summed).max())
        self.relative = 0.51 * torch.finfo(kind).eps  # the result is rounded once more

    def bound(self, largest: Tensor, norms: Tensor) -> Tensor:
        """What the largest true product can be at most: `largest` as computed and the candidates' norms, [n] each."""
        return largest + largest.abs() * self.relative + norms * self.off

    def tight_bounds(self, block: Block) -> Tensor:
        """The same, of some candidates, [n]."""
        return self.bound(block.scaled(block.products(self.rounded).amax(-1)), block.norms)

    def codes(self, vectors: Vectors, function) -> Tensor:
        """`bound` or `largest` of the sketch, for every candidate: [N]."""
        return torch.cat([function(sketch.code(self.views, part), part, ROWS) for part in vectors.segments])

    def score(self, block: Block) -> Tensor:
        """Scores of some candidates in float32, [n]."""
        return maths.poly(self.views.unsqueeze(0), block.numbers.unsqueeze(0), scale=self.scale).squeeze(0)


class Best:
    """The best k so far of one context."""

    def __init__(self, count: int):
        self.scores = torch.full((count,), -torch.inf)  # [k], falling
        self.rows = torch.full((count,), -1)

    def add(self, scores: Tensor, rows: Tensor) -> None:
        """Take part [n] in the score_promising."""
        rows, order = torch.cat([self.rows, rows]).sort()  # of equal scores the first row wins, whatever came first
        scores, place = torch.cat([self.scores, scores])[order].sort(descending=True, stable=True)
        count = len(self.rows)
        self.scores, self.rows = scores[:count], rows[place[:count]]

    @property
    def least(self) -> float:
        """What a score has to reach to be among them."""
        return float(self.scores[-1])


def queries_of(prepared: Views, kind: torch.dtype) -> list[Query]:
    """Of vectors kept as `kind`."""
    kind = computed_in(kind)
    masks = [None] * len(prepared.vectors) if prepared.mask is None else prepared.mask
    return [Query(*pair, kind, prepared.scale) for pair in zip(prepared.vectors, masks, strict=True)]


def found(bests: Sequence[Best], read: float, scored: float) -> SearchResult:
    return SearchResult(torch.stack([b.scores for b in bests]), torch.stack([b.rows for b in bests]), read, scored)
