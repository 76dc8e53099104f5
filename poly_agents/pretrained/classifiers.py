"""Cross-encoders that others trained: sequence classifiers with one score, of HuggingFace or sentence-transformers."""

from typing import Any, NamedTuple

from poly_agents.errors import InputError
from poly_agents.options import Options
from poly_agents.pretrained import hub_files, sentence_transformers
from poly_agents.scoring import heads
from poly_agents.scoring.ranker import PretrainedParts
from poly_agents.text.tokenizer import Tokenizer


class Head(NamedTuple):
    """A cross-encoder's head and the reduction before it."""

    kind: str  # --cross-head
    reduction: str  # --reduction


ROBERTA = "classifier.dense", "classifier.out_proj"
CLASSIFIERS = {  # model type -> its head, and the names of the head's layers in a checkpoint
    "bert": ("pooled", ("bert.pooler.dense", "classifier")),
    "roberta": ("pooled", ROBERTA),
    "xlm-roberta": ("pooled", ROBERTA),
    "camembert": ("pooled", ROBERTA),
    "mpnet": ("pooled", ROBERTA),
    "electra": ("gelu", ROBERTA),
    "distilbert": ("relu", ("pre_classifier", "classifier")),
    "deberta-v2": ("gelu", ("pooler.dense", "classifier")),
    "modernbert": ("normed", ("head.dense", "head.norm", "classifier")),
}
DECODER_HEAD = "score.weight"  # W of GPT2ForSequenceClassification, LlamaForSequenceClassification and their like
HEADS = "classifier.", "score.", "classification_head.", "pre_classifier."  # how the names of heads begin


def head_of(config: dict[str, Any]) -> Head | None:
    """Return the head of a classifier with this configuration, or None if no `--cross-head` computes the same."""
    family = config.get("model_type")
    if family not in CLASSIFIERS:
        return None
    kind = CLASSIFIERS[family][0]
    if family == "modernbert":
        if config.get("classifier_activation", "gelu") != "gelu" or config.get("norm_bias"):
            return None
        return Head(kind, "first" if config.get("classifier_pooling") == "cls" else "mean")
    return Head(kind, "first") if config.get("pooler_hidden_act", "gelu") == "gelu" else None


def read_head(options: Options, source: str, tokenizer: Tokenizer) -> PretrainedParts:
    """Read what `cross` takes from a checkpoint: its head and reduction.

    Args:
        options: of `cross`. If another head is given, the checkpoint's is not used.
        source: a folder or HuggingFace name. One without a classifier has nothing.
        tokenizer: of the checkpoint.

    Raises:
        ValueError: a classifier of several classes, or with a head that is not known here or not whole.
    """
    nothing, given = PretrainedParts({}, {}), options.cross_head
    modules = sentence_transformers.read(source, tokenizer)
    if modules and modules[-1].settings.get("module_output_name") == "scores":
        return read_linear_head(source, modules) if given in (None, "linear") else nothing
    config = hub_files.settings(source, "config.json")
    saved = classifier_weights(source, config)
    if not saved:
        return nothing
    decodes = DECODER_HEAD in saved
    head = Head("linear", "last") if decodes else head_of(config)
    names = ("score",) if decodes else CLASSIFIERS.get(config.get("model_type"), ("", ("classifier",)))[1]
    classes = classes_of(source, config, names[-1])
    if given is not None and (head is None or given != head.kind or classes > 1):
        return nothing
    if classes > 1:
        raise InputError(
            f"{source} tells {classes} classes apart, a cross-encoder has one score (num_labels=1): give another "
            "--backbone, or --cross-head to train a new head on its encoder"
        )
    if head is None:
        kind = (config.get("architectures") or [f"a classifier of the family {config.get('model_type')}"])[0]
        raise InputError(
            f"the head of {kind} is not known here (those of {', '.join(CLASSIFIERS)} and of decoders are, with their "
            "usual activations): give --cross-head to train a new one on its encoder"
        )
    parts = dict(zip(names, (f"head.{number}" for number in heads.parts_with_weights(head.kind)), strict=True))
    weights = hub_files.linear(source, parts)
    if head.kind == "normed":
        del weights["head.2.bias"]  # its norm has none
    return PretrainedParts({"cross_head": head.kind, "reduction": head.reduction}, weights)


def classifier_weights(source: str, config: dict[str, Any]) -> set[str]:
    """Return the names of all weights of a checkpoint if it is a sequence classifier, else nothing.

    What the weights are decides, because a configuration may have lost its `architectures`.

    Args:
        source: a folder or HuggingFace name.
        config: the content of its config.json; a model file has none.
    """
    architecture = (config.get("architectures") or [""])[0]
    if not config or (architecture and not architecture.endswith(("Model", "ForSequenceClassification"))):
        return set()  # a head for another task, as that of BertForTokenClassification
    saved = hub_files.names(source)
    has_head = any(name.startswith(HEADS) for name in saved)
    return saved if has_head or architecture.endswith("ForSequenceClassification") else set()


def classes_of(source: str, config: dict[str, Any], last: str) -> int:
    """Return how many classes a classifier has: the rows of its last layer, or what its configuration says."""
    if (weight := hub_files.tensors(source, [f"{last}.weight"])) and weight[f"{last}.weight"].dim() == 2:
        return len(weight[f"{last}.weight"])
    return len(config["id2label"]) if config.get("id2label") else config.get("num_labels", 2)


def has_decoder_head(source: str) -> bool:
    """Tell whether a checkpoint is a decoder that was trained to score pairs, as its tokenizer joins them."""
    return DECODER_HEAD in classifier_weights(source, hub_files.settings(source, "config.json"))


def read_linear_head(source: str, modules: list[sentence_transformers.Module]) -> PretrainedParts:
    """Read a head that sentence-transformers has as modules: pooled states, then a dense layer with one output.

    Raises:
        ValueError: there are other modules, or an activation.
    """
    kinds, dense = [module.kind for module in modules], modules[-1].settings
    if (
        kinds != ["Transformer", "Pooling", "Dense"]
        or dense["out_features"] != 1
        or sentence_transformers.ACTIVATIONS.get(dense["activation_function"]) != "identity"
    ):
        raise InputError(
            f"{source} makes its score by {', '.join(kinds)}; cross takes one linear map of the pooled states: give "
            "--cross-head to train a new head on its encoder"
        )
    known = {"cross_head": "linear", "reduction": sentence_transformers.reduction(modules[1].settings, source)}
    return PretrainedParts(known, hub_files.linear(source, {"linear": "head.0"}, modules[-1].folder))
