"""Model files of ParlAI's own transformer/biencoder, transformer/polyencoder and transformer/crossencoder.

Such a model is a file of torch (a zip, or a plain pickle before torch 1.6) with `.opt` and `.dict` beside it. It is
read as a `Checkpoint`, as our own model files are. These files are never written.

Unpickling is restricted to tensors, plain values, and the classes of ParlAI's counters and options.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poly_agents.errors import InputError
from poly_agents.files import option_files
from poly_agents.files.checkpoint import Checkpoint, MappedWeights
from poly_agents.options import flag
from poly_agents.patches.loading import numpy_globals

RANKERS = {"transformer/biencoder": "bi", "transformer/polyencoder": "poly", "transformer/crossencoder": "cross"}
PRE_NORM = "prelayernorm"
UNSUPPORTED = ("use_memories", "history_reversed", "special_tok_lst", "history_add_global_end_token")

# ranker -> how names of weights begin in ParlAI's file, and here. The first that fits is replaced. None: the weight is
# left out, because the file holds it twice or the model never uses it.
PREFIXES = {
    "bi": {
        "embeddings.": None,
        "cand_embeddings.": None,
        "memory_transformer.": None,
        "context_encoder.": "context_encoder.model.",
        "cand_encoder.transformer.": None,
        "cand_encoder.mlp.": "candidate_map.",
        "cand_encoder.": "candidate_encoder.model.",
    },
    "poly": {"encoder_ctxt.": "context_encoder.model.", "encoder_cand.": "candidate_encoder.model."},
    "cross": {"encoder.": "context_encoder.model.", "linear_layer.": "head.0."},
}
ENCODER_PARTS = {  # names within an encoder, in ParlAI's file and here; the first that fits is replaced
    ".position_embeddings.": ".embeddings.positions.",
    ".segment_embeddings.": ".embeddings.segments.",
    ".norm_embeddings.": ".embeddings.norm.",
    ".embeddings.": ".embeddings.words.",
    "attention.q_lin.": "query.",
    "attention.k_lin.": "key.",
    "attention.v_lin.": "value.",
    "attention.out_lin.": "out.",
    ".norm1.": ".attention_norm.",
    ".norm2.": ".output_norm.",
    ".ffn.lin1.": ".up.",
    ".ffn.lin2.": ".down.",
}
POLY_ATTENTION_PARTS = {"q": "query.", "k": "key.", "v": "value.", "out": "out."}


# --- options ----------------------------------------------------------------------------------------------------------


def owns(model_file: str) -> bool:
    """Tell whether one of ParlAI's rankers wrote a model file, by the options beside it."""
    try:
        opt = option_files.read(f"{model_file}.opt")
        return _model_name(opt).startswith("transformer/")
    except (OSError, ValueError, AttributeError):
        return False


def read_opt(model_file: str) -> dict[str, Any]:
    """Read the options that a model of ParlAI was trained with.

    Raises:
        ValueError: the file is missing or damaged, or its model cannot be loaded here. The message names it.
    """
    path = f"{model_file}.opt"
    try:
        opt = option_files.read(path)
    except FileNotFoundError as error:
        raise InputError(f"{model_file} is a file of torch without {path}, which says what ParlAI made it") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); restore the file") from error
    if _model_name(opt).startswith("poly_agents"):
        raise InputError(f"{model_file} is damaged or not a model of poly_agents (torch wrote it); restore the file")
    if _model_name(opt) not in RANKERS:
        raise InputError(f"{model_file} is a {opt.get('model')} of ParlAI; what loads here are {', '.join(RANKERS)}")
    for name in UNSUPPORTED:
        if opt.get(name):
            raise InputError(f"{model_file} was trained with {flag(name)} {opt[name]}, which no ranker here supports")
    return opt


def _model_name(opt: Mapping) -> str:
    """Return which of ParlAI's models the options are of: `transformer/biencoder`."""
    return opt.get("model", "").split(":")[0].replace(".", "/").removeprefix("parlai/agents/")


# --- weights ----------------------------------------------------------------------------------------------------------


def read(model_file: str) -> Checkpoint:
    """Read a model of ParlAI without its optimizer. The weights of a zip are mapped, not read.

    Raises:
        ValueError: a file is missing, damaged, or of a model that cannot be loaded here. The message names it.
    """
    opt = read_opt(model_file)

    def load() -> dict[str, Tensor]:
        return renamed(opt, load_weights(model_file))

    weights = MappedWeights(load) if zipfile.is_zipfile(model_file) else load()
    return Checkpoint(header(opt, weights, model_file), weights, None)


class Opt(dict):
    """Takes the place of ParlAI's class when pickled options are read, so that none of its code runs."""

    def __setstate__(self, state: Any) -> None:
        self.update(state[-1])


def load_weights(model_file: str) -> dict[str, Tensor]:
    """Load the tensors of a model by ParlAI's names. A zip is mapped, not read.

    Raises:
        ValueError: the file is damaged, or holds a class that is not allowed.
    """
    allowed = [(Opt, "parlai.core.opt.Opt"), *numpy_globals()]
    try:
        with torch.serialization.safe_globals(allowed):
            states = torch.load(model_file, "cpu", weights_only=True, mmap=zipfile.is_zipfile(model_file))
        weights = dict(states["model"])
        if not all(isinstance(tensor, Tensor) for tensor in weights.values()):
            raise TypeError("its model holds more than tensors")
        return weights
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        carried = match[1] if match else str(error).splitlines()[0]
        raise InputError(
            f"{model_file} was not loaded: it carries {carried}, and only tensors and plain options are taken from it"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{model_file} is damaged or not a model of ParlAI ({error}); restore the file") from error


def renamed(opt: Mapping, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by the names that they have in our rankers."""
    prefixes = PREFIXES[RANKERS[_model_name(opt)]]
    ours = {}
    for name, tensor in weights.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        replacement = prefixes.get(prefix, "")
        if replacement is not None:
            ours[_renamed_part(replacement + name.removeprefix(prefix), opt)] = tensor
    return ours


def _renamed_part(name: str, opt: Mapping) -> str:
    """Return the name of a weight whose prefix is already ours."""
    if opt.get("variant") == PRE_NORM:
        name = name.replace(".norm_embeddings.", ".norm.")
    if ".model." not in name:  # the poly-encoder's own attentions
        return re.sub(r"\b([qkv]|out)_lin\.", lambda match: POLY_ATTENTION_PARTS[match[1]], name)
    theirs = next((part for part in ENCODER_PARTS if part in name), "")
    return name.replace(theirs, ENCODER_PARTS[theirs]) if theirs else name


# --- header -----------------------------------------------------------------------------------------------------------


def read_header(model_file: str) -> dict[str, Any]:
    """Return the header that our format would have for a model. Raises ValueError as `read` does."""
    stat = Path(model_file).stat()
    return dict(_cached_header(model_file, stat.st_mtime_ns, stat.st_size))


@lru_cache(8)
def _cached_header(model_file: str, *changed: int) -> dict[str, Any]:
    """Make a header. `changed` differs after the file was changed."""
    opt = read_opt(model_file)
    return header(opt, renamed(opt, load_weights(model_file)), model_file)


def header(opt: Mapping, weights: Mapping[str, Tensor], model_file: str) -> dict[str, Any]:
    """Make the header of a model from its options and the shapes of its weights. `parlai` in it is ParlAI's name."""
    try:
        config = encoder_config(opt, weights)
    except KeyError as error:
        raise InputError(f"{model_file} lacks {error}: it is not what its .opt says; restore both files") from error
    agent, positions = RANKERS[_model_name(opt)], config["max_position_embeddings"]
    text, label = (_truncation(opt, name) or positions for name in ("text_truncate", "label_truncate"))
    if agent == "cross":  # both texts and up to four special tokens share the positions
        label = min(label, (positions - 4) // 2)
        text = min(text, positions - 4 - label)
    return {
        "agent": agent,
        "options": ranker_options(opt) | {"backbone": model_file},
        "backbone": config,
        "text_truncate": min(text, positions - 2),
        "label_truncate": min(label, positions - 2),
        "parlai": _model_name(opt),
    }


def encoder_config(opt: Mapping, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the configuration of the encoder, a `parlai_transformer.Transformer`. Raises KeyError without a weight."""
    embeddings = "context_encoder.model.embeddings."
    words, positions = (weights[f"{embeddings}{name}.weight"] for name in ("words", "positions"))
    segments = weights.get(f"{embeddings}segments.weight")
    variant, layers = opt.get("variant", "aiayn"), opt.get("n_encoder_layers", -1)
    return {
        "model_type": "parlai-prenorm" if variant == PRE_NORM else "parlai",
        "vocab_size": len(words),
        "hidden_size": words.shape[1],
        "num_hidden_layers": layers if layers > 0 else opt["n_layers"],
        "num_attention_heads": opt["n_heads"],
        "intermediate_size": len(weights["context_encoder.model.layers.0.up.weight"]),
        "hidden_act": opt.get("activation", "relu"),
        "max_position_embeddings": len(positions),
        "learnt_positions": opt.get("learn_positional_embeddings", False),
        "type_vocab_size": 0 if segments is None else len(segments),
        "embeddings_norm": variant != "aiayn",
        "embeddings_scale": words.shape[1] ** 0.5 if opt.get("embeddings_scale", True) else 1.0,
        "output_scale": opt.get("output_scaling", 1.0),
    }


def ranker_options(opt: Mapping) -> dict[str, Any]:
    """Return the options of our ranker that make it compute what the model of ParlAI does."""
    agent = RANKERS[_model_name(opt)]
    if agent == "cross":
        return {"share_encoders": True, "reduction": opt.get("reduction_type", "first")}
    reduction = {"reduction": opt.get("reduction_type", "mean")}
    if agent == "bi":
        shared = opt.get("share_encoders", True)
        cosine = {"bi_cosine": opt.get("normalize_sent_emb", False), "bi_scale": 1.0}
        return reduction | cosine | {"share_encoders": shared, "bi_candidate_map": shared}
    attentions = [f"{which}_attention_{what}" for which in ("poly", "codes") for what in ("type", "num_heads")]
    return (
        reduction
        | {"share_encoders": False, "poly_codes": opt["poly_n_codes"]}
        | {"poly_views": "first" if opt["polyencoder_type"] == "n_first" else "codes"}
        | {name: opt[name] for name in attentions if name in opt}
    )


def _truncation(opt: Mapping, name: str) -> int | None:
    """Return how many tokens ParlAI keeps of a text, None for all."""
    length = opt.get(name) or opt.get("truncate", -1)
    return length if length > 0 else None
