"""Export cross-encoders: `CrossEncoder`, and mostly `AutoModelForSequenceClassification`, opens them."""

import copy
from pathlib import Path

import torch
from torch import nn

from poly_agents.errors import InputError
from poly_agents.export import files
from poly_agents.models.textranker import TextRanker
from poly_agents.pretrained import classifiers
from poly_agents.scoring import heads

CLASSIFIER = "`CrossEncoder(folder)`, or `AutoModelForSequenceClassification.from_pretrained(folder)`"


def write_sentence_transformers(model: TextRanker, folder: Path) -> None:
    """Write a model for `CrossEncoder`. Raises ValueError if there is no such head or pooling."""
    if model.ranker.options.cross_head != "linear":
        write_classifier(model, "sentence-transformers", folder)
        return
    files.check_pooling(model.ranker.options.reduction)
    write_linear_head(model, folder)
    write_rest(model, folder, "`CrossEncoder(folder)` of sentence-transformers 6")


def write_huggingface(model: TextRanker, folder: Path) -> None:
    """Write a model for `AutoModelForSequenceClassification`. Raises ValueError if the family has another head."""
    write_classifier(model, "huggingface", folder)


def write_classifier(model: TextRanker, format: str, folder: Path) -> None:
    """Write a model as a classifier of the encoder's family."""
    classifier(model, format).save_pretrained(folder)
    write_rest(model, folder, CLASSIFIER)


def write_rest(model: TextRanker, folder: Path, opener: str) -> None:
    """Write tokenizer and README."""
    separator = files.write_tokenizer(model.tokenizer, model.ranker.context_encoder, folder, longest_pair(model))
    use = f"Open it with {opener}, for pairs of a context and a candidate. The score is the single logit."
    files.write_readme(model, folder, separator, use)


def longest_pair(model: TextRanker) -> int:
    """Return the length of the longest pair of a context and a candidate in tokens, with its special tokens."""
    needed = model.ranker.positions_needed(model.text_truncate, model.label_truncate)
    return files.longest(model.ranker.context_encoder, needed)


def write_linear_head(model: TextRanker, folder: Path) -> None:
    """Write encoder and linear head as modules of sentence-transformers. No family's classifier has such a head."""
    encoder, reduction = model.ranker.context_encoder, model.ranker.options.reduction
    encoder.model.save_pretrained(folder)
    files.write_linear(model.ranker.head[0], folder / "2_Dense")
    head = files.dense(encoder.width, 1, True, files.IDENTITY) | {"module_output_name": "scores"}
    files.write_modules(
        folder, [("Transformer", None), ("Pooling", files.pooling(encoder.width, reduction)), ("Dense", head)]
    )
    settings = files.transformer(encoder, longest_pair(model)) | {"transformer_task": "feature-extraction"}
    files.write_json(folder / "sentence_bert_config.json", settings)
    general = {"model_type": "CrossEncoder", "activation_fn": files.IDENTITY}
    files.write_json(folder / "config_sentence_transformers.json", general)


def classifier(model: TextRanker, format: str) -> nn.Module:
    """Make the classifier of the encoder's family, with the weights of a model.

    Raises:
        ValueError: the classifier has another head, or its encoder has other weights.
    """
    from transformers import AutoModelForSequenceClassification

    ranker, encoder, options = model.ranker, model.ranker.context_encoder, model.ranker.options
    config = copy.deepcopy(encoder.model.config)
    config.num_labels = 1
    config.sentence_transformers = {"activation_fn": files.IDENTITY}  # instead of a sigmoid
    if config.model_type == "modernbert":
        config.classifier_bias = True
        config.classifier_pooling = "cls" if options.reduction == "first" else options.reduction
    kind, reduction = classifiers.head_of(config.to_dict()) or ("none that is known here", "first")
    if (kind, reduction) != (options.cross_head, options.reduction):
        raise InputError(
            f"{format} needs --cross-head {kind} and --reduction {reduction} for {config.model_type}; this model has "
            f"{options.cross_head} and {options.reduction}. Train with the former, or export --to onnx (any head), or "
            "--to sentence-transformers (which also takes a linear head)"
        )
    made = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    missing, unknown = made.base_model.load_state_dict(encoder.model.state_dict(), strict=False)
    missing = [name for name in missing if not name.startswith("pooler.")]  # the head fills it
    if missing or unknown:
        raise InputError(f"the encoder does not fit {type(made).__name__}, first {[*unknown, *missing][0]!r}")
    names = classifiers.CLASSIFIERS[config.model_type][1]
    for name, number in zip(names, heads.parts_with_weights(options.cross_head), strict=True):
        made.get_submodule(name).load_state_dict(ranker.head[number].state_dict())
    return made
