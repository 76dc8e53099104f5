"""Searches: `exact` against a sort of all scores, `certified` against `exact`, `fast` against what it promises."""

import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from poly_agents.candidates import search, sketch
from poly_agents.candidates.vectors import Vectors
from poly_agents.candidates.writer import Recipe, build
from poly_agents.encoders.states import map_tensors
from poly_agents.rankers.poly import PolyRanker
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Views
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.tokens import pad
from tests.rankers import all_rankers, make_ranker

WIDTH, COUNT = 23, 7
PRECISIONS = ["float32", "bfloat16", "int8"]


def candidates(number: int) -> torch.Tensor:
    """Draw vectors in 11 clumps, [N, D]."""
    draw = torch.Generator().manual_seed(number)
    clumps = torch.randn(11, WIDTH, generator=draw)
    return clumps[torch.arange(number) % 11] + 0.3 * torch.randn(number, WIDTH, generator=draw)


def views(contexts: int, count: int, spread: float = 0.3) -> Views:
    draw = torch.Generator().manual_seed(count)
    middle = torch.randn(contexts, 1, WIDTH, generator=draw)
    mask = torch.ones(contexts, count, dtype=torch.bool)
    mask[0, 1:] = count < 4
    return Views(middle + spread * torch.randn(contexts, count, WIDTH, generator=draw), mask)


@pytest.fixture
def small_slices(monkeypatch):
    """Make slices and batches so small that a few hundred candidates need many of them."""
    for name, value in {"ROWS": 37, "BATCH": 5, "SPREAD": 2, "BOUNDS": 1300}.items():
        monkeypatch.setattr(search, name, value)
    monkeypatch.setattr(sketch, "RANK", 13)
    monkeypatch.setattr("poly_agents.candidates.segments.ROWS", 101)


def stored(tmp_path, precision: str, number: int = 613):
    """Make a store of random vectors. The text of a candidate is its number."""
    vectors = candidates(number)
    lines = ({"text": str(row)} for row in range(number))
    recipe = Recipe(lambda texts: vectors[list(map(int, texts))], "test", precision)
    return build(tmp_path / "store", lines, recipe)


def everything(store, contexts: Views) -> torch.Tensor:
    """Score all candidates by their stored vectors, [B, N]."""
    stored = torch.cat([part for _, part in store.vectors.slices(100)]).float()
    return maths.poly(contexts.vectors, stored.unsqueeze(0), contexts.mask)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("count", [1, 3, 19])
def test_exact_and_certified_find_the_best_of_a_sort_of_all(tmp_path, small_slices, precision, count):
    store, contexts = stored(tmp_path, precision), views(3, count)
    scores, rows = everything(store, contexts).sort(descending=True, stable=True)
    found = search.exact(contexts, store.vectors, COUNT)
    assert_close(found.scores, scores[:, :COUNT], atol=1e-5, rtol=1e-5)
    assert found.rows.equal(rows[:, :COUNT])
    proven = search.certified(contexts, store.vectors, COUNT)
    assert proven.rows.equal(found.rows)
    assert_close(proven.scores, found.scores, atol=1e-5, rtol=1e-5)


def test_certified_leaves_most_vectors_unread(tmp_path, small_slices):
    found = search.certified(views(3, 19, spread=0.05), stored(tmp_path, "float32").vectors, 2)
    assert found.scored <= found.read < 0.4


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rank", [5, 160])
def test_no_bound_is_ever_below_what_it_bounds(tmp_path, small_slices, monkeypatch, precision, rank):
    monkeypatch.setattr(sketch, "RANK", rank)
    vectors = stored(tmp_path, precision).vectors
    block = vectors.block(torch.arange(len(vectors)))
    for query in search.queries_of(views(5, 19, spread=1.0), vectors.dtype):
        true = (block.values.double() @ query.views.T.double()).amax(-1)
        for bounds in (query.tight_bounds(block), sketch.bounds(query.views, vectors, 37)):
            assert (bounds.double() >= true).all()
            assert (bounds - true).mean() < true.std() * (0.2 if rank == 160 else 5)


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE", "DEFAULT"])
def test_int8_products_do_not_overflow_on_any_processor(instructions):
    """oneDNN is held to older instructions, which it reads when it is loaded."""
    code = (
        "import torch; from poly_agents.candidates.sketch import int8_products;"
        "left, right = torch.randint(-127, 128, (2, 67, 160)).to(torch.int8); left[0] = right[0] = 127;"
        "assert (int8_products(left, right).double() == left.double() @ right.double().T).all()"
    )
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=100)


def test_equal_scores_keep_the_order_of_their_rows(tmp_path, small_slices):
    vectors = candidates(5)[torch.arange(300) % 5]
    found = search.exact(views(2, 3), Vectors.of(vectors, "float32"), 70)
    for row, line in zip(found.rows, found.scores, strict=True):
        groups = [row[line == value].tolist() for value in line.unique()]
        assert all(group == sorted(group) for group in groups)


def test_a_pool_smaller_than_the_count_is_found_whole(tmp_path):
    vectors, contexts = stored(tmp_path, "float32", 3).vectors, views(2, 5)
    for found in (
        search.exact(contexts, vectors, 5),
        search.certified(contexts, vectors, 5),
        search.fast(contexts, vectors, 5, 1),
    ):
        assert found.rows[:, 3:].eq(-1).all()
        assert found.rows[:, :3].sort().values.equal(torch.arange(3).expand(2, -1))


def test_fast_scores_the_given_number_of_candidates(tmp_path, small_slices):
    vectors, contexts = stored(tmp_path, "bfloat16").vectors, views(3, 5, spread=0.1)
    best = search.exact(contexts, vectors, COUNT)
    some, whole = (search.fast(contexts, vectors, COUNT, count) for count in (60, len(vectors)))
    assert some.scored == pytest.approx(60 / len(vectors))
    assert whole.rows.equal(best.rows)
    assert (some.rows.unsqueeze(-1) == best.rows.unsqueeze(1)).any(-1).float().mean() > 0.8


def test_views_are_picked_far_apart():
    line = torch.tensor([[0.0], [1.0], [2.0], [9.0], [10.0]])
    assert sketch.spread_out(line, 3).tolist() == [[0.0], [10.0], [2.0]]
    assert sketch.spread_out(line, 5) is line


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(all_rankers()))
def test_every_ranker_that_encodes_candidates_is_searched_in_slices(name, backbones, texts, tmp_path, monkeypatch):
    kind = all_rankers()[name]
    tokenizer = Tokenizer.pretrained(backbones[kind])
    ranker = make_ranker(kind, backbones[kind], tokenizer)
    if not kind.can_cache(ranker.options):
        pytest.skip("does not encode candidates ahead")
    monkeypatch.setattr(search, "ROWS", 5)
    ids = texts(3, 11, 1, 6, 2, 9, 4, 4, 8, 5, 7, 12, 1, 2, 3)
    encoded, tokens = ranker.encode_ids(ids), pad(texts(7, 2))
    scores, rows = ranker.score(tokens, map_tensors(lambda part: part.unsqueeze(0), encoded)).sort(descending=True)
    found = search.streamed_best(ranker, ranker.encode_contexts(tokens), Vectors.of(encoded, "float32"), COUNT)
    assert found.rows.equal(rows[:, :COUNT])
    assert_close(found.scores, scores[:, :COUNT], atol=1e-5, rtol=1e-5)


def test_masked_views_of_a_poly_encoder_are_not_searched_with(tiny, tokenizer, texts):
    ranker = make_ranker(PolyRanker, tiny, tokenizer, poly_codes=9, poly_views="last")
    encoded = ranker.encode_ids(texts(*range(1, 30)))
    contexts = ranker.encode_contexts(pad(texts(2, 13)))
    rows = ranker.score_encoded(contexts, encoded.unsqueeze(0)).argsort(descending=True)
    found = search.exact(contexts, Vectors.of(encoded, "float32"), COUNT)
    assert found.rows.equal(rows[:, :COUNT])
