"""Checkpoints of cross-encoders, scored by sentence-transformers and here."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, AutoTokenizer, T5ForSequenceClassification

import poly_agents
from tests.encoders import DECODERS, make_decoder
from tests.sentence_models import CANDIDATES, CONTEXTS, PLAIN, scores, write

OTHERS = {  # families without an encoder in the shared fixture
    "xlm-roberta": ("roberta", {}),
    "camembert": ("roberta", {}),
    "deberta-v2": ("bert", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 26}),
}
HEADS = ["bert", "roberta", "mpnet", "electra", "distilbert", "modernbert", *OTHERS]


def classifier(folder: Path, family: str, encoders, classes: int = 1, **changes) -> str:
    """Save a tiny random cross-encoder as transformers does, with the tokenizer of its family."""
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


def test_a_head_of_modules_that_is_more_than_linear_is_refused(tiny, tmp_path):
    _, folder = write(tmp_path, tiny, Dense(26, 1, module_output_name="scores"), pooling="cls")
    with pytest.raises(ValueError, match="makes its score by Transformer, Pooling, Dense; cross takes one linear map"):
        poly_agents.start("cross", backbone=folder, **PLAIN)
    assert poly_agents.start("cross", backbone=folder, cross_head="pooled", **PLAIN)


# --- what the weights are decides -------------------------------------------------------------------------------------


def change_config(folder: Path, **changes) -> None:
    """Change entries of config.json; None removes one."""
    config = json.loads((folder / "config.json").read_text()) | changes
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "electra", "distilbert", "modernbert"])
def test_a_head_is_taken_over_without_a_word_of_it_in_the_configuration(encoders, family, tmp_path):
    folder = classifier(tmp_path, family, encoders)
    expected = predicted(folder)
    change_config(tmp_path, architectures=None, id2label=None, label2id=None, num_labels=None)
    assert_close(scores(poly_agents.start("cross", backbone=folder, **PLAIN)), expected, atol=1e-5, rtol=1e-4)


def test_half_a_head_is_refused_whatever_the_configuration_says(encoders, tmp_path):
    folder = classifier(tmp_path, "bert", encoders)
    change_config(tmp_path, architectures=None)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["bert.pooler.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks the weights of bert\.pooler\.dense"):
        poly_agents.start("cross", backbone=folder, **PLAIN)


def test_several_classes_are_counted_in_the_weights(encoders, tmp_path):
    folder = classifier(tmp_path, "bert", encoders, classes=3)
    change_config(tmp_path, architectures=None, id2label=None, label2id=None)
    with pytest.raises(ValueError, match="tells 3 classes apart"):
        poly_agents.start("cross", backbone=folder, **PLAIN)


@torch.no_grad()
def test_a_cross_encoder_in_shards_is_taken_over(encoders, tmp_path):
    folder = classifier(tmp_path / "whole", "bert", encoders)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "shards")
    index = tmp_path / "shards" / "model.safetensors.index.json"
    ours = poly_agents.start("cross", backbone=str(tmp_path / "shards"), **PLAIN)
    assert_close(scores(ours), predicted(folder), atol=1e-5, rtol=1e-4)
    content = json.loads(index.read_text())
    content["weight_map"]["classifier.weight"] = "../whole/model.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"index\.json names '\.\./whole/model\.safetensors', which is not there"):
        poly_agents.start("cross", backbone=str(tmp_path / "shards"), **PLAIN)


@torch.no_grad()
@pytest.mark.parametrize("family", DECODERS)
def test_the_head_of_a_decoder_is_taken_over(family, tmp_path):
    special = {"pad_token_id": 2, "num_labels": 1}
    folder = make_decoder(
        tmp_path, family, AutoModelForSequenceClassification, tokens={"pad_token": "<unk>"}, **special
    )
    ours = poly_agents.start("cross", backbone=folder, **PLAIN)
    assert (ours.ranker.options.cross_head, ours.ranker.options.reduction) == ("linear", "last")
    assert_close(scores(ours), predicted(folder), atol=1e-4, rtol=1e-4)


def test_an_unknown_head_is_refused_by_its_weights(tiny_t5, tmp_path):
    T5ForSequenceClassification.from_pretrained(tiny_t5, num_labels=1).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_t5).save_pretrained(tmp_path)
    change_config(tmp_path, architectures=None)
    with pytest.raises(ValueError, match="the head of a classifier of the family t5 is not known here"):
        poly_agents.start("cross", backbone=str(tmp_path), **PLAIN)
    assert poly_agents.start("cross", backbone=str(tmp_path), cross_head="linear", **PLAIN)
