"""Parts of an encoder: some of its layers, vectors before its tokens, its weights in another model."""

import logging

import pytest
import torch
from torch.testing import assert_close
from transformers import BertForMaskedLM
from transformers import logging as transformers_logging

import poly_agents
from poly_agents.encoders.backbone import Backbone
from poly_agents.rankers.early import EarlyRanker
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.tokens import pad
from tests.agents import make
from tests.encoders import FAMILIES
from tests.rankers import make_ranker


@pytest.fixture(params=FAMILIES)
def encoder(request, encoders) -> Backbone:
    return Backbone.downloaded(encoders[request.param], torch.float32).eval()


@pytest.fixture
def framed(encoder, encoders, texts):
    return Tokenizer.pretrained(encoders[encoder.model.config.model_type]).frame.wrap(pad(texts(5, 1, 9)))


@torch.no_grad()
def test_states_after_a_layer_are_those_of_the_whole_run(encoder, framed):
    inputs = {"token_type_ids": framed.segments} if encoder.segments else {}
    for _ in range(3):  # whatever was asked before
        encoder.hidden(framed, [0, 1, 2])
    whole = encoder.model(framed.ids, attention_mask=framed.mask.long(), output_hidden_states=True, **inputs)
    entering, first = encoder.hidden(framed, [0, 1])
    assert_close(entering[framed.mask], whole.hidden_states[0][framed.mask])
    if encoder.model.config.model_type != "modernbert":  # its last norm belongs to the model, not to a layer
        assert_close(first[framed.mask], whole.hidden_states[1][framed.mask])
    last = encoder.hidden(framed, [0, 2])[1]
    assert_close(last[framed.mask], whole.last_hidden_state[framed.mask])


def test_layers_above_are_not_run(encoder, framed):
    run = []
    for number, layer in enumerate(encoder.layers, 1):
        layer.register_forward_hook(lambda *_, number=number: run.append(number))
    encoder.hidden(framed, [0, 1])
    assert run == [1]
    encoder(framed)
    assert run == [1, 1, 2]


@torch.no_grad()
def test_a_cut_encoder_keeps_its_first_layers(encoder, framed):
    expected = encoder.hidden(framed, [1])[0]
    assert_close(encoder.cut(1)(framed)[framed.mask], expected[framed.mask])
    again = Backbone.blank(encoder.config, torch.float32)
    again.load_state_dict(encoder.state_dict())
    assert_close(again.eval()(framed), encoder(framed))
    with pytest.raises(ValueError, match="the encoder has 1 layers; 2 of them cannot be kept"):
        encoder.cut(2)


@torch.no_grad()
def test_vectors_before_the_tokens_are_read_as_tokens(encoder, framed):
    words = encoder.model.get_input_embeddings().weight[framed.ids[0, :1]]
    rest = type(framed)(*(part[:, 1:] for part in framed))
    assert_close(encoder(rest, words)[framed.mask], encoder(framed)[framed.mask], atol=1e-5, rtol=1e-5)


# --- loading --------------------------------------------------------------------------------------------------------


@pytest.fixture
def logged():
    """What transformers logs, as its users see it."""
    lines, handler = [], logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_warning()
    transformers_logging.add_handler(handler)
    yield lines
    transformers_logging.remove_handler(handler)
    transformers_logging.set_verbosity(level)


def test_a_checkpoint_with_a_head_loads_without_a_report(tiny, tmp_path, logged):
    BertForMaskedLM.from_pretrained(tiny).save_pretrained(tmp_path)
    logged.clear()
    Backbone.downloaded(str(tmp_path), torch.float32)
    assert logged == []


def test_the_report_is_shown_if_loading_fails(tiny, tmp_path, logged):
    model = BertForMaskedLM.from_pretrained(tiny)
    model.save_pretrained(tmp_path)
    model.config.intermediate_size += 1
    model.config.save_pretrained(tmp_path)
    logged.clear()
    with pytest.raises(ValueError, match=f"the backbone {tmp_path} cannot be loaded: .*mismatch"):
        Backbone.downloaded(str(tmp_path), torch.float32)
    assert any("LOAD REPORT" in line for line in logged)


# --- the two-layer dual encoder -------------------------------------------------------------------------------------


def weights(backbone: Backbone, layer: int | None) -> torch.Tensor:
    part = backbone.model.get_input_embeddings() if layer is None else backbone.layers[layer]
    return torch.cat([parameter.detach().flatten() for parameter in part.parameters()])


def test_a_dual_encoder_infused_from_a_cross_encoder(options, trained):
    """Embeddings and first layer are the cross-encoder's, the second layer is new, and it saves and loads."""
    cross = poly_agents.load(trained["cross"], "float32").ranker.context_encoder
    agent = make(options, "bi", init_cross=trained["cross"], layers=2)
    infused = agent.ranker_module.context_encoder
    assert torch.equal(weights(infused, None), weights(cross, None))
    assert torch.equal(weights(infused, 0), weights(cross, 0))
    assert (weights(infused, 1) != weights(cross, 1)).float().mean() > 0.5
    agent.save(options["model_file"])
    saved = poly_agents.load(options["model_file"], "float32")
    ids = saved.candidate_ids(["hello you", "blue"])
    assert_close(saved.ranker.encode_ids(ids), agent.ranker_module.encode_ids(ids))


def test_its_controls_start_from_the_backbone_and_from_nothing(options, tiny):
    backbone = Backbone.downloaded(tiny, torch.float32)
    cut = make(options, "bi", layers=1).ranker_module.context_encoder
    assert len(cut.layers) == 1
    assert torch.equal(weights(cut, 0), weights(backbone, 0))
    random = make(options, "bi", layers=2, init_random=True).ranker_module.context_encoder
    for layer in (None, 0, 1):
        assert (weights(random, layer) != weights(backbone, layer)).float().mean() > 0.5


def test_random_embeddings_are_trained(options):
    random = make(options, "bi", init_random=True, datatype="train").ranker_module
    assert all(parameter.requires_grad for parameter in random.parameters())


# --- early ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_early_is_the_mean_of_one_layer_over_a_text_paired_with_itself(tiny, tokenizer, texts):
    ranker = make_ranker(EarlyRanker, tiny, tokenizer, early_layer=1)
    assert len(ranker.context_encoder.layers) == 1
    whole = Backbone.downloaded(tiny, torch.float32).eval()
    for text in texts(6, 1):
        framed = tokenizer.frame.join(pad([text]), pad([text]))
        assert framed.ids[0].tolist() == [2, *text, 3, *text, 3]
        inputs = {"attention_mask": framed.mask.long(), "token_type_ids": framed.segments}
        states = whole.model(framed.ids, output_hidden_states=True, **inputs).hidden_states[1][0]
        n = len(text)
        own = torch.cat([states[1 : 1 + n], states[2 + n : 2 + 2 * n]])
        assert_close(ranker.encode_ids([text])[0], torch.nn.functional.normalize(own.mean(0), dim=0))


def test_a_text_must_fit_beside_itself(options):
    with pytest.raises(ValueError, match="need 103 positions with the special tokens, the encoder has 97"):
        make(options, "early", text_truncate=50)
