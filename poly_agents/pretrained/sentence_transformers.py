"""Checkpoints of sentence-transformers and ColBERT: what they have for `bi` and `late` besides the encoder.

Only their JSON files and dense layers are read here:

    modules.json                       the modules in order: Transformer, Pooling, Dense, Normalize
    config_sentence_transformers.json  similarity and prompts
    N_Pooling, N_Dense                 settings of a module, and the weights of a dense layer

A ColBERT checkpoint has one of three forms. Its authors' form (`HF_ColBERT`) has W as `linear.weight` beside the
encoder and the marks of query and document in artifact.metadata. PyLate's form has the modules Transformer and Dense.
The form of sentence-transformers has Normalize, too.
"""

from typing import Any, NamedTuple

from torch import Tensor

from poly_agents.errors import InputError
from poly_agents.options import Options, flag
from poly_agents.pretrained import hub_files
from poly_agents.scoring.ranker import PretrainedParts
from poly_agents.text.tokenizer import Tokenizer

GENERAL = "config_sentence_transformers.json"
POOLINGS = {  # theirs -> --reduction
    "cls": "first",
    "lasttoken": "last",
    "mean": "mean",
    "max": "max",
    "mean_sqrt_len_tokens": "sqrt",
}
EARLIER = {  # settings of a pooling in earlier versions -> today's name
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean_tokens",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS = {"torch.nn.modules.activation.Tanh": "tanh", "torch.nn.modules.linear.Identity": "identity"}
SINGLE_VECTOR = ["Transformer", "Pooling", "Dense", "Normalize"]  # in this order; the last two may be missing
CANDIDATE_PROMPTS = "document", "passage", "corpus"
NOTHING = PretrainedParts({}, {})


class Module(NamedTuple):
    """An entry of modules.json."""

    kind: str  # `Pooling`
    folder: str  # `1_Pooling`
    settings: dict[str, Any]


def read(source: str, tokenizer: Tokenizer) -> list[Module]:
    """Read the modules of a checkpoint, in order. A checkpoint of another kind has none.

    Raises:
        ValueError: its encoder is in a folder of its own, or it lower-cases texts and the tokenizer does not.
    """
    modules = []
    for entry in hub_files.settings(source, "modules.json"):
        kind, folder = entry["type"].rpartition(".")[2], entry["path"]
        if kind == "Transformer" and folder:
            raise InputError(f"{source} keeps its encoder in {folder}/: copy the files there to the top of the folder")
        modules.append(Module(kind, folder, hub_files.settings(source, f"{folder}/config.json") if folder else {}))
    lowercases = bool(modules) and hub_files.settings(source, "sentence_bert_config.json").get("do_lower_case")
    if lowercases and not tokenizer.lowercases:
        raise InputError(f"{source} lowercases before its tokenizer does; write that into its tokenizer.json")
    return modules


# --- one vector for each text: bi -------------------------------------------------------------------------------------


def vectors(options: Options, source: str, tokenizer: Tokenizer) -> PretrainedParts:
    """Read what `bi` takes from a checkpoint: pooling, dense layer, similarity, prompts.

    Args:
        options: of `bi`; those that are given win over the checkpoint.
        source: a folder or HuggingFace name. One that is not of sentence-transformers has nothing.
        tokenizer: of the checkpoint.

    Raises:
        ValueError: the checkpoint does something that `bi` cannot do.
    """
    modules = read(source, tokenizer)
    if not modules:
        return NOTHING
    kinds = [module.kind for module in modules]
    if kinds != [kind for kind in SINGLE_VECTOR if kind in kinds] or kinds[:2] != SINGLE_VECTOR[:2]:
        raise InputError(
            f"{source} is made of {', '.join(kinds)}; bi takes Transformer and Pooling, then at most one Dense and a "
            "Normalize. Give another --backbone, or a copy without modules.json to start from the encoder alone"
        )
    parts = {module.kind: module for module in modules}
    general, pooling = hub_files.settings(source, GENERAL), parts["Pooling"].settings
    similarity = general.get("similarity_fn_name") or "cosine"
    if similarity not in ("cosine", "dot") and options.bi_cosine is None:
        raise InputError(f"{source} compares by {similarity}; bi knows cosine and dot: give --bi-cosine true or false")
    known: dict[str, Any] = dict(prompts(general, options, source, tokenizer))
    if any(known.values()) and pooling.get("include_prompt") is False:
        raise InputError(f"{source} leaves its prompts out of the pooling, which bi cannot: give another --backbone")
    if options.reduction is None:
        known["reduction"] = reduction(pooling, source)
    known["bi_cosine"] = "Normalize" in kinds or similarity == "cosine"
    if "Dense" not in parts:
        return PretrainedParts(known, {})
    width, activation = dense_layer(parts["Dense"], source)
    if options.bi_dense not in (None, width):
        return PretrainedParts(known, {})
    weights = hub_files.linear(source, {"linear": "dense.0"}, parts["Dense"].folder)
    return PretrainedParts(known | {"bi_dense": width, "bi_activation": activation}, weights)


def reduction(pooling: dict[str, Any], source: str) -> str:
    """Return the `--reduction` that a pooling is, from its settings in this or an earlier version.

    Raises:
        ValueError: it has none or several, which no `--reduction` does.
    """
    mode = pooling.get("pooling_mode") or [name for setting, name in EARLIER.items() if pooling.get(setting)]
    modes = [mode] if isinstance(mode, str) else list(mode) or ["mean"]
    if len(modes) > 1 or modes[0] not in POOLINGS:
        raise InputError(
            f"{source} pools by {' and '.join(modes)}; bi knows {', '.join(POOLINGS)}: give another --backbone, or "
            "--reduction to train with one of its own"
        )
    return POOLINGS[modes[0]]


def dense_layer(module: Module, source: str) -> tuple[int, str]:
    """Return width and activation of the dense layer after the pooling. Raises ValueError if `bi` has no such layer."""
    dense = module.settings
    activation = ACTIVATIONS.get(dense.get("activation_function"))
    if activation is None or dense.get("use_residual") or "token" in dense.get("module_input_name", ""):
        raise InputError(f"the dense layer of {source} is none of W x + b and tanh(W x + b): give another --backbone")
    return dense["out_features"], activation


# --- a vector for every token: late -----------------------------------------------------------------------------------


class Colbert(NamedTuple):
    """The parts of a ColBERT checkpoint besides its encoder."""

    general: dict[str, Any]  # similarity and prompts, as in config_sentence_transformers.json
    projection: Tensor  # W, [D', D]


def token_vectors(options: Options, source: str, tokenizer: Tokenizer) -> PretrainedParts:
    """Read what `late` takes from a ColBERT checkpoint: W, the marks of query and document, sum or mean.

    Args:
        options: of `late`; those that are given win over the checkpoint.
        source: a folder or HuggingFace name. One that is not of ColBERT has nothing.
        tokenizer: of the checkpoint.

    Raises:
        ValueError: the checkpoint does something that `late` cannot do.
    """
    if "HF_ColBERT" in (hub_files.settings(source, "config.json").get("architectures") or ()):
        colbert = read_authors_form(source)
    else:
        colbert = read_modules_form(source, tokenizer)
    if colbert is None:
        return NOTHING
    mean = colbert.general.get("similarity_fn_name") == "meanmaxsim"
    known = {"late_scale": 1.0 if mean else 0.0} | prompts(colbert.general, options, source, tokenizer)
    width = len(colbert.projection)
    if options.late_width not in (None, width):
        return PretrainedParts(known, {})
    return PretrainedParts(known | {"late_width": width}, {"project.weight": colbert.projection})


def read_authors_form(source: str) -> Colbert:
    """Read a checkpoint as ColBERT's authors write it."""
    metadata = hub_files.settings(source, "artifact.metadata")
    query, document = metadata.get("query_token_id") or "[unused0]", metadata.get("doc_token_id") or "[unused1]"
    weight = hub_files.linear(source, {"linear": "project"})["project.weight"]
    return Colbert({"prompts": {"query": query, "document": document}}, weight)


def read_modules_form(source: str, tokenizer: Tokenizer) -> Colbert | None:
    """Read a checkpoint as PyLate or sentence-transformers writes it. Returns None if it is none of ColBERT's."""
    modules = read(source, tokenizer)
    kinds = [module.kind for module in modules]
    if "Dense" not in kinds or "Pooling" in kinds:
        return None
    general = hub_files.settings(source, GENERAL)
    is_pylate = general.get("model_type") == "ColBERT"
    allowed = {"Transformer", "Dense"} if is_pylate else {"Transformer", "Dense", "MultiVectorMask", "Normalize"}
    if set(kinds) - allowed or not (is_pylate or "Normalize" in kinds):
        raise InputError(
            f"{source} is made of {', '.join(kinds)}; late takes ColBERT's: Transformer, Dense, normalised vectors"
        )
    if is_pylate:
        general = general | {"prompts": with_marks(general)}
    weight, *rest = (projection(source, module) for module in modules if module.kind == "Dense")
    for other in rest:
        weight = other @ weight
    return Colbert(general, weight)


def with_marks(general: dict[str, Any]) -> dict[str, str]:
    """Return PyLate's prompts with its marks of query and document before them."""
    texts = dict(general.get("prompts") or {})
    for side, setting, usual in (("query", "query_prefix", "[Q] "), ("document", "document_prefix", "[D] ")):
        mark = usual if general.get(setting) is None else general[setting]
        texts[side] = mark + (texts.get(side) or "").removeprefix(mark)
    return texts


def projection(source: str, module: Module) -> Tensor:
    """Read the matrix of a dense layer over tokens, [D', D]. Raises ValueError if it is more than a matrix."""
    dense = module.settings
    is_linear = ACTIVATIONS.get(dense.get("activation_function")) == "identity"
    if not is_linear or dense.get("bias") or dense.get("use_residual"):
        raise InputError(f"{source}/{module.folder} is more than a linear map, which late's projection is")
    return hub_files.linear(source, {"linear": "project"}, module.folder)["project.weight"]


# --- prompts ----------------------------------------------------------------------------------------------------------


def prompts(general: dict[str, Any], options: Options, source: str, tokenizer: Tokenizer) -> dict[str, str]:
    """Return the prompts of a checkpoint as `context_prompt` and `candidate_prompt`.

    Args:
        general: the content of config_sentence_transformers.json.
        options: a prompt that is given here is not checked.
        source: the checkpoint, for error messages.
        tokenizer: of the checkpoint.

    Raises:
        ValueError: a prompt has other ids when it is tokenized apart from the text after it.
    """
    texts = {name: text for name, text in (general.get("prompts") or {}).items() if text}
    usual = texts.get(general.get("default_prompt_name"), "")
    candidate = next((texts[name] for name in CANDIDATE_PROMPTS if name in texts), usual)
    chosen = {"context_prompt": texts.get("query", usual), "candidate_prompt": candidate}
    for name, text in chosen.items():
        if getattr(options, name) is None and not tokenizer.separates(text):
            raise InputError(
                f"the tokenizer of {source} joins the prompt {text!r} with the first word of a text, so they cannot be "
                f"tokenized apart as bi and late do; give {flag(name)} to use it anyway"
            )
    return chosen
