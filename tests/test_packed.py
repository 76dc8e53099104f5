"""Layers without padding: the numbers of every family's own forward, and never those of old weights."""

import pytest
import torch
from torch.testing import assert_close

from poly_agents.encoders import layers
from poly_agents.encoders.backbone import Backbone
from poly_agents.encoders.states import by_length
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.tokens import Tokens, pad
from tests.encoders import FAMILIES
from tests.rankers import all_rankers, make_ranker

LENGTHS = 7, 2, 13, 13, 1, 19, 13


@pytest.fixture(params=FAMILIES)
def folder(request, encoders) -> str:
    return encoders[request.param]


def framed(folder: str, texts, *lengths: int) -> Tokens:
    return Tokenizer.pretrained(folder).frame.wrap(pad(texts(*(lengths or LENGTHS))))


def plain(encoder: Backbone, tokens: Tokens) -> torch.Tensor:
    return encoder._run(encoder.model, tokens).last_hidden_state.float()


@torch.no_grad()
def test_states_are_those_of_the_family_s_own_forward(folder, texts):
    encoder, tokens = Backbone.downloaded(folder, torch.float32).eval(), framed(folder, texts)
    assert (encoder.packed_now(tokens) is not None) == (encoder.model.config.model_type in layers.PATHS)
    assert_close(encoder(tokens)[tokens.mask], plain(encoder, tokens)[tokens.mask], atol=1e-5, rtol=1e-5)
    sorted_by_length = by_length(encoder, tokens)
    assert_close(sorted_by_length[tokens.mask], plain(encoder, tokens)[tokens.mask], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("lowered", [False, True])
def test_vectors_in_bfloat16_point_where_those_in_float32_do(folder, texts, lowered):
    tokens = framed(folder, texts)
    whole, half = (Backbone.downloaded(folder, dtype).eval() for dtype in (torch.float32, torch.bfloat16))
    if lowered:
        half.model.to(torch.bfloat16)
    weights = tokens.mask.unsqueeze(-1)
    exact, near = ((encoder(tokens) * weights).sum(1) for encoder in (whole, half))
    assert near.dtype == torch.float32
    assert torch.cosine_similarity(exact, near).min() >= 0.9995


@torch.no_grad()
def test_rows_without_any_token_are_zeros_and_change_nothing(tiny, texts):
    encoder, tokens = Backbone.downloaded(tiny, torch.float32).eval(), framed(tiny, texts, 5, 3)
    with_empty = Tokens(*(torch.cat([part[:1], torch.zeros_like(part[:1]), part[1:]]) for part in tokens))
    found = encoder(with_empty)
    assert_close(found[[0, 2]], encoder(tokens))
    assert not found[1].any()


@torch.no_grad()
@pytest.mark.parametrize("act", ["relu", "gelu_new"])
def test_other_activations_are_the_model_s_own(encoders, texts, act):
    config = Backbone.downloaded(encoders["bert"], torch.float32).config | {"hidden_act": act}
    encoder, tokens = Backbone.blank(config, torch.float32).eval(), framed(encoders["bert"], texts)
    assert_close(encoder(tokens)[tokens.mask], plain(encoder, tokens)[tokens.mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_weights_that_have_changed_are_copied_again(tiny, texts, fused):
    encoder, tokens = Backbone.downloaded(tiny, torch.float32), framed(tiny, texts)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1, fused=fused)
    for _ in range(2):
        before = evaluated(encoder, tokens)
        encoder.train()(tokens).sum().backward()
        optimizer.step()
        after = evaluated(encoder, tokens)
        assert (after - before).abs().max() > 0.01
        with torch.no_grad():
            assert_close(after[tokens.mask], plain(encoder, tokens)[tokens.mask], atol=1e-5, rtol=1e-5)
    same = encoder._packed
    evaluated(encoder, tokens)
    assert encoder._packed is same
    encoder.load_state_dict(Backbone.downloaded(tiny, torch.float32).state_dict())
    assert_close(evaluated(encoder, tokens), evaluated(Backbone.downloaded(tiny, torch.float32), tokens))


@torch.no_grad()
def evaluated(encoder: Backbone, tokens: Tokens) -> torch.Tensor:
    return encoder.eval()(tokens)


def test_training_and_gradients_go_through_the_model_itself(tiny, texts):
    encoder, tokens = Backbone.downloaded(tiny, torch.float32), framed(tiny, texts)
    assert not encoder.eval().packed_now(tokens)
    with torch.no_grad():
        assert not encoder.train().packed_now(tokens)
    assert encoder(tokens).requires_grad


@pytest.mark.parametrize("name", [name for name, kind in all_rankers().items() if kind.Encoder is Backbone])
def test_rankings_and_scores_are_those_of_the_plain_forward(encoders, texts, name):
    kind = all_rankers()[name]
    contexts, candidates = texts(9, 4, 17), texts(5, 1, 7, 7, 3, 11, 2)
    for family in set(layers.PATHS) & set(encoders):
        if name == "uni" and family == "mpnet":
            continue  # it refuses relative positions
        ranker = make_ranker(kind, encoders[family], Tokenizer.pretrained(encoders[family]))
        found = ranker.score_ids(contexts, ranker.encode_ids(candidates))
        ranker.eval()
        exact = ranker(pad(contexts), pad(candidates)).detach()  # with gradients: the model's own forward
        assert_close(found, exact, atol=1e-5 * max(1, exact.abs().max()), rtol=0)
        assert found.argsort(-1).tolist() == exact.argsort(-1).tolist()
