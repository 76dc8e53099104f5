"""Measures of a ranking: by hand, and against trec_eval."""

import math
import random

import pytest
import pytrec_eval
import torch
from torch.nn.functional import pad

from poly_agents.candidates import pool
from poly_agents.evaluation.measures import (
    average_precision,
    measures,
    ndcg,
    ranked,
    recall_any,
    recall_share,
    reciprocal_rank,
)
from poly_agents.scoring.ranks import SORTED, label_ranks, top

KS = (1, 2, 5, 10)


def measured(scores, relevance, mask=None, grades=None, ks=KS, exponential=False) -> dict[str, torch.Tensor]:
    places = ranked(scores, relevance, mask)
    graded = places if grades is None else ranked(scores, grades, mask)
    return measures(places.ranks, graded, ks, exponential)


def test_a_ranking_by_hand():
    """Order: right, wrong, right (grade 3), wrong, right; the last one's grade is 2."""
    scores, relevance = torch.tensor([[5.0, 4, 3, 2, 1]]), torch.tensor([[1.0, 0, 3, 0, 2]])
    ranks, _, grades = ranked(scores, relevance)
    assert ranks.tolist() == [[1, 3, 5]] and grades.tolist() == [[1, 3, 2]]
    assert [recall_any(ranks, k).item() for k in (1, 2, 5)] == [1, 1, 1]
    assert [recall_share(ranks, k).item() for k in (1, 3, 5)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert reciprocal_rank(ranks).item() == 1
    assert average_precision(ranks).item() == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    log = math.log2
    assert ndcg(ranks, grades, 3).item() == pytest.approx((1 + 3 / 2) / (3 + 2 / log(3) + 1 / 2))
    assert ndcg(ranks, grades, 3, True).item() == pytest.approx((1 + 7 / 2) / (7 + 3 / log(3) + 1 / 2))


def test_the_two_conventions_differ_where_two_are_right():
    found = measured(torch.tensor([[3.0, 2, 1]]), torch.tensor([[1, 0, 1]]), ks=(1, 2, 3))
    assert [found[f"recall_any@{k}"].item() for k in (1, 2, 3)] == [1, 1, 1]
    assert [found[f"recall_share@{k}"].item() for k in (1, 2, 3)] == [0.5, 0.5, 1]


def random_batch(seed: int, kind: str):
    """Scores, grades and mask [B, C] with ties or without, some rows shorter."""
    torch.manual_seed(seed)
    scores = torch.randn(31, 17) if kind == "random" else torch.randint(0, 4, (31, 17)).float()
    grades = torch.randint(0, 4, (31, 17)).float() * (torch.rand(31, 17) < 0.3)
    sizes = torch.randint(1, 18, (31, 1))
    return scores, grades, torch.arange(17) < sizes


@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("seed", range(5))
def test_measures_are_those_of_trec_eval(kind, seed):
    """Small steps in the scores tell trec_eval to put the less relevant first among ties."""
    scores, grades, mask = random_batch(seed, kind)
    nudged = scores - 1e-3 * grades * (kind == "tied")  # trec_eval computes in float32
    judged, run = {}, {}
    for row in range(len(scores)):
        columns = mask[row].nonzero()[:, 0].tolist()
        judged[str(row)] = {str(c): int(grades[row, c]) for c in columns}
        run[str(row)] = {str(c): float(nudged[row, c]) for c in columns}
    names = {"recip_rank": "mrr", "map": "map", "P_1": "p@1"}
    cuts = {"success": "recall_any", "recall": "recall_share", "ndcg_cut": "ndcg"}
    names |= {f"{theirs}_{k}": f"{ours}@{k}" for theirs, ours in cuts.items() for k in KS}
    wanted = {"recip_rank", "map", "P.1", *(f"{name}.1,2,5,10" for name in cuts)}
    theirs = pytrec_eval.RelevanceEvaluator(judged, wanted).evaluate(run)
    ours = measured(scores, grades, mask)
    for row in range(len(scores)):
        none = not (grades[row] * mask[row]).any()
        for name, own in names.items():
            value = ours[own][row].item()
            assert math.isnan(value) if none else value == pytest.approx(theirs[str(row)][name], abs=1e-6), name


def test_exponential_gains_are_those_of_grades_raised_before():
    scores, grades, mask = random_batch(7, "random")
    own = measured(scores, grades, mask, exponential=True)
    raised = measured(scores, grades.exp2() - 1, mask)
    for k in KS:
        torch.testing.assert_close(own[f"ndcg@{k}"], raised[f"ndcg@{k}"], equal_nan=True)


@pytest.mark.parametrize("score", [0.0, torch.inf, -torch.inf, torch.nan])
def test_one_score_for_all_is_never_better_than_chance(score):
    relevance = torch.zeros(11, 7)
    relevance[torch.arange(11), torch.arange(11) % 7] = 1
    found = measured(torch.full((11, 7), score), relevance)
    assert found["rank"].tolist() == [7] * 11
    assert found["recall_any@1"].sum() == found["recall_any@5"].sum() == found["p@1"].sum() == 0
    assert found["mrr"].tolist() == found["map"].tolist() == pytest.approx([1 / 7] * 11)


def test_not_a_number_is_the_worst_score_of_a_right_candidate_and_the_best_of_any_other():
    nan = torch.nan
    scores, relevance = torch.tensor([[nan, 5, -5], [1, nan, -5], [nan, nan, 1]]), torch.tensor([[1, 0, 0]] * 3)
    assert ranked(scores, relevance).ranks.tolist() == [[3], [2], [3]]


def test_of_tied_right_candidates_the_lower_grade_comes_first():
    ranks, columns, grades = ranked(torch.zeros(1, 4), torch.tensor([[2.0, 0, 3, 1]]))
    assert ranks.tolist() == [[2, 3, 4]] and columns.tolist() == [[3, 0, 2]] and grades.tolist() == [[1, 2, 3]]


def test_neither_the_batch_nor_padding_nor_the_order_changes_a_measure():
    scores, grades, mask = random_batch(3, "tied")
    whole = measured(scores, grades, mask)
    wider = [pad(part, (0, 5), value=value) for part, value in ((scores, 9), (grades, 3), (mask, False))]
    shuffled = torch.randperm(17)
    assert_same(whole, measured(*(part[:, shuffled] for part in (scores, grades, mask))))
    assert_same(whole, measured(*wider))
    for row in range(len(scores)):
        size = int(mask[row].sum())
        alone = measured(scores[row : row + 1, :size], grades[row : row + 1, :size])
        assert_same({name: values[row : row + 1] for name, values in whole.items()}, alone)


def assert_same(one, other) -> None:
    for name, values in one.items():
        torch.testing.assert_close(values, other[name], equal_nan=True)


def test_a_label_s_rank_counts_ties_and_not_a_number_against_it():
    scores = torch.tensor([[1.0, 1, 0, 1], [2, 1, 3, 0], [torch.nan, 1, 2, 0]])
    assert label_ranks(scores, torch.tensor([0, 0, 0])).tolist() == [3, 2, 4]
    assert label_ranks(scores, torch.tensor([-1, 3, -1])).tolist() == [0, 4, 0]


@pytest.mark.parametrize("size", [13, SORTED + 13])
def test_the_best_few_put_what_is_marked_last_among_equals(size):
    scores = torch.arange(size).remainder(3).float()
    last = torch.zeros(size, dtype=torch.bool)
    last[[2, 5]] = True
    best = scores.eq(2).sum().item()
    values, order = top(scores, best + 1, last)
    assert values.tolist() == [2.0] * best + [1.0]
    assert order[best - 2 : best].sort().values.tolist() == [2, 5]
    few = top(scores, 2, last).indices
    assert not last[few].any()


def test_relevance_is_found_in_every_kind_of_pool():
    wanted = [{"a": 1.0, "zz": 1.0}, {" b": 2.0, "c": 3.0, "c ": 1.0}]
    shared = pool.shared(["c", "a", "b", "a "], [[1], [2], [3], [2]], None)
    assert pool.relevance(shared, wanted).tolist() == [[0, 1, 0], [3, 0, 2]]
    separate = pool.separate([["b", "a", "a"], ["x", "c", "a", "b"]], [[[3], [2], [2]], [[4], [1], [2], [3]]], None)
    assert pool.relevance(separate, wanted).tolist() == [[0, 1, 0, 0], [0, 3, 0, 2]]


def test_a_random_scorer_is_as_good_as_chance():
    draw = random.Random(2)
    scores = torch.tensor([[draw.random() for _ in range(10)] for _ in range(4000)])
    relevance = torch.zeros(4000, 10)
    relevance[:, 0] = 1
    found = measured(scores, relevance)
    assert found["recall_any@1"].mean().item() == pytest.approx(0.1, abs=0.02)
    assert found["mrr"].mean().item() == pytest.approx(sum(1 / r for r in range(1, 11)) / 10, abs=0.02)
