"""Cross-encoders that others trained: sequence classifiers with one score, by HuggingFace or sentence-transformers."""

from typing import Any

from poly_agents.options import Options
from poly_agents.pretrained import hub_files, sentence_transformers
from poly_agents.scoring import heads
from poly_agents.scoring.ranker import PretrainedParts
from poly_agents.text.tokenizer import Tokenizer

_SHARED = "classifier.dense", "classifier.out_proj"
CLASSIFIERS = {  # model type -> its head, and the names of the head's layers in the checkpoint
    "bert": ("pooled", ("bert.pooler.dense", "classifier")),
    "roberta": ("pooled", _SHARED),
    "xlm-roberta": ("pooled", _SHARED),
    "camembert": ("pooled", _SHARED),
    "mpnet": ("pooled", _SHARED),
    "electra": ("gelu", _SHARED),
    "distilbert": ("relu", ("pre_classifier", "classifier")),
    "deberta-v2": ("gelu", ("pooler.dense", "classifier")),
    "modernbert": ("normed", ("head.dense", "head.norm", "classifier")),
}


def head_of(config: dict[str, Any]) -> tuple[str, str] | None:
    """The head that the family of a configuration has, and its reduction; None where it is not known here."""
    kind = CLASSIFIERS.get(config.get("model_type"), (None,))[0]
    if config.get("model_type") == "modernbert":
        plain = config.get("classifier_activation", "gelu") == "gelu" and not config.get("norm_bias")
        return (kind, "first" if config.get("classifier_pooling") == "cls" else "mean") if plain else None
    return (kind, "first") if kind and config.get("pooler_hidden_act", "gelu") == "gelu" else None


def read_head(options: Options, source: str, tokenizer: Tokenizer) -> PretrainedParts:
    """What `cross` takes over of a cross-encoder: its head. Nothing from a plain encoder, or where another is given.

    Raises ValueError for a classifier of several classes, and for one whose head is not known.
    """
    nothing, given = PretrainedParts({}, {}), options.cross_head
    modules = sentence_transformers.read(source, tokenizer)
    if modules and modules[-1].settings.get("module_output_name") == "scores":
        return read_linear_head(source, modules) if given in (None, "linear") else nothing
    config = hub_files.settings(source, "config.json")
    architecture = (config.get("architectures") or [""])[0]
    if not architecture.endswith("ForSequenceClassification"):
        return nothing
    known = head_of(config)
    classes = len(config["id2label"]) if config.get("id2label") else config.get("num_labels", 2)
    if given is not None and (known is None or given != known[0] or classes > 1):
        return nothing
    if classes > 1:
        raise ValueError(
            f"{source} tells {classes} classes apart, a cross-encoder has one score (num_labels=1): give another "
            "--backbone, or --cross-head to train a new head on its encoder"
        )
    if known is None:
        raise ValueError(
            f"the head of {architecture} is not known here (those of {', '.join(CLASSIFIERS)} are, with their usual "
            "activations): give --cross-head to train a new one on its encoder"
        )
    kind, reduction = known
    names = CLASSIFIERS[config["model_type"]][1]
    parts = dict(zip(names, (f"head.{number}" for number in heads.parts_with_weights(kind)), strict=True))
    weights = hub_files.linear(source, parts)
    if kind == "normed":
        del weights["head.2.bias"]  # its norm has none
    return PretrainedParts({"cross_head": kind, "reduction": reduction}, weights)


def read_linear_head(source: str, modules: list[sentence_transformers.Module]) -> PretrainedParts:
    """W alone, which sentence-transformers has as modules: pooled states, then a dense layer to one score."""
    kinds, dense = [module.kind for module in modules], modules[-1].settings
    plain = kinds == ["Transformer", "Pooling", "Dense"]
    if (
        not plain
        or dense["out_features"] != 1
        or sentence_transformers.ACTIVATIONS.get(dense["activation_function"]) != "identity"
    ):
        raise ValueError(
            f"{source} makes its score by {', '.join(kinds)}; cross takes one linear map of the pooled states: give "
            "--cross-head to train a new head on its encoder"
        )
    known = {"cross_head": "linear", "reduction": sentence_transformers.reduction(modules[1].settings, source)}
    return PretrainedParts(known, hub_files.linear(source, {"linear": "head.0"}, modules[-1].folder))
