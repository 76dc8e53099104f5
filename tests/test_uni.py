"""Arrow attention, against transformers on the whole sequence under one dense mask."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel

from poly_agents.encoders import states
from poly_agents.rankers.uni import UniOptions, UniRanker
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.tokens import pad
from tests.rankers import make_ranker

FAMILIES = "bert", "electra", "roberta", "distilbert"


def one_sequence(tokenizer, context, candidates):
    """ids, positions, segments and the arrow mask of one context with all its candidates, by plain lists."""
    (before, after), ids, positions, owner = tokenizer.frame.single, [], [], []
    for number, text in enumerate([context, *candidates]):
        text = [*before.ids, *text, *after.ids]
        start = 0 if number == 0 else len(context) + tokenizer.frame.single_length
        ids += text
        positions += range(start, start + len(text))
        owner += [number] * len(text)
    sees = [[query == 0 or key in (0, query) for key in owner] for query in owner]
    return ids, positions, [int(number > 0) for number in owner], torch.tensor(sees), torch.tensor(owner)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_uni_equals_transformers_under_a_dense_arrow_mask(encoders, family, texts):
    tokenizer = Tokenizer.pretrained(encoders[family])
    ours = make_ranker(UniRanker, encoders[family], tokenizer)
    theirs = AutoModel.from_pretrained(encoders[family], attn_implementation="eager").eval()
    contexts, candidates = texts(9, 4, 12), texts(3, 6, 1, 8, 5)
    scores = ours(pad(contexts), pad(candidates))
    for row, context in zip(scores, contexts, strict=True):
        ids, positions, segments, sees, owner = one_sequence(tokenizer, context, candidates)
        first = theirs.embeddings.padding_idx + 1 if family == "roberta" else 0
        inputs = {"input_ids": [ids], "position_ids": [[place + first for place in positions]]}
        inputs |= {"token_type_ids": [segments]} if family in ("bert", "electra") else {}
        inputs = {name: torch.tensor(value) for name, value in inputs.items()}
        mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
        if family == "distilbert":
            states = theirs.transformer(theirs.embeddings(**inputs), attention_mask=mask[None, None])
            states = states.last_hidden_state[0]
        else:
            states = theirs(**inputs, attention_mask=mask[None, None]).last_hidden_state[0]
        vectors = torch.stack([states[owner == 1 + number].mean(0) for number in range(len(candidates))])
        assert_close(row, ours.head(vectors).squeeze(-1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_candidate_s_score_depends_on_the_others(tiny, tokenizer, texts):
    ranker = make_ranker(UniRanker, tiny, tokenizer)
    context, candidates = pad(texts(9)), pad(texts(3, 6, 2))
    assert not torch.allclose(ranker(context, candidates)[:, :2], ranker(context, candidates.select(torch.arange(2))))


@torch.no_grad()
def test_an_absent_candidate_changes_nothing(tiny, tokenizer, texts):
    ranker = make_ranker(UniRanker, tiny, tokenizer)
    contexts, candidates = pad(texts(9, 4)), pad(texts(3, 6, 2, 8))
    ragged = torch.tensor([[2, 0, -1, -1], [1, 3, 0, 2]])
    scores = ranker(contexts, candidates, ragged)
    assert_close(scores[:1, :2], ranker(contexts.select(torch.tensor([0])), candidates, torch.tensor([[2, 0]])))
    assert scores[0, 2:].tolist() == [-torch.inf] * 2


@torch.no_grad()
def test_contexts_scored_in_slices_score_the_same(tiny, tokenizer, texts, monkeypatch):
    ranker = make_ranker(UniRanker, tiny, tokenizer)
    contexts, candidates = pad(texts(5, 9, 2, 13)), pad(texts(3, 6, 2))
    whole = ranker(contexts, candidates)
    monkeypatch.setitem(states.TOKEN_BUDGET, "cpu", 1)
    assert_close(ranker(contexts, candidates), whole, atol=1e-5, rtol=1e-5)


def test_dropout_acts_while_training_alone(tiny, tokenizer, texts):
    ranker = make_ranker(UniRanker, tiny, tokenizer, dropout=0.5)
    context, candidates = pad(texts(9)), pad(texts(3, 6))
    assert torch.equal(ranker(context, candidates), ranker(context, candidates))
    ranker.train()
    assert not torch.equal(ranker(context, candidates), ranker(context, candidates))


def test_a_pool_that_is_too_large_is_refused_with_a_way_out(tiny, tokenizer, texts):
    ranker = make_ranker(UniRanker, tiny, tokenizer, uni_pool=2)
    candidates = pad(texts(3, 6, 2))
    with pytest.raises(ValueError, match="a context has 3 candidates, --uni-pool allows 2; rank the best of another"):
        ranker(pad(texts(9)), candidates)
    ranker(pad(texts(9)), candidates, torch.tensor([[0, 2, -1]]))
    with pytest.raises(ValueError, match="--uni-pool must be at least 1, got 0"):
        UniOptions(uni_pool=0)


@pytest.mark.parametrize(
    ("family", "message"),
    [("mpnet", "attention of mpnet depends on the distance"), ("modernbert", "layers of modernbert")],
)
def test_other_families_are_refused_by_name(encoders, family, message):
    with pytest.raises(ValueError, match=message):
        make_ranker(UniRanker, encoders[family], Tokenizer.pretrained(encoders[family]))
