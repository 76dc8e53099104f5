"""Backbones that are no BERT: decoders, whose last token alone knows the whole text, and the encoder of a T5."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch.testing import assert_close
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, T5EncoderModel

import poly_agents
from poly_agents.encoders.backbone import Backbone
from poly_agents.encoders.loading import is_causal
from tests.encoders import DECODERS, make_decoder
from tests.sentence_models import CANDIDATES, CONTEXTS, PLAIN, scores

LENGTHS = {"text_truncate": 31, "label_truncate": 13}


@pytest.fixture(scope="module")
def decoders(tmp_path_factory) -> dict[str, str]:
    """family -> folder"""
    root = tmp_path_factory.mktemp("decoders")
    return {family: make_decoder(root / family, family) for family in DECODERS}


@pytest.fixture(params=DECODERS)
def decoder(request, decoders) -> str:
    return decoders[request.param]


def start(agent: str, backbone: str, **options):
    torch.manual_seed(5)
    return poly_agents.start(agent, backbone=backbone, **PLAIN, **LENGTHS, **options)


@torch.no_grad()
def last_state(folder: str, ids: list[int]) -> torch.Tensor:
    """Return the state of the last token of one text, by transformers alone."""
    return AutoModel.from_pretrained(folder).eval()(torch.tensor([ids])).last_hidden_state[0, -1]


@torch.no_grad()
def test_cross_scores_a_pair_by_its_last_token(decoder):
    model = start("cross", decoder)
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    between = tokenizer.bos_token if "llama" in decoder else tokenizer.eos_token  # none of its own: the end token
    before = [tokenizer.bos_token] if "llama" in decoder else []
    found = {each.text: each.score for each in model.rank(CONTEXTS[0], CANDIDATES)}
    for text in CANDIDATES:
        tokens = [*before, *CONTEXTS[0].split(), between, *text.split()]
        state = last_state(decoder, tokenizer.convert_tokens_to_ids(tokens))
        assert found[text] == pytest.approx(float(model.ranker.head(state)), abs=1e-5)
    assert np.std(list(found.values())) > 1e-3


@torch.no_grad()
def test_bi_takes_the_last_state_of_each_text_however_it_is_padded(decoder):
    model = start("bi", decoder, bi_cosine=False)
    assert model.ranker.options.reduction == "last"
    texts = ["my cat", "what is your name hello how are you"]
    ids = AutoTokenizer.from_pretrained(decoder)(texts)["input_ids"]
    assert_close(model.encode(texts), torch.stack([last_state(decoder, row) for row in ids]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("agent", ["bi", "poly", "late", "cross", "early"])
def test_rankers_of_a_decoder_tell_texts_apart_and_load_again(agent, decoder, tmp_path):
    options = {"early": {"early_layer": 1}, "poly": {"poly_codes": 5}}
    model = start(agent, decoder, **options.get(agent, {}))
    ranked = model.rank(["hello how are you", "my cat", ""], [*CANDIDATES, ""])
    found = np.array([[each.score for each in line] for line in ranked])
    assert np.isfinite(found).all() and (found[:2].std(1) > 1e-3).all()
    model.save(str(tmp_path / "model"))
    again = poly_agents.load(str(tmp_path / "model"), "float32")
    assert again.rank("hello how are you", CANDIDATES) == model.rank("hello how are you", CANDIDATES)


@pytest.mark.parametrize(
    ("agent", "options", "message"),
    [
        ("bi", {"reduction": "first"}, "--reduction first: the backbone reads from left to right"),
        ("cross", {"reduction": "first-m"}, "--reduction first-m: the backbone reads from left to right"),
        ("poly", {"poly_views": "first"}, "--poly-views first: the backbone reads from left to right"),
        ("mix", {}, "the layers of .* are not built as BERT's"),
        ("uni", {}, "the layers of .* are not built as BERT's"),
    ],
)
def test_what_a_decoder_cannot_do_is_refused(agent, options, message, decoder):
    with pytest.raises(ValueError, match=message):
        start(agent, decoder, **options)


@torch.no_grad()
def test_bi_takes_over_a_decoder_of_sentence_transformers(tmp_path):
    decoder = make_decoder(tmp_path / "qwen3", "qwen3", tokens={"pad_token": "</s>"})
    parts = [Transformer(decoder), Pooling(28, "lasttoken"), Normalize()]
    model = SentenceTransformer(modules=parts, device="cpu", prompts={"query": "name is "})
    model.save(str(tmp_path / "theirs"))
    ours = start("bi", str(tmp_path / "theirs"))
    assert ours.ranker.options.reduction == "last"
    expected = 20 * torch.tensor(model.encode_query(CONTEXTS) @ model.encode_document(CANDIDATES).T)
    assert_close(scores(ours), expected, atol=1e-4, rtol=1e-4)


def test_families_are_told_apart(encoders, decoders, tiny_t5):
    assert all(is_causal(AutoModel.from_pretrained(folder)) for folder in decoders.values())
    assert not any(is_causal(AutoModel.from_pretrained(folder)) for folder in encoders.values())
    assert not is_causal(T5EncoderModel.from_pretrained(tiny_t5))


def test_a_bert_that_reads_from_left_to_right_is_a_decoder(tiny, tmp_path):
    BertModel(BertConfig.from_pretrained(tiny, is_decoder=True)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path)
    model = start("cross", str(tmp_path))
    assert model.ranker.options.reduction == "last"
    with torch.no_grad():
        one, two = (model.ranker.context_encoder(model.tokenizer.frame.wrap(tokens)) for tokens in pair(model))
    assert_close(one[0, :2], two[0, :2])  # what comes later changes nothing
    with pytest.raises(ValueError, match="the layers of bert read from left to right"):
        start("mix", str(tmp_path))


def pair(model):
    """Return two texts that differ in their last word alone."""
    from poly_agents.text.tokens import pad

    return [pad([model.tokenizer.ids(text)]) for text in ("hello you", "hello cat")]


def test_a_model_of_pictures_is_refused_by_name(tiny, tmp_path):
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=26, num_hidden_layers=1, num_attention_heads=2, intermediate_size=7, image_size=8, patch_size=4
    )
    ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a vit, does not run as an encoder of texts"):
        Backbone.downloaded(str(tmp_path), torch.float32)


# --- T5 ---------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_bi_takes_the_encoder_of_a_t5(tiny_t5):
    model = start("bi", tiny_t5, bi_cosine=False)
    theirs = T5EncoderModel.from_pretrained(tiny_t5).eval()
    ids = torch.tensor(AutoTokenizer.from_pretrained(tiny_t5)([CANDIDATES[1]])["input_ids"])
    assert_close(model.encode([CANDIDATES[1]]), theirs(ids).last_hidden_state.mean(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("agent", ["bi", "poly", "late", "cross", "early"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rankers_of_a_t5_load_again(agent, precision, tiny_t5, tmp_path):
    options = {"early": {"early_layer": 1}, "poly": {"poly_codes": 5}}.get(agent, {})
    model = poly_agents.start(agent, backbone=tiny_t5, precision=precision, **LENGTHS, **options)
    model.save(str(tmp_path / "model"))
    again = poly_agents.load(str(tmp_path / "model"), precision)
    found = again.rank(CONTEXTS[0], CANDIDATES)
    assert found == model.rank(CONTEXTS[0], CANDIDATES)
    assert np.std([each.score for each in found]) > 1e-3


def test_a_t5_is_trained_from_the_command_line_and_refused_in_float16(tiny_t5, options, tmp_path):
    from parlai.scripts.train_model import TrainModel

    del options["poly_codes"]
    settings = options | {"backbone": tiny_t5, "max_train_steps": 2, "short_final_eval": True, "validation_max_exs": 5}
    TrainModel.main(model="poly_agents/bi", **settings)
    ranked = poly_agents.load(options["model_file"], "float32").rank(CONTEXTS[0], CANDIDATES)
    assert np.isfinite([each.score for each in ranked]).all()
    with pytest.raises(ValueError, match="T5's states outgrow its range"):
        poly_agents.start("bi", backbone=tiny_t5, precision="float16")
