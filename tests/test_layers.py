"""Layers run from their parts, against each family's own encoder."""

import pytest
import torch
from torch.testing import assert_close

from poly_agents.encoders import attention, layers
from poly_agents.encoders.backbone import Backbone
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.tokens import Tokens, pad


def framed(folder: str, texts) -> Tokens:
    return Tokenizer.pretrained(folder).frame.wrap(pad(texts(7, 2, 13)))


def plain_forward(encoder: Backbone, tokens: Tokens, dropout: float = 0.0):
    """A whole run made of the parts: [N, L] -> [N, L, D]."""
    positions = (tokens.mask.cumsum(-1) - 1).clamp(min=0)  # [N, L]
    segments = tokens.segments if encoder.segments else None
    states = layers.embed(encoder.model, tokens.ids, positions, segments)  # [N, L, D]
    bias = 0.0
    if encoder.model.config.model_type == "mpnet":
        bias = encoder.model.encoder.compute_position_bias(states)  # [N, H, L, L]
    for layer in layers.read(encoder.model):
        query, key, value = (
            attention.split(part(states), layer.heads) for part in (layer.query, layer.key, layer.value)
        )  # [N, H, L, d]
        logits = query @ key.mT / query.shape[-1] ** 0.5 + bias  # [N, H, L, L]
        logits = logits.masked_fill(~tokens.mask[:, None, None], -torch.inf)
        attended = attention.merge(attention.weights(logits, dropout) @ value)
        states = layers.layer_output(layer, attended, states, dropout)
    return states


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "mpnet", "distilbert"])
def test_a_forward_made_of_the_parts_equals_the_encoder(encoders, texts, family):
    tokens = framed(encoders[family], texts)
    encoder = Backbone.downloaded(encoders[family], torch.float32).eval()
    mask = tokens.mask
    assert_close(plain_forward(encoder, tokens)[mask], encoder(tokens)[mask], atol=1e-5, rtol=1e-5)


def test_a_forward_of_the_parts_has_the_encoder_s_precision(tiny, texts):
    tokens = framed(tiny, texts)
    encoder = Backbone.downloaded(tiny, torch.bfloat16).eval()
    with encoder.autocast(tokens.ids.device):
        states = plain_forward(encoder, tokens)
    assert_close(states.float()[tokens.mask], encoder(tokens)[tokens.mask], atol=1e-6, rtol=1e-6)


def test_the_parts_are_the_encoder_s_own(tiny):
    encoder = Backbone.downloaded(tiny, torch.float32)
    parts = layers.read(encoder.model)
    assert len(parts) == 2
    assert all(module in set(encoder.modules()) for layer in parts for module in layer[:-1])
    assert len(layers.read(encoder.cut(1).model)) == 1


def test_merge_undoes_split():
    states = torch.arange(30.0).view(1, 5, 6)
    assert attention.split(states, 2).shape == (1, 2, 5, 3)
    assert_close(attention.merge(attention.split(states, 2)), states)


@torch.no_grad()
def test_dropout_of_the_parts_acts(tiny, texts):
    tokens = framed(tiny, texts)
    encoder = Backbone.downloaded(tiny, torch.float32).eval()
    assert not torch.equal(plain_forward(encoder, tokens, 0.5), plain_forward(encoder, tokens, 0.5))


def test_a_family_with_other_layers_is_refused_by_name(encoders):
    with pytest.raises(ValueError, match=r"layers of modernbert are not built as BERT's.*families: bert, roberta"):
        layers.read(Backbone.downloaded(encoders["modernbert"], torch.float32).model)
