"""Model files of ParlAI's own transformer/biencoder, transformer/polyencoder and transformer/crossencoder.

Such a model is a file of torch (a zip, or a plain pickle before torch 1.6) with `.opt` and `.dict` beside it. It is
read as a `Checkpoint` like any of ours, so whatever takes a model file takes these too. They are never written.

The unpickling is restricted to tensors, plain values, and what ParlAI's counters and options are made of.
"""

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from poly_agents.files.checkpoint import Checkpoint, Weights

AGENTS = {"transformer/biencoder": "bi", "transformer/polyencoder": "poly", "transformer/crossencoder": "cross"}
PRE_NORM = "prelayernorm"
NOT_HERE = ("use_memories", "history_reversed", "special_tok_lst", "history_add_global_end_token")

# The first name that fits is replaced; what is replaced by None is left out: it is there twice, or never used.
RANKERS = {
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
PARTS = {
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


def owns(model_file: str) -> bool:
    """Whether the options beside a model file say that one of ParlAI's rankers made it."""
    try:
        opt = json.loads(Path(f"{model_file}.opt").read_text(encoding="utf-8"))
        return _made_by(opt).startswith("transformer/")
    except (OSError, ValueError, AttributeError):
        return False


def read_opt(model_file: str) -> dict[str, Any]:
    """The options it was trained with. Raises ValueError, naming the file, where they are of no ranker known here."""
    path = f"{model_file}.opt"
    try:
        opt = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{model_file} is a file of torch without {path}, which says what ParlAI made it") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore the file") from error
    if _made_by(opt).startswith("poly_agents"):
        raise ValueError(f"{model_file} is damaged or not a model of poly_agents (torch wrote it); restore the file")
    if _made_by(opt) not in AGENTS:
        raise ValueError(f"{model_file} is a {opt.get('model')} of ParlAI; what loads here are {', '.join(AGENTS)}")
    refused = [name for name in NOT_HERE if opt.get(name)]
    if refused:
        flag = refused[0].replace("_", "-")
        raise ValueError(f"{model_file} was trained with --{flag} {opt[refused[0]]}, which no ranker here knows")
    return opt


def _made_by(opt: Mapping) -> str:
    return opt.get("model", "").split(":")[0].replace(".", "/").removeprefix("parlai/agents/")


def read_header(model_file: str) -> dict[str, Any]:
    """What `TextRanker.header` would say of it; `parlai` in it is the agent's name there."""
    stat = Path(model_file).stat()
    return dict(_header(model_file, stat.st_mtime_ns, stat.st_size))


def read(model_file: str) -> Checkpoint:
    """The model alone: ParlAI's optimiser is left where it is."""
    opt = read_opt(model_file)
    load = lambda: renamed(opt, load_weights(model_file))  # noqa: E731
    weights = Weights(load) if zipfile.is_zipfile(model_file) else load()
    return Checkpoint(header(opt, weights, model_file), weights, None)


@lru_cache(8)
def _header(model_file: str, *changed: int) -> dict[str, Any]:
    opt = read_opt(model_file)
    return header(opt, renamed(opt, load_weights(model_file)), model_file)


class Opt(dict):
    """Stands for ParlAI's own class where its options are pickled: nothing of theirs is run."""

    def __setstate__(self, state: Any) -> None:
        self.update(state[-1])


def allowed() -> list:
    """What a file may be made of, besides what torch allows."""
    scalar = numpy.float64(0).__reduce__()[0]
    dtypes = [type(numpy.dtype(name)) for name in ("float64", "float32", "int64")]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [(Opt, "parlai.core.opt.Opt"), *names, numpy.dtype, *dtypes]


def load_weights(model_file: str) -> dict[str, Tensor]:
    """The tensors by ParlAI's names, mapped from the file where it is a zip."""
    try:
        with torch.serialization.safe_globals(allowed()):
            states = torch.load(model_file, "cpu", weights_only=True, mmap=zipfile.is_zipfile(model_file))
        weights = dict(states["model"])
        if not all(isinstance(tensor, Tensor) for tensor in weights.values()):
            raise TypeError("its model holds more than tensors")
        return weights
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        carried = found[1] if found else str(error).splitlines()[0]
        raise ValueError(
            f"{model_file} was not loaded: it carries {carried}, and only tensors and plain options are taken from it"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{model_file} is damaged or not a model of ParlAI ({error}); restore the file") from error


def renamed(opt: Mapping, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the names they have in our rankers."""
    ranker = RANKERS[AGENTS[_made_by(opt)]]
    found = {}
    for name, tensor in weights.items():
        prefix = next((prefix for prefix in ranker if name.startswith(prefix)), "")
        start = ranker.get(prefix, "")
        if start is not None:
            found[_part(start + name.removeprefix(prefix), opt)] = tensor
    return found


def _part(name: str, opt: Mapping) -> str:
    if opt.get("variant") == PRE_NORM:
        name = name.replace(".norm_embeddings.", ".norm.")
    if ".model." not in name:  # the poly-encoder's own attentions
        return re.sub(r"\b([qkv]|out)_lin\.", lambda found: _LINEAR[found[1]], name)
    old = next((part for part in PARTS if part in name), "")
    return name.replace(old, PARTS[old]) if old else name


_LINEAR = {"q": "query.", "k": "key.", "v": "value.", "out": "out."}


def header(opt: Mapping, weights: Mapping[str, Tensor], model_file: str) -> dict[str, Any]:
    """From the options and the shapes."""
    try:
        config = encoder(opt, weights)
    except KeyError as error:
        raise ValueError(f"{model_file} lacks {error}: it is not what its .opt says; restore both files") from error
    agent, positions = AGENTS[_made_by(opt)], config["max_position_embeddings"]
    text, label = (_truncation(opt, name) or positions for name in ("text_truncate", "label_truncate"))
    if agent == "cross":  # both texts share the positions, with the special tokens of either
        label = min(label, (positions - 4) // 2)
        text = min(text, positions - 4 - label)
    return {
        "agent": agent,
        "options": options(opt) | {"backbone": model_file},
        "backbone": config,
        "text_truncate": min(text, positions - 2),
        "label_truncate": min(label, positions - 2),
        "parlai": _made_by(opt),
    }


def encoder(opt: Mapping, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The configuration of `transformer.Transformer`."""
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


def options(opt: Mapping) -> dict[str, Any]:
    """Those of our ranker that the model was made by."""
    agent = AGENTS[_made_by(opt)]
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
    """What ParlAI cuts texts to; None: it does not."""
    length = opt.get(name) or opt.get("truncate", -1)
    return length if length > 0 else None
