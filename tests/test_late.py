"""Late interaction, by hand, against plain loops over transformers' own states, and with nothing to meet."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel

from poly_agents.rankers.late import LateOptions, LateRanker
from poly_agents.scoring import maths
from poly_agents.text.tokens import pad
from tests.rankers import make_ranker


def test_every_context_token_meets_its_best_candidate_token():
    context = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    candidates = torch.tensor([[[[0.6, 0.8], [0.8, 0.6]], [[-1.0, 0.0], [9.0, 9.0]]]])
    mask = torch.tensor([[True, True, False]])
    real = torch.tensor([[[True, True], [True, False]]])
    # the first candidate: 0.8 + 0.8; the second, of one token: -1 + 0
    assert_close(maths.maxsim(context, mask, candidates, real), torch.tensor([[1.6, -1.0]]))


def loop(contexts, mask, candidates, real):
    """One product at a time."""
    scores = torch.zeros(len(contexts), candidates.shape[1])
    for b, context in enumerate(contexts):
        for c, candidate in enumerate(candidates[b if len(candidates) > 1 else 0]):
            candidate_mask = real[b if len(candidates) > 1 else 0, c]
            for token in context[mask[b]]:
                scores[b, c] += max(float(token @ vector) for vector in candidate[candidate_mask])
    return scores


@pytest.mark.parametrize("pools", [1, 3])
@pytest.mark.parametrize("products", [1, 100, 2**20])
def test_maxsim_equals_a_loop_in_any_slices(pools, products, monkeypatch):
    monkeypatch.setattr(maths, "PRODUCTS", products)
    torch.manual_seed(3)
    contexts, candidates = torch.randn(3, 5, 7), torch.randn(pools, 11, 2, 7)
    mask, real = torch.rand(3, 5) < 0.6, torch.rand(pools, 11, 2) < 0.6
    mask[:, 0] = real[..., 1] = True
    assert_close(maths.maxsim(contexts, mask, candidates, real), loop(contexts, mask, candidates, real))


def test_a_candidate_without_tokens_leaves_the_others_gradients_finite():
    torch.manual_seed(4)
    contexts, candidates = torch.randn(2, 5, 7, requires_grad=True), torch.randn(2, 3, 4, 7, requires_grad=True)
    real = torch.ones(2, 3, 4, dtype=torch.bool)
    real[0, 1] = False
    scores = maths.maxsim(contexts, torch.ones(2, 5, dtype=torch.bool), candidates, real)
    assert scores.isneginf().tolist() == [[False, True, False], [False, False, False]]
    torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1])).backward()
    assert contexts.grad.isfinite().all() and candidates.grad.isfinite().all()
    assert not candidates.grad[0, 1].any()


@torch.no_grad()
def test_late_equals_transformers_states_text_by_text(tiny, tokenizer, texts):
    ours = make_ranker(LateRanker, tiny, tokenizer, late_width=5, late_scale=0.0)
    theirs = AutoModel.from_pretrained(tiny).eval()

    def vectors(text):
        (before, after), ids = tokenizer.frame.single, torch.tensor([text])
        ids = torch.cat([torch.tensor([before.ids]), ids, torch.tensor([after.ids])], 1)
        states = theirs(ids).last_hidden_state[0] @ ours.project.weight.T
        return states / states.norm(dim=-1, keepdim=True)

    contexts, candidates = texts(9, 4, 12), texts(3, 6, 1, 8, 5)
    expected = [[(vectors(x) @ vectors(y).T).amax(-1).sum() for y in candidates] for x in contexts]
    assert_close(ours(pad(contexts), pad(candidates)), torch.tensor(expected), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_scale_changes_no_ranking(tiny, tokenizer, texts):
    plain, scaled = (make_ranker(LateRanker, tiny, tokenizer, late_scale=scale) for scale in (0.0, 7.0))
    contexts, candidates = pad(texts(9, 4)), pad(texts(3, 6, 1))
    lengths = torch.tensor([[11.0], [6.0]])  # with the special tokens
    assert_close(scaled(contexts, candidates), plain(contexts, candidates) * 7 / lengths)


def test_the_first_projection_keeps_angles(tiny, tokenizer):
    weight = make_ranker(LateRanker, tiny, tokenizer, late_width=5).project.weight
    assert_close(weight @ weight.T, torch.eye(5), atol=1e-5, rtol=0)


@torch.no_grad()
def test_encoded_candidates_have_the_encoder_s_precision(tiny, tokenizer, texts):
    ranker = make_ranker(LateRanker, tiny, tokenizer)
    ranker.candidate_encoder.dtype = torch.bfloat16
    assert ranker.encode_ids(texts(3, 6, 1)).vectors.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [({"late_width": -1}, "--late-width must be at least 0, got -1"), ({"late_scale": -1.0}, "--late-scale must be")],
)
def test_a_bad_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LateOptions(**options)
