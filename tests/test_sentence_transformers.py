"""Checkpoints of bi- and cross-encoders and of ColBERT, written by their own libraries and scored by both."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import poly_agents
from poly_agents import zoo
from poly_agents.models.textranker import TextRanker
from tests.agents import make
from tests.encoders import make_encoder

CONTEXTS = ["hello how are you", "my cat"]
CANDIDATES = ["fine thanks", "what is your name", "blue"]
PROMPTS = {"query": "name is ", "document": "dog: "}
PLAIN = {"precision": "float32"}


def scores(model: TextRanker) -> torch.Tensor:
    kept = model.encode(CANDIDATES)
    return model.ranker.score_ids(model.context_ids(CONTEXTS), kept)


# --- bi -------------------------------------------------------------------------------------------------------------


def write(folder: Path, encoder: str, *modules, pooling="mean", **options) -> tuple[SentenceTransformer, str]:
    torch.manual_seed(5)
    parts = [Transformer(encoder), Pooling(26, pooling), *modules]
    model = SentenceTransformer(modules=parts, device="cpu", **options)
    model.save(str(folder))
    return model, str(folder)


def theirs(model: SentenceTransformer, by: str) -> torch.Tensor:
    contexts, candidates = model.encode_query(CONTEXTS), model.encode_document(CANDIDATES)
    contexts, candidates = torch.tensor(contexts), torch.tensor(candidates)
    if by == "dot":
        return contexts @ candidates.T
    return 20 * torch.nn.functional.cosine_similarity(contexts.unsqueeze(1), candidates, dim=-1)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "mean_sqrt_len_tokens"])
@pytest.mark.parametrize("by", ["cosine", "dot"])
def test_bi_takes_over_pooling_and_similarity(tiny, tmp_path, pooling, by):
    model, folder = write(tmp_path, tiny, pooling=pooling, similarity_fn_name=by)
    ours = poly_agents.start("bi", backbone=folder, **PLAIN)
    assert_close(scores(ours), theirs(model, by), atol=1e-4, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("activation", [torch.nn.Tanh(), torch.nn.Identity()])
def test_bi_takes_over_dense_layer_normalisation_and_prompts(tiny, tmp_path, activation):
    dense = Dense(26, 11, bias=activation._get_name() == "Tanh", activation_function=activation)
    model, folder = write(tmp_path, tiny, dense, Normalize(), similarity_fn_name="dot", prompts=PROMPTS)
    ours = poly_agents.start("bi", backbone=folder, **PLAIN)
    assert_close(scores(ours), theirs(model, "cosine"), atol=1e-4, rtol=1e-5)
    assert ours.ranker.options.candidate_prompt == PROMPTS["document"]
    without = poly_agents.start("bi", backbone=folder, candidate_prompt="", **PLAIN)
    assert not torch.allclose(scores(without), scores(ours))


@torch.no_grad()
@pytest.mark.parametrize("family", ["roberta", "mpnet", "distilbert", "electra"])
def test_bi_equals_sentence_transformers_for_every_family(encoders, tmp_path, family):
    model, folder = write(tmp_path, encoders[family], Normalize(), prompts=PROMPTS, pooling="cls")
    assert_close(
        scores(poly_agents.start("bi", backbone=folder, **PLAIN)), theirs(model, "cosine"), atol=1e-4, rtol=1e-5
    )


def test_settings_of_earlier_versions_are_read(tiny, tmp_path):
    write(tmp_path, tiny)
    settings = {"word_embedding_dimension": 26, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    assert poly_agents.start("bi", backbone=str(tmp_path), **PLAIN).ranker.options.reduction == "first"


def test_a_prompt_is_never_cut_off(tiny, tmp_path):
    _, folder = write(tmp_path, tiny, prompts=PROMPTS)
    ours = poly_agents.start("bi", backbone=folder, text_truncate=1, **PLAIN)
    (short,) = ours.context_ids(["hello how are you"])
    assert ours.ranker.frame.context_prompt == tuple(ours.tokenizer.ids("name is"))
    assert len(short) == 1
    assert ours.ranker.positions_needed(1, 1) == 2 + 2 + 1


@torch.no_grad()
def test_what_was_taken_over_is_saved(tiny, tmp_path):
    _, folder = write(tmp_path / "theirs", tiny, Dense(26, 11), pooling="max", prompts=PROMPTS)
    ours = poly_agents.start("bi", backbone=folder, **PLAIN)
    ours.save(str(tmp_path / "model"))
    again = poly_agents.load(str(tmp_path / "model"), "float32")
    assert_close(scores(again), scores(ours), atol=0, rtol=0)
    assert again.ranker.options == ours.ranker.options
    assert again.ranker.frame == ours.ranker.frame


@torch.no_grad()
def test_parlai_trains_on_from_a_folder_and_from_a_model_that_did(tiny, tmp_path, options):
    _, folder = write(tmp_path / "theirs", tiny, Dense(26, 11), pooling="max", prompts=PROMPTS)
    options["backbone"] = {"bi": folder}
    agent = make(options, "bi", datatype="train")
    first = scores(poly_agents.start("bi", backbone=folder, **PLAIN))
    assert_close(scores(agent._text_ranker()), first)
    agent.save(options["model_file"])
    assert_close(scores(poly_agents.load(options["model_file"], "float32")), first)
    assert_close(scores(make(options, "bi")._text_ranker()), first)
    onward = make(options, "bi", init_model=options["model_file"], model_file=str(tmp_path / "onward"))
    assert onward.ranker_module.options.reduction == "max"
    assert_close(scores(onward._text_ranker()), first)


def test_what_bi_cannot_do_is_refused(tiny, tmp_path):
    for name, module, pooling, message in [
        ("norm", [LayerNorm(26)], "mean", "made of Transformer, Pooling, LayerNorm; bi takes"),
        ("weighted", [], "weightedmean", "pools by weightedmean; bi knows cls, mean"),
        ("two", [], ("cls", "mean"), "pools by cls and mean; bi knows"),
        ("relu", [Dense(26, 11, activation_function=torch.nn.ReLU())], "mean", "is none of W x"),
    ]:
        _, folder = write(tmp_path / name, tiny, *module, pooling=pooling)
        with pytest.raises(ValueError, match=message):
            poly_agents.start("bi", backbone=folder, **PLAIN)
    assert poly_agents.start("bi", backbone=str(tmp_path / "two"), reduction="first", **PLAIN)
    _, folder = write(tmp_path / "far", tiny, similarity_fn_name="euclidean")
    with pytest.raises(ValueError, match="compares by euclidean; bi knows cosine and dot"):
        poly_agents.start("bi", backbone=folder, **PLAIN)


def test_a_folder_whose_settings_cannot_be_followed_is_refused(tiny, tmp_path):
    _, folder = write(tmp_path, tiny, Dense(26, 11), prompts=PROMPTS)

    def refused(name, message, **changes):
        path = tmp_path / name
        before = path.read_text()
        path.write_text(json.dumps(json.loads(before) | changes))
        with pytest.raises(ValueError, match=message):
            poly_agents.start("bi", backbone=folder, **PLAIN)
        path.write_text(before)

    refused("1_Pooling/config.json", "leaves its prompts out of the pooling", include_prompt=False)
    refused("sentence_bert_config.json", "lowercases before its tokenizer does", do_lower_case=True)
    refused("config_sentence_transformers.json", "joins the prompt 'ca' with the first word", prompts={"query": "ca"})
    save_file({"linear.bias": torch.zeros(11)}, tmp_path / "2_Dense" / "model.safetensors")
    with pytest.raises(ValueError, match="lacks the weights of linear, which its settings promise"):
        poly_agents.start("bi", backbone=folder, **PLAIN)
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(ValueError, match=r"modules\.json is not JSON"):
        poly_agents.start("bi", backbone=folder, **PLAIN)


# --- cross ----------------------------------------------------------------------------------------------------------

OTHERS = {  # families whose encoders the shared fixture has not
    "xlm-roberta": ("roberta", {}),
    "camembert": ("roberta", {}),
    "deberta-v2": ("bert", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 26}),
}
HEADS = ["bert", "roberta", "mpnet", "electra", "distilbert", "modernbert", *OTHERS]


def classifier(folder: Path, family: str, encoders, classes: int = 1, **changes) -> str:
    """A tiny random cross-encoder, as transformers saves it, with the tokeniser of its family."""
    from transformers import AutoConfig

    torch.manual_seed(7)
    tokenizer = encoders[OTHERS[family][0] if family in OTHERS else family]
    if family in OTHERS:
        config = AutoConfig.from_pretrained(tokenizer).to_dict() | OTHERS[family][1] | {"model_type": family}
        config = AutoConfig.for_model(**config, num_labels=classes, **changes)
        model = AutoModelForSequenceClassification.from_config(config)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(tokenizer, num_labels=classes, **changes)
    for name, parameter in model.named_parameters():
        if "orm" not in name and (family in OTHERS or not name.startswith(model.base_model_prefix)):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return str(folder)


def predicted(folder: str, **options) -> torch.Tensor:
    model = CrossEncoder(folder, device="cpu", activation_fn=torch.nn.Identity(), **options)
    found = model.predict([(context, text) for context in CONTEXTS for text in CANDIDATES])
    return torch.tensor(found).view(len(CONTEXTS), len(CANDIDATES))


@torch.no_grad()
@pytest.mark.parametrize("family", HEADS)
def test_cross_takes_over_the_head_of_every_family(encoders, family, tmp_path):
    folder = classifier(tmp_path, family, encoders)
    ours = scores(poly_agents.start("cross", backbone=folder, **PLAIN))
    assert ours.std() > 1e-3
    assert_close(ours, predicted(folder), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_cross_takes_over_modernbert_s_mean(encoders, tmp_path):
    folder = classifier(tmp_path, "modernbert", encoders, classifier_pooling="mean")
    ours = poly_agents.start("cross", backbone=folder, **PLAIN)
    assert (ours.ranker.options.cross_head, ours.ranker.options.reduction) == ("normed", "mean")
    assert_close(scores(ours), predicted(folder), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_cross_encoder_is_saved_with_its_head(encoders, tmp_path):
    ours = poly_agents.start("cross", backbone=classifier(tmp_path / "theirs", "electra", encoders), **PLAIN)
    ours.save(str(tmp_path / "model"))
    assert_close(scores(poly_agents.load(str(tmp_path / "model"), "float32")), scores(ours), atol=0, rtol=0)


def test_a_classifier_of_several_classes_is_refused(encoders, tmp_path):
    folder = classifier(tmp_path, "bert", encoders, classes=3)
    with pytest.raises(ValueError, match=r"tells 3 classes apart, a cross-encoder has one score \(num_labels=1\)"):
        poly_agents.start("cross", backbone=folder, **PLAIN)
    assert poly_agents.start("cross", backbone=folder, cross_head="pooled", **PLAIN).ranker.head[2].out_features == 1


def test_a_head_that_is_not_known_is_refused(encoders, tmp_path):
    folder = classifier(tmp_path, "modernbert", encoders, classifier_activation="relu")
    with pytest.raises(ValueError, match="the head of ModernBertForSequenceClassification is not known here"):
        poly_agents.start("cross", backbone=folder, **PLAIN)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["head.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace('"relu"', '"gelu"'))
    with pytest.raises(ValueError, match=r"lacks the weights of head\.dense"):
        poly_agents.start("cross", backbone=folder, **PLAIN)


def test_lowercasing_that_the_tokeniser_does_anyway_is_no_obstacle(tmp_path):
    shutil.copytree(zoo.backbone("minilm"), tmp_path / "model")
    (tmp_path / "model" / "sentence_bert_config.json").write_text('{"max_seq_length": 256, "do_lower_case": true}')
    assert poly_agents.start("bi", backbone=str(tmp_path / "model"), **PLAIN).ranker.options.reduction == "mean"


def test_a_head_of_modules_that_is_more_than_linear_is_refused(tiny, tmp_path):
    _, folder = write(tmp_path, tiny, Dense(26, 1, module_output_name="scores"), pooling="cls")
    with pytest.raises(ValueError, match="makes its score by Transformer, Pooling, Dense; cross takes one linear map"):
        poly_agents.start("cross", backbone=folder, **PLAIN)
    assert poly_agents.start("cross", backbone=folder, cross_head="pooled", **PLAIN)


# --- late -----------------------------------------------------------------------------------------------------------


def late_interaction(model: MultiVectorEncoder) -> torch.Tensor:
    contexts, candidates = model.encode_query(CONTEXTS), model.encode_document(CANDIDATES)
    return torch.stack([torch.stack([(x @ y.T).amax(-1).sum() for y in candidates]) for x in contexts])


def colbert(folder: Path, encoder: str, **options) -> str:
    torch.manual_seed(5)
    dense = Dense(26, 7, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings")
    parts = [Transformer(encoder), dense, MultiVectorMask(), Normalize(module_input_name="token_embeddings")]
    MultiVectorEncoder(modules=parts, device="cpu", **options).save(str(folder))
    return str(folder)


@torch.no_grad()
def test_late_takes_over_a_model_of_sentence_transformers(tiny, tmp_path):
    folder = colbert(tmp_path, tiny, prompts=PROMPTS)
    ours = poly_agents.start("late", backbone=folder, **PLAIN)
    assert ours.ranker.options.late_width == 7
    assert_close(scores(ours), late_interaction(MultiVectorEncoder(folder, device="cpu")), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_late_takes_over_pylate_s_format(tiny, tmp_path):
    """As PyLate writes it: two modules, and marks that are tokens of their own."""
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(["[Q] ", "[D] "])
    encoder = make_encoder(tmp_path / "encoder", "bert", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(encoder)
    folder = colbert(tmp_path / "model", encoder)
    modules = json.loads((tmp_path / "model" / "modules.json").read_text())[:2]
    modules[1]["type"] = "pylate.models.Dense.Dense"
    (tmp_path / "model" / "modules.json").write_text(json.dumps(modules))
    settings = {"model_type": "ColBERT", "query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 32}
    settings |= {"do_query_expansion": False, "skiplist_words": [], "similarity_fn_name": "MaxSim"}
    (tmp_path / "model" / "config_sentence_transformers.json").write_text(json.dumps(settings))
    ours = poly_agents.start("late", backbone=folder, **PLAIN)
    assert ours.ranker.frame.context_prompt == (tokenizer.convert_tokens_to_ids("[Q] "),)
    assert_close(scores(ours), late_interaction(MultiVectorEncoder(folder, device="cpu")), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_late_takes_over_the_format_of_colbert_s_authors(tmp_path):
    """`linear.weight` beside `bert.*`, and marks that are unused entries of the vocabulary."""
    encoder = Path(make_encoder(tmp_path / "encoder", "bert"))
    text = (encoder / "tokenizer.json").read_text()
    (encoder / "tokenizer.json").write_text(text.replace('"five"', '"[unused0]"').replace('"six"', '"[unused1]"'))
    settings = json.loads((encoder / "tokenizer_config.json").read_text()) | {"mask_token": "[PAD]"}
    (encoder / "tokenizer_config.json").write_text(json.dumps(settings))
    weights = {f"bert.{name}": tensor for name, tensor in load_file(encoder / "model.safetensors").items()}
    weights["linear.weight"] = torch.randn(7, 26)
    save_file(weights, encoder / "model.safetensors", {"format": "pt"})
    config = json.loads((encoder / "config.json").read_text()) | {"architectures": ["HF_ColBERT"]}
    (encoder / "config.json").write_text(json.dumps(config))
    (encoder / "artifact.metadata").write_text(json.dumps({"query_token_id": "[unused0]", "mask_punctuation": False}))
    ours = poly_agents.start("late", backbone=str(encoder), **PLAIN)
    assert len(ours.ranker.frame.candidate_prompt) == 1
    model = MultiVectorEncoder(str(encoder), device="cpu")
    model[0].query_expansion = None
    assert_close(scores(ours), late_interaction(model), atol=1e-5, rtol=1e-4)


def test_a_projection_that_is_more_than_a_matrix_is_refused(tiny, tmp_path):
    folder = colbert(tmp_path, tiny)
    settings = json.loads((tmp_path / "1_Dense" / "config.json").read_text())
    (tmp_path / "1_Dense" / "config.json").write_text(json.dumps(settings | {"bias": True}))
    with pytest.raises(ValueError, match="1_Dense is more than a linear map"):
        poly_agents.start("late", backbone=folder, **PLAIN)
    shutil.rmtree(tmp_path / "3_Normalize")
    modules = json.loads((tmp_path / "modules.json").read_text())[:3]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="made of Transformer, Dense, MultiVectorMask; late takes ColBERT's"):
        poly_agents.start("late", backbone=folder, **PLAIN)
    assert poly_agents.start("bi", backbone=tiny, **PLAIN)
