"""The best k candidates of a store, one slice after another.

A poly score is a mean of inner products, so it is never above the largest of them:

    sum_k softmax_k(S) S_k  <=  max_k S_k,   S_k = view_k . candidate

Whoever knows a bound of that maximum for what has not been scored, and the k-th best score so far, knows when no other
candidate can be among the best. Every search here returns scores in float32 of the vectors as they are kept.

`exact`      all inner products, in the store's own precision; then the score of those whose largest one, with all
             that rounding can do to it, reaches the k-th best.
`certified`  the same result, from fewer products: whole clusters, then single candidates, are left out when a bound of
             their inner products stays below the k-th best.
`fast`       the clusters that are nearest to the views, and no others: nothing is proven.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poly_agents import clusters as by_cluster
from poly_agents import maths
from poly_agents.clusters import Clusters
from poly_agents.options import Options, option
from poly_agents.ranker import Ranker, Views, each
from poly_agents.store import Store
from poly_agents.tokens import Tokens
from poly_agents.vectors import PRECISIONS, Block, Vectors, blocks, computed_in

HOW = ("exact", "certified", "fast")
PRODUCTS = 2**19  # at a time: they and the candidates stay in cache
ROWS = 2**14  # candidates at a time, at most
RANK = 8  # directions that stand for a context's views
SEEDS = 8  # clusters that are looked into before any is left out
BATCH = 256  # candidates that are scored exactly at a time


@dataclass(frozen=True)
class SearchOptions(Options):
    """How a store is searched, and kept."""

    search: str = option("exact", "the best of the kept candidates: exact, certified (the same, bounded), fast", HOW)
    search_share: float = option(0.05, "the share of the clusters that --search fast looks into")
    store_precision: str = option("auto", "of kept candidates; auto: what the encoder computes in", PRECISIONS)

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.search_share <= 1:
            raise ValueError(f"--search-share must be more than 0 and at most 1, got {self.search_share}")


class Found(NamedTuple):
    """The best of each of B contexts, best first; minus infinity and row -1 where there are fewer than k."""

    scores: Tensor  # [B, k] float32
    rows: Tensor  # [B, k]
    read: float = 1.0  # share of the store's candidates whose vectors were looked at
    scored: float = 1.0  # share of them that were scored in float32


class Best:
    """The best k so far of one context."""

    def __init__(self, count: int):
        self.scores = torch.full((count,), -torch.inf)  # [k], falling
        self.rows = torch.full((count,), -1)

    def add(self, scores: Tensor, rows: Tensor) -> None:
        """Take part [n] in the contest."""
        rows, order = torch.cat([self.rows, rows]).sort()  # of equal scores the first row wins, whatever came first
        scores, place = torch.cat([self.scores, scores])[order].sort(descending=True, stable=True)
        count = len(self.rows)
        self.scores, self.rows = scores[:count], rows[place[:count]]

    @property
    def least(self) -> float:
        """What a score has to reach to be among them."""
        return float(self.scores[-1])


class Query:
    """One context's views, and how far from true a product with them can be once rounded."""

    def __init__(self, vectors: Tensor, mask: Tensor | None, kind: torch.dtype):
        self.views = (vectors if mask is None else vectors[mask]).float()  # [K, D], the real ones
        self.rounded = self.views.to(kind)
        self.norms = self.views.norm(dim=-1)  # [K]
        summed = self.views.shape[-1] * 2**-23 * self.norms  # of D products, added up in float32
        self.off = float(((self.views - self.rounded.float()).norm(dim=-1) + summed).max())
        self.relative = 0.51 * torch.finfo(kind).eps  # the result is rounded once more

    def bound(self, largest: Tensor, norms: Tensor) -> Tensor:
        """What the largest true product can be at most: `largest` as computed and the candidates' norms, [n] each."""
        return largest + largest.abs() * self.relative + norms * self.off

    def score(self, block: Block, rows: Tensor) -> Tensor:
        """Scores of some rows [n] of a block, in float32."""
        return maths.poly(self.views.unsqueeze(0), block.numbers(rows).unsqueeze(0)).squeeze(0)


def contest(query: Query, block: Block, bounds: Tensor, best: Best) -> int:
    """Score what can still be among the best, most promising first; how many that were."""
    rows = (bounds >= best.least).nonzero().squeeze(-1)
    if len(rows) > BATCH:
        rows = rows[bounds[rows].argsort(descending=True)]
    done = 0
    for part in rows.split(BATCH):
        if done and float(bounds[part[0]]) < best.least:
            break
        best.add(query.score(block, part), part + block.first)
        done += len(part)
    return done


def exact(ranker: Ranker, prepared: Any, vectors: Vectors, count: int) -> Found:
    """The best `count` of all candidates, for each of the prepared contexts."""
    if not isinstance(prepared, Views) or not vectors.single:
        return streamed(ranker, prepared, vectors, count)
    queries = queries_of(prepared, computed_in(vectors.segments[0]["vectors"].dtype))
    bests, scored = [Best(count) for _ in queries], 0
    most = max(len(query.views) for query in queries)
    together = torch.cat([q.rounded[torch.arange(most).clamp(max=len(q.views) - 1)] for q in queries])  # [B K, D]
    for block in blocks(vectors, max(256, min(ROWS, PRODUCTS // len(together)))):
        products = block.products(together).unflatten(-1, (len(queries), most))  # [n, B, K]
        largest = products.amax(-1) if most > 1 else products.squeeze(-1)  # [n, B]
        for number, (query, best) in enumerate(zip(queries, bests, strict=True)):
            scored += contest(query, block, query.bound(block.scaled(largest[:, number]), block.norms), best)
    return found(bests, 1.0, scored / (len(queries) * len(vectors)))


def streamed(ranker: Ranker, prepared: Any, vectors: Vectors, count: int) -> Found:
    """Of any ranker that keeps candidates: its own scores, a slice at a time."""
    bests = []
    for first, part in scored(ranker, prepared, vectors):
        bests = bests or [Best(count) for _ in part]
        for best, line in zip(bests, part, strict=True):
            values, rows = line.topk(min(count, len(line)))
            best.add(values, rows + first)
    return found(bests, 1.0, 1.0)


def scores(ranker: Ranker, prepared: Any, vectors: Vectors) -> Tensor:
    """Those of all candidates, [B, N] in float32."""
    return torch.cat([part for _, part in scored(ranker, prepared, vectors)], -1)


def scored(ranker: Ranker, prepared: Any, vectors: Vectors) -> Iterator[tuple[int, Tensor]]:
    """First row and scores [B, n] of one slice after another."""
    for first, kept in vectors.slices(max(1, ROWS // vectors.tokens)):
        kept = each(lambda part: part.unsqueeze(0).to(ranker.device), kept)
        if isinstance(prepared, Views):
            kept = kept.float()
        yield first, ranker.match(prepared, kept).float().cpu()


def certified(prepared: Views, clusters: Clusters, count: int) -> Found:
    """What `exact` finds, with most of the store left unread or unscored."""
    return sweep(prepared, clusters, count, min(SEEDS / len(clusters.radii), 1.0), proven=True)


def fast(prepared: Views, clusters: Clusters, count: int, share: float) -> Found:
    """The best of the nearest clusters, a `share` of all."""
    return sweep(prepared, clusters, count, share, proven=False)


def sweep(prepared: Views, clusters: Clusters, count: int, share: float, proven: bool) -> Found:
    bests, read, scored = [], 0, 0
    for query in queries_of(prepared, computed_in(clusters.vectors.dtype)):
        basis, best = Basis(query), Best(count)
        products = query.views @ clusters.centres.T  # [K, C]
        order = products.amax(0).argsort(descending=True)
        near = order[: max(1, math.ceil(share * len(order)))]
        for part in near.split(max(1, len(near) // 4)):  # the nearest first: they raise what the others have to reach
            for block in runs(clusters, part):
                read += len(block.vectors)
                scored += contest(query, block, basis.bound(block), best)
        if proven:
            most = (products + query.norms.unsqueeze(-1) * clusters.radii).amax(0) * (1 + 1e-5)
            left = most >= best.least
            left[near] = False
            for block in runs(clusters, left.nonzero().squeeze(-1)):
                read += len(block.vectors)
                scored += contest(query, block, basis.bound(block), best)
        best.rows = torch.where(best.rows < 0, -1, clusters.order[best.rows])
        bests.append(best)
    total = len(bests) * len(clusters.order)
    return found(bests, read / total, scored / total)


class Search:
    """A store, and one way of finding the best in it."""

    def __init__(self, store: Store, options: SearchOptions):
        self.store, self.options = store, options
        self.clusters = by_cluster.of(store) if options.search != "exact" else None

    @torch.no_grad()
    def scores(self, ranker: Ranker, contexts: Tokens) -> Tensor:
        """Of all candidates, for some bare contexts: [B, N]."""
        return scores(ranker, ranker.prepare(contexts.to(ranker.device)), self.store.vectors)

    @torch.no_grad()
    def best(self, ranker: Ranker, contexts: Tokens, count: int) -> Found:
        """The best `count` for each of some bare contexts [B, L]."""
        prepared = ranker.prepare(contexts.to(ranker.device))
        if self.clusters is None:
            return exact(ranker, prepared, self.store.vectors, count)
        if self.options.search == "certified":
            return certified(prepared, self.clusters, count)
        return fast(prepared, self.clusters, count, self.options.search_share)


class Basis:
    """A few directions that a query's views nearly lie in: products with these bound those with all views.

    view . x  =  P q(x) + rest . x  <=  P q(x) + |rest| |x - its part in the basis|
    """

    def __init__(self, query: Query):
        self.query = query
        kind = query.rounded.dtype
        _, _, directions = torch.linalg.svd(query.views, full_matrices=False)
        self.directions = directions[:RANK].to(kind)  # [R, D]
        basis = self.directions.float()
        gram = basis @ basis.T
        self.shares = torch.linalg.solve(gram, basis @ query.views.T)  # [R, K]
        rest = (query.views.T - basis.T @ self.shares).norm(dim=0)  # [K]
        self.shares = torch.cat([self.shares, rest.unsqueeze(0)])  # [R + 1, K]
        self.longest = float(torch.linalg.eigvalsh(gram)[-1])
        self.off = float(self.shares[:-1].norm(dim=0).max())
        self.summed = self.off * basis.shape[1] * 2**-22  # what adding up D products in float32 leaves

    def bound(self, block: Block) -> Tensor:
        """What the largest true product of each candidate can be at most, [n]."""
        inside = block.products(self.directions).float()  # [n, R]
        if block.scales is not None:
            inside = inside * block.scales
        squared, error = inside.square().sum(-1), self.query.relative
        rest = (block.norms.square() - squared * ((1 - 2 * error) / self.longest)).clamp(min=0).sqrt()
        largest = (torch.cat([inside, rest.unsqueeze(-1)], -1) @ self.shares).amax(-1)
        return largest + squared.sqrt() * (self.off * error) + block.norms * self.summed


def runs(clusters: Clusters, chosen: Tensor) -> Iterator[Block]:
    """The rows of some clusters, neighbours together."""
    chosen = chosen.sort().values
    starts, stops = clusters.starts[chosen].tolist(), clusters.starts[chosen + 1].tolist()
    edges = [n for n in range(1, len(starts)) if starts[n] != stops[n - 1]]
    for first, end in zip([0, *edges], [*edges, len(starts)], strict=True):
        for start in range(starts[first], stops[end - 1], ROWS) if starts else ():
            yield clusters.block(start, min(start + ROWS, stops[end - 1]))


def queries_of(prepared: Views, kind: torch.dtype) -> list[Query]:
    masks = [None] * len(prepared.vectors) if prepared.mask is None else prepared.mask
    return [Query(*pair, kind) for pair in zip(prepared.vectors, masks, strict=True)]


def found(bests: Sequence[Best], read: float, scored: float) -> Found:
    return Found(torch.stack([b.scores for b in bests]), torch.stack([b.rows for b in bests]), read, scored)
