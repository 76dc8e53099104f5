"""What a folder of sentence-transformers says besides its encoder, for `bi` and `late`: read from its JSON files alone.

    modules.json                       what is done in turn: Transformer, Pooling, Dense, Normalize
    config_sentence_transformers.json  similarity and prompts
    N_Pooling, N_Dense                 the settings of each, and the weights of a dense layer

A ColBERT checkpoint has one of three forms: that of its authors (`HF_ColBERT`: W is `linear.weight` beside the encoder,
the marks are in artifact.metadata), PyLate's (Transformer and Dense), and that of sentence-transformers itself.
"""

from typing import Any, NamedTuple

from torch import Tensor

from poly_agents.options import Options
from poly_agents.pretrained import hub_files
from poly_agents.scoring.ranker import PretrainedParts
from poly_agents.text.tokenizer import Tokenizer

POOLINGS = {"cls": "first", "mean": "mean", "max": "max", "mean_sqrt_len_tokens": "sqrt"}
EARLIER = {f"pooling_mode_{name}": name for name in ("mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")}
EARLIER |= {f"pooling_mode_{name}_token{'s' * (name != 'cls')}": name for name in ("cls", "max", "mean")}
ACTIVATIONS = {"torch.nn.modules.activation.Tanh": "tanh", "torch.nn.modules.linear.Identity": "identity"}
SINGLE = ["Transformer", "Pooling", "Dense", "Normalize"]  # in this order, the last two where there are any
CANDIDATE_PROMPTS = "document", "passage", "corpus"
NOTHING = PretrainedParts({}, {})


class Module(NamedTuple):
    kind: str  # `Pooling`
    folder: str  # `1_Pooling`
    settings: dict[str, Any]


def vectors(options: Options, source: str, tokenizer: Tokenizer) -> PretrainedParts:
    """What `bi` takes over: pooling, dense layer, similarity, prompts. Nothing from a plain HuggingFace folder.

    Raises ValueError for what it cannot do, and for prompts that cannot be tokenised apart from the text.
    """
    modules = read(source, tokenizer)
    if not modules:
        return NOTHING
    kinds = [module.kind for module in modules]
    if kinds != [kind for kind in SINGLE if kind in kinds] or kinds[:2] != SINGLE[:2]:
        raise ValueError(
            f"{source} is made of {', '.join(kinds)}; bi takes Transformer and Pooling, then at most one Dense and a "
            "Normalize. Give another --backbone, or a copy without modules.json to start from the encoder alone"
        )
    parts = {module.kind: module for module in modules}
    general = hub_files.settings(source, "config_sentence_transformers.json")
    similarity = general.get("similarity_fn_name") or "cosine"
    if similarity not in ("cosine", "dot") and options.bi_cosine is None:
        raise ValueError(f"{source} compares by {similarity}; bi knows cosine and dot: give --bi-cosine true or false")
    prompted = prompts(general, options, source, tokenizer)
    known: dict[str, Any] = dict(prompted)
    if options.reduction is None:
        known["reduction"] = reduction(parts["Pooling"].settings, source)
    if any(prompted.values()) and parts["Pooling"].settings.get("include_prompt") is False:
        raise ValueError(f"{source} leaves its prompts out of the pooling, which bi cannot: give another --backbone")
    known["bi_cosine"] = "Normalize" in kinds or similarity == "cosine"
    if "Dense" not in parts:
        return PretrainedParts(known, {})
    dense = parts["Dense"].settings
    width, activation = dense["out_features"], ACTIVATIONS.get(dense.get("activation_function"))
    if activation is None or dense.get("use_residual") or "token" in dense.get("module_input_name", ""):
        raise ValueError(f"the dense layer of {source} is none of W x + b and tanh(W x + b): give another --backbone")
    if options.bi_dense not in (None, width):
        return PretrainedParts(known, {})
    weights = hub_files.linear(source, {"linear": "dense.0"}, parts["Dense"].folder)
    return PretrainedParts(known | {"bi_dense": width, "bi_activation": activation}, weights)


def token_vectors(options: Options, source: str, tokenizer: Tokenizer) -> PretrainedParts:
    """What `late` takes over of a ColBERT checkpoint: W, the marks of query and document, and MaxSim's sum."""
    known: dict[str, Any] = {"late_scale": 0.0}
    if "HF_ColBERT" in (hub_files.settings(source, "config.json").get("architectures") or ()):
        metadata = hub_files.settings(source, "artifact.metadata")
        marks = metadata.get("query_token_id") or "[unused0]", metadata.get("doc_token_id") or "[unused1]"
        known |= prompts({"prompts": dict(zip(("query", "document"), marks, strict=True))}, options, source, tokenizer)
        weight = hub_files.linear(source, {"linear": "project"})["project.weight"]
    else:
        modules = read(source, tokenizer)
        kinds = [module.kind for module in modules]
        if "Dense" not in kinds or "Pooling" in kinds:
            return NOTHING
        general = hub_files.settings(source, "config_sentence_transformers.json")
        pylate = general.get("model_type") == "ColBERT"
        allowed = {"Transformer", "Dense", *([] if pylate else ["MultiVectorMask", "Normalize"])}
        if set(kinds) - allowed or not (pylate or "Normalize" in kinds):
            raise ValueError(
                f"{source} is made of {', '.join(kinds)}; late takes ColBERT's: Transformer, Dense, normalised vectors"
            )
        if pylate:
            general = general | {"prompts": with_marks(general)}
        if general.get("similarity_fn_name") == "meanmaxsim":
            known["late_scale"] = 1.0
        known |= prompts(general, options, source, tokenizer)
        weight = None
        for module in modules:
            if module.kind == "Dense":
                weight = projection(source, module) if weight is None else projection(source, module) @ weight
    if options.late_width not in (None, len(weight)):
        return PretrainedParts(known, {})
    return PretrainedParts(known | {"late_width": len(weight)}, {"project.weight": weight})


def read(source: str, tokenizer: Tokenizer) -> list[Module]:
    """The modules of a folder of sentence-transformers, in turn; none for any other."""
    modules = []
    for each in hub_files.settings(source, "modules.json"):
        kind, folder = each["type"].rpartition(".")[2], each["path"]
        if kind == "Transformer" and folder:
            raise ValueError(f"{source} keeps its encoder in {folder}/: copy the files there to the top of the folder")
        modules.append(Module(kind, folder, hub_files.settings(source, f"{folder}/config.json") if folder else {}))
    lowers = modules and hub_files.settings(source, "sentence_bert_config.json").get("do_lower_case")
    if lowers and not tokenizer.lowercases:
        raise ValueError(f"{source} lowercases before its tokeniser does; write that into its tokenizer.json")
    return modules


def reduction(pooling: dict[str, Any], source: str) -> str:
    """`--reduction` for the settings of a pooling, today's or those of earlier versions."""
    mode = pooling.get("pooling_mode") or [name for flag, name in EARLIER.items() if pooling.get(flag)]
    modes = [mode] if isinstance(mode, str) else list(mode) or ["mean"]
    if len(modes) > 1 or modes[0] not in POOLINGS:
        raise ValueError(
            f"{source} pools by {' and '.join(modes)}; bi knows {', '.join(POOLINGS)}: give another --backbone, or "
            "--reduction to train with one of its own"
        )
    return POOLINGS[modes[0]]


def prompts(general: dict[str, Any], options: Options, source: str, tokenizer: Tokenizer) -> dict[str, str]:
    """The texts before contexts and candidates that were left open."""
    there = {name: text for name, text in (general.get("prompts") or {}).items() if text}
    usual = there.get(general.get("default_prompt_name"), "")
    candidate = next((there[name] for name in CANDIDATE_PROMPTS if name in there), usual)
    found = {"context_prompt": there.get("query", usual), "candidate_prompt": candidate}
    for name, text in found.items():
        if getattr(options, name) is None and not tokenizer.separates(text):
            raise ValueError(
                f"the tokeniser of {source} joins the prompt {text!r} with the first word of a text, so they cannot be "
                f"tokenised apart as bi and late do; give --{name.replace('_', '-')} to have it so all the same"
            )
    return found


def with_marks(general: dict[str, Any]) -> dict[str, str]:
    """PyLate's prompts, with its marks before them."""
    found = dict(general.get("prompts") or {})
    for side, flag, usual in (("query", "query_prefix", "[Q] "), ("document", "document_prefix", "[D] ")):
        mark = usual if general.get(flag) is None else general[flag]
        found[side] = mark + (found.get(side) or "").removeprefix(mark)
    return found


def projection(source: str, module: Module) -> Tensor:
    """The matrix of a dense layer over tokens, [D', D]."""
    given = module.settings
    plain = ACTIVATIONS.get(given.get("activation_function")) == "identity"
    if not plain or given.get("bias") or given.get("use_residual"):
        raise ValueError(f"{source}/{module.folder} is more than a linear map, which late's projection is")
    return hub_files.linear(source, {"linear": "project"}, module.folder)["project.weight"]
