"""MixEncoder against a plain loop over candidates, written from the equations."""

import pytest
import torch
from torch.nn.functional import cosine_similarity
from torch.testing import assert_close

from poly_agents.encoders import layers
from poly_agents.rankers import mix
from poly_agents.rankers.mix import MixOptions, MixRanker
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.tokens import pad
from tests.encoders import FAMILIES, make_encoder
from tests.rankers import make_ranker

POST_NORM = [family for family in FAMILIES if family != "modernbert"]


def heads_of(states, count):
    return [part for part in states.chunk(count, dim=-1)]


def attention(queries, keys, values, heads):
    """Attn(Q, K, V): [Lq, D], [Lk, D], [Lk, D] -> [Lq, D]"""
    outputs = []
    for q, k, v in zip(*(heads_of(part, heads) for part in (queries, keys, values)), strict=True):
        outputs.append((q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ v)
    return torch.cat(outputs, -1)


def feed_forward(part, states):
    return part.output_norm(part.down(part.activation(part.up(states))) + states)


def loop_score(ranker, context, vectors):
    """s for one context (bare ids) and one candidate's E_0 [K, D], equation by equation."""
    encoder = ranker.context_encoder
    framed = ranker.frame.wrap(pad([context]))
    inputs = {"token_type_ids": framed.segments} if encoder.segments else {}
    everything = encoder.model(framed.ids, attention_mask=framed.mask.long(), output_hidden_states=True, **inputs)
    hint = torch.zeros(encoder.width)
    for number, part in zip(ranker.layers, ranker.interactions, strict=True):
        seen = everything.hidden_states[number - 1][0]  # [L, D]
        layer = layers.read(encoder.model)[number - 1]
        keys, values = layer.key(seen), layer.value(seen)
        mean = vectors.mean(0)
        own = part.key(vectors), part.value(vectors)
        mixed = attention(part.query(vectors), torch.cat([own[0], keys]), torch.cat([own[1], values]), part.heads)
        new = part.out(attention(part.hint_query(mean)[None], keys, values, part.heads)[0])
        share = torch.sigmoid(part.gate(torch.cat([mean, new, hint])))
        hint = feed_forward(part, part.attention_norm(share * new + (1 - share) * hint))
        vectors = feed_forward(part, part.attention_norm(part.out(mixed) + vectors))
    if ranker.options.mix_cosine:
        return ranker.options.mix_scale * cosine_similarity(vectors.mean(0), hint, dim=0)
    return vectors.mean(0) @ hint


def changed(ranker):
    """Interaction weights are no longer those of the encoder, so that no two can be confused."""
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in ranker.interactions.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return ranker


@torch.no_grad()
@pytest.mark.parametrize("family", POST_NORM)
@pytest.mark.parametrize(
    "options",
    [{}, {"mix_vectors": 3, "mix_layers": "1,2"}, {"mix_strategy": "codes", "mix_vectors": 2, "mix_cosine": True}],
    ids=str,
)
def test_scores_equal_a_loop_over_the_equations(encoders, texts, family, options):
    ranker = changed(make_ranker(MixRanker, encoders[family], Tokenizer.pretrained(encoders[family]), **options))
    contexts, candidates = texts(7, 2, 13), texts(3, 11, 1, 6, 2)
    encoded = ranker.encode(pad(candidates))
    assert encoded.shape == (5, ranker.options.vectors, ranker.context_encoder.width)
    expected = torch.stack([torch.stack([loop_score(ranker, c, e) for e in encoded]) for c in contexts])
    assert_close(ranker(pad(contexts), pad(candidates)), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_special_tokens_stand_where_the_start_token_did(tiny, tokenizer, texts):
    """With one special token, which starts as the start token, E_0 is the encoder's first output."""
    ranker = make_ranker(MixRanker, tiny, tokenizer)
    candidates = pad(texts(5, 3))
    expected = ranker.candidate_encoder(ranker.frame.wrap(candidates))[:, 0]
    assert_close(ranker.encode(candidates).squeeze(1), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_many_candidates_go_through_in_slices(tiny, tokenizer, texts, monkeypatch):
    ranker = make_ranker(MixRanker, tiny, tokenizer, mix_layers="1,2")
    contexts, encoded = pad(texts(7, 2, 13)), ranker.encode(pad(texts(*range(1, 18))))[None]
    whole = ranker.score(contexts, encoded)
    sizes = []
    interact = MixRanker.interact
    monkeypatch.setattr(mix, "WEIGHTS", 800)
    monkeypatch.setattr(
        MixRanker, "interact", lambda self, seen, part: sizes.append(part.shape) or interact(self, seen, part)
    )
    assert_close(ranker.score(contexts, encoded), whole, atol=1e-5, rtol=1e-5)
    assert len(sizes) > 3


def test_interaction_layers_start_as_copies_with_weights_of_their_own(tiny, tokenizer):
    ranker = make_ranker(MixRanker, tiny, tokenizer, mix_layers="last2")
    for number, part in zip(ranker.layers, ranker.interactions, strict=True):
        layer = layers.read(ranker.context_encoder.model)[number - 1]
        for name in ("query", "key", "value", "out", "attention_norm", "up", "down", "output_norm"):
            assert torch.equal(getattr(part, name).weight, getattr(layer, name).weight)
            assert getattr(part, name).weight is not getattr(layer, name).weight
        assert torch.equal(part.hint_query.weight, layer.query.weight)


@pytest.mark.parametrize(("name", "vectors", "numbers"), [("a", 1, [6]), ("b", 1, [4, 5, 6]), ("c", 2, [4, 5, 6])])
def test_presets_are_the_paper_s_variants(name, vectors, numbers):
    options = MixOptions(mix=name)
    assert (options.vectors, options.layers(6)) == (vectors, numbers)


def test_layers_by_number_and_wrong_ones():
    assert MixOptions(mix_layers="6,2").layers(6) == [2, 6]
    assert MixOptions(mix="c", mix_vectors=5).vectors == 5
    with pytest.raises(ValueError, match="--mix-layers last3: the encoder has layers 1 to 2"):
        MixOptions(mix_layers="last3").layers(2)
    with pytest.raises(ValueError, match="got 'first'"):
        MixOptions(mix_layers="first")


def test_a_family_of_another_build_is_refused(encoders):
    with pytest.raises(ValueError, match="modernbert"):
        make_ranker(MixRanker, encoders["modernbert"], Tokenizer.pretrained(encoders["modernbert"]))


@torch.no_grad()
def test_any_width_works(tmp_path, texts, tokenizer):
    folder = make_encoder(tmp_path / "wide", "bert", hidden_size=42, num_attention_heads=3)
    ranker = make_ranker(MixRanker, folder, tokenizer)
    assert ranker(pad(texts(4)), pad(texts(3, 2))).isfinite().all()
