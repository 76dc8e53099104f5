"""Cases worked by hand, small enough to check with a pencil."""

import math

import pytest
import torch
from torch.testing import assert_close

from poly_agents.encoders.states import take_rows
from poly_agents.learning.schedule import WarmupLinear
from poly_agents.rankers.bi import BiOptions
from poly_agents.rankers.poly import PolyOptions, PolyRanker
from poly_agents.scoring import maths
from tests.rankers import make_ranker


def test_poly_score():
    views = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    candidates = torch.tensor([[[1.0, 1.0], [3.0, 0.0]]])
    # candidate 1 meets products 1 and 2, candidate 2 meets 3 and 0
    first = (math.e**1 * 1 + math.e**2 * 2) / (math.e**1 + math.e**2)
    second = math.e**3 * 3 / (math.e**3 + 1)
    assert_close(maths.poly(views, candidates), torch.tensor([[first, second]]))
    assert_close(
        maths.poly(views, candidates.expand(1, -1, -1), torch.tensor([[True, False]])), torch.tensor([[1.0, 3.0]])
    )


def test_poly_score_equals_the_weighted_context_vector():
    torch.manual_seed(1)
    views, candidates = torch.randn(3, 5, 7), torch.randn(3, 11, 7)
    weights = torch.einsum("bcd,bkd->bck", candidates, views).softmax(-1)
    expected = ((weights @ views) * candidates).sum(-1)
    assert_close(maths.poly(views, candidates), expected)
    shared = torch.cat([maths.poly(views[i : i + 1], candidates[:1]) for i in range(3)])
    assert_close(maths.poly(views, candidates[:1]), shared)


def test_a_poly_score_never_exceeds_its_largest_product():
    torch.manual_seed(2)
    views, candidates = torch.randn(2, 5, 7) * 4, torch.randn(1, 101, 7)
    assert (maths.poly(views, candidates) <= (candidates @ views.transpose(1, 2)).amax(-1) + 1e-5).all()


def test_attention_ignores_masked_keys():
    keys = torch.tensor([[[1.0], [2.0], [50.0]]])
    mask = torch.tensor([[True, True, False]])
    expected = (1 + 2 * math.e) / (1 + math.e)
    assert_close(maths.attend(torch.tensor([[1.0]]), keys, mask), torch.tensor([[[expected]]]))


STATES = torch.tensor([[[1.0], [2.0], [3.0], [4.0]], [[5.0], [6.0], [9.0], [9.0]]])
MASK = torch.tensor([[True] * 4, [True, True, False, False]])


@pytest.mark.parametrize(
    ("reduction", "expected"), [("first", [1.0, 5.0]), ("mean", [2.5, 5.5]), ("first-m", [2.0, 5.5])]
)
def test_reductions(reduction, expected):
    options = BiOptions(reduction=reduction, reduction_tokens=3)
    assert options.reduce(STATES, MASK).squeeze(-1).tolist() == expected


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ("first", [[1.0, 2.0, 3.0], [5.0, 6.0]]),
        ("last", [[4.0, 3.0, 2.0], [6.0, 5.0]]),
        ("last-first", [[4.0, 3.0, 2.0, 1.0], [6.0, 5.0]]),
    ],
)
def test_views_are_real_states_each_once(views, expected, tiny, tokenizer):
    ranker = make_ranker(PolyRanker, tiny, tokenizer, poly_codes=3, poly_views=views)
    states, real = ranker.views(STATES, MASK).squeeze(-1), ranker.real_views(MASK)
    assert [row[mask].tolist() for row, mask in zip(states, real, strict=True)] == expected


def test_codes_differ_from_the_start(tiny, tokenizer):
    codes = make_ranker(PolyRanker, tiny, tokenizer, poly_codes=16).codes
    assert torch.pdist(codes.detach()).min() > 0.01


def test_choose_takes_rows_of_every_field():
    assert take_rows(torch.arange(5), torch.tensor([[4, 0]])).tolist() == [[4, 0]]
    assert take_rows(torch.arange(3), None).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda: PolyOptions(poly_codes=0), "--poly-codes must be at least 1, got 0"),
        (lambda: PolyOptions(poly_views="middle"), "--poly-views must be one of codes, first, last, last-first"),
        (lambda: BiOptions(reduction_tokens=0), "--reduction-tokens must be at least 1"),
        (lambda: BiOptions(precision="int3"), "--precision must be one of"),
    ],
)
def test_a_bad_option_is_refused_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        options()


def rates(total, warm_up, updates, done=0):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupLinear(optimizer, total, warm_up, done)
    learning_rates = []
    for update in range(done, done + updates):
        learning_rates.append(round(schedule.get_last_lr(), 4))
        schedule.step(update + 1)
    return learning_rates


def test_the_rate_rises_then_falls_to_zero():
    assert rates(10, 2, 10) == [1.0, 2.0, 2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25]


def test_a_resumed_schedule_goes_on():
    assert rates(10, 2, 10)[4:] == rates(10, 2, 6, done=4)


def test_an_open_end_stays_at_the_peak():
    assert rates(None, 2, 5) == [1.0, 2.0, 2.0, 2.0, 2.0]


def test_warm_up_is_a_tenth_by_default():
    assert rates(20, None, 3) == [1.0, 2.0, 2.0]
