"""Checkpoints of cross-encoders, scored by sentence-transformers and here."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import poly_agents
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
