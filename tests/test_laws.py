"""Laws that hold for every ranker and every variant of it."""

import torch
from torch.testing import assert_close

from poly_agents.encoders import states
from poly_agents.files import checkpoint
from poly_agents.text.tokens import Tokens, pad
from tests.rankers import all_rankers, make_ranker

LENGTHS = 7, 2, 13, 5  # contexts
CANDIDATES = 3, 11, 1, 6, 2  # lengths of candidates


def test_every_system_is_found():
    assert {"bi", "poly", "cross"} <= all_rankers().keys()


@torch.no_grad()
def test_scores_have_a_row_for_each_context_and_a_column_for_each_candidate(ranker, texts):
    for contexts in (1, 4):
        for candidates in (1, 5):
            rows, columns = pad(texts(*LENGTHS[:contexts])), pad(texts(*CANDIDATES[:candidates]))
            assert ranker(rows, columns).shape == (contexts, candidates)
            own = torch.randint(candidates, (contexts, 3))
            assert ranker(rows, columns, own).shape == (contexts, 3)


@torch.no_grad()
def test_four_contexts_with_one_candidate_each_give_one_column(ranker, texts):
    contexts, candidates = pad(texts(*LENGTHS)), pad(texts(3, 1, 4, 2))
    scores = ranker(contexts, candidates, torch.arange(4).unsqueeze(1))
    assert scores.shape == (4, 1)
    if ranker.depends_on_pool:
        return  # beside other candidates a candidate has another score
    assert_close(scores.squeeze(1), ranker(contexts, candidates).diagonal(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_context_s_own_candidates_score_as_they_do_alone(ranker, texts):
    contexts, candidates = pad(texts(*LENGTHS)), pad(texts(*CANDIDATES))
    own = torch.tensor([[1, 0, -1], [4, -1, -1], [2, 3, 0], [3, 1, -1]])
    scores = ranker(contexts, candidates, own)
    assert scores.isneginf().equal(own < 0)
    for number, row in enumerate(own):
        alone = ranker(contexts.select(torch.tensor([number])), candidates.select(row[row >= 0]))
        assert_close(scores[number][row >= 0], alone[0], atol=1e-5, rtol=1e-5)


def test_an_absent_candidate_has_no_part_in_a_gradient(ranker, texts):
    contexts, candidates = pad(texts(*LENGTHS)), pad(texts(*CANDIDATES))
    gradients = []
    for own in (torch.tensor([[1, 0, 3]] * 4), torch.tensor([[1, 0, 3, -1, -1]] * 4)):
        ranker.zero_grad()
        torch.nn.functional.cross_entropy(ranker(contexts, candidates, own), torch.tensor([0, 2, 1, 0])).backward()
        gradients.append({name: p.grad.clone() for name, p in ranker.named_parameters() if p.grad is not None})
    assert_close(*gradients, atol=1e-5, rtol=1e-4)


def widen(tokens: Tokens, columns: int) -> Tokens:
    """The same texts with garbage where the mask is False."""
    return Tokens(*(torch.nn.functional.pad(part, (0, columns), value=part.dtype != torch.bool) for part in tokens))


@torch.no_grad()
def test_padding_never_changes_a_score(ranker, texts):
    contexts, candidates = pad(texts(*LENGTHS)), pad(texts(*CANDIDATES))
    assert_close(ranker(widen(contexts, 9), widen(candidates, 4)), ranker(contexts, candidates), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_batch_a_context_travels_in_never_changes_its_score(ranker, texts):
    contexts, candidates = texts(*LENGTHS), texts(*CANDIDATES)
    together = ranker(pad(contexts), pad(candidates))
    alone = torch.cat([ranker(pad([context]), pad(candidates)) for context in contexts])
    assert_close(together, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_shuffled_candidates_give_shuffled_scores(ranker, texts):
    contexts, candidates = pad(texts(*LENGTHS)), pad(texts(*CANDIDATES))
    order = torch.tensor([3, 0, 4, 2, 1])
    assert_close(
        ranker(contexts, candidates.select(order)), ranker(contexts, candidates)[:, order], atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_a_shared_pool_scores_as_its_copies(ranker, texts):
    contexts, candidates = pad(texts(*LENGTHS)), pad(texts(*CANDIDATES))
    copies = torch.arange(len(CANDIDATES)).expand(len(LENGTHS), -1)
    assert_close(ranker(contexts, candidates, copies), ranker(contexts, candidates), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_cached_candidates_score_as_fresh_ones(ranker, texts):
    contexts, candidates = texts(*LENGTHS), texts(*CANDIDATES)
    encoded = ranker.encode_ids(candidates)
    assert_close(ranker.score_ids(contexts, encoded), ranker(pad(contexts), pad(candidates)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_candidates_encoded_in_several_runs_score_the_same(ranker, texts, monkeypatch):
    contexts, candidates = texts(*LENGTHS), texts(*CANDIDATES)
    whole = ranker.score_ids(contexts, ranker.encode_ids(candidates))
    monkeypatch.setattr("poly_agents.scoring.ranker.ENCODE_ROWS", 2)
    monkeypatch.setitem(states.TOKEN_BUDGET, "cpu", 16)
    assert_close(ranker.score_ids(contexts, ranker.encode_ids(candidates)), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_empty_contexts_and_empty_candidates_have_finite_scores(ranker):
    for contexts, candidates in (([[]], [[]]), ([[], [5, 6]], [[7], []])):
        assert ranker(pad(contexts), pad(candidates)).isfinite().all()


def test_training_reaches_every_parameter(ranker, texts):
    ranker.train()
    for interaction in getattr(ranker, "interactions", []):
        if hasattr(interaction, "shares"):
            interaction.shares.data.fill_(
                0.5
            )  # they start at 0, which lets nothing through to the layer in the first step
    scores = ranker(pad(texts(*LENGTHS)), pad(texts(*CANDIDATES)))
    torch.nn.functional.cross_entropy(scores, torch.arange(len(LENGTHS))).backward()
    unreached = [n for n, p in ranker.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Keys shift all logits of a softmax alike, so their bias has no gradient but rounding.
    assert [name for name in unreached if not name.endswith("key.bias")] == []


def test_two_encoders_are_trained_separately(tiny, tokenizer, texts):
    for kind in all_rankers().values():
        if not kind.one_encoder:
            ranker = make_ranker(kind, tiny, tokenizer, share_encoders=False)
            encoded = ranker.encode(pad(texts(4, 2)))
            getattr(encoded, "vectors", encoded).sum().backward()
            assert all(p.grad is None for p in ranker.context_encoder.parameters())
            assert any(p.grad is not None for p in ranker.candidate_encoder.parameters())


@torch.no_grad()
def test_save_and_load_give_the_same_scores(ranker, texts, tmp_path):
    for parameter in ranker.parameters():
        parameter.add_(0.01)
    contexts, candidates = pad(texts(*LENGTHS)), pad(texts(*CANDIDATES))
    path = str(tmp_path / "model")
    checkpoint.write(path, {}, ranker.tensors())
    config = ranker.context_encoder.config
    other = type(ranker)(ranker.options, ranker.frame, lambda: ranker.Encoder.blank(config, torch.float32))
    other.load_tensors(checkpoint.read(path).weights, path)
    assert_close(other.eval()(contexts, candidates), ranker(contexts, candidates), atol=0, rtol=0)
