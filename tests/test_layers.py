"""Layers run from their parts, against each family's own encoder."""

import pytest
import torch
from torch.testing import assert_close

from poly_agents.encoders import layers
from poly_agents.encoders.backbone import Backbone
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.tokens import Tokens, pad


def framed(folder: str, texts) -> Tokens:
    return Tokenizer.pretrained(folder).frame.wrap(pad(texts(7, 2, 13)))


def plain_forward(encoder: Backbone, tokens: Tokens, dropout: float = 0.0):
    """A whole run made of the parts: [N, L] -> [N, L, D]."""
    positions = (tokens.mask.cumsum(-1) - 1).clamp(min=0)  # [N, L]
    states = layers.embed(encoder, tokens.ids, positions, tokens.segments)  # [N, L, D]
    bias = 0.0
    if encoder.model.config.model_type == "mpnet":
        bias = encoder.model.encoder.compute_position_bias(states)  # [N, H, L, L]
    for layer in layers.read(encoder):
        query, key, value = (
            layers.split(part(states), layer.heads) for part in (layer.query, layer.key, layer.value)
        )  # [N, H, L, d]
        logits = query @ key.mT / query.shape[-1] ** 0.5 + bias  # [N, H, L, L]
        logits = logits.masked_fill(~tokens.mask[:, None, None], -torch.inf)
        attended = layers.merge(layers.weights(logits, dropout) @ value)
        states = layers.finish(layer, attended, states, dropout)
    return states


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "mpnet", "distilbert"])
def test_a_forward_made_of_the_parts_equals_the_encoder(encoders, texts, family):
    tokens = framed(encoders[family], texts)
    encoder = Backbone.pretrained(encoders[family], torch.float32).eval()
    mask = tokens.mask
    assert_close(plain_forward(encoder, tokens)[mask], encoder(tokens)[mask], atol=1e-5, rtol=1e-5)


def test_a_forward_of_the_parts_has_the_encoder_s_precision(tiny, texts):
    tokens = framed(tiny, texts)
    encoder = Backbone.pretrained(tiny, torch.bfloat16).eval()
    with encoder.autocast(tokens.ids.device):
        states = plain_forward(encoder, tokens)
    assert_close(states.float()[tokens.mask], encoder(tokens)[tokens.mask], atol=1e-6, rtol=1e-6)


def test_the_parts_are_the_encoder_s_own(tiny):
    encoder = Backbone.pretrained(tiny, torch.float32)
    parts = layers.read(encoder)
    assert len(parts) == 2
    assert all(module in set(encoder.modules()) for layer in parts for module in layer[:-1])
    assert len(layers.read(encoder.cut(1))) == 1


def test_merge_undoes_split():
    states = torch.arange(30.0).view(1, 5, 6)
    assert layers.split(states, 2).shape == (1, 2, 5, 3)
    assert_close(layers.merge(layers.split(states, 2)), states)


@torch.no_grad()
def test_dropout_acts_where_it_is_asked_for(tiny, texts):
    tokens = framed(tiny, texts)
    encoder = Backbone.pretrained(tiny, torch.float32).eval()
    assert not torch.equal(plain_forward(encoder, tokens, 0.5), plain_forward(encoder, tokens, 0.5))


def test_a_family_with_other_layers_is_refused_by_name(encoders):
    with pytest.raises(ValueError, match=r"layers of modernbert are not built as BERT's.*families: bert, roberta"):
        layers.read(Backbone.pretrained(encoders["modernbert"], torch.float32))
