"""Build rankers: from a model file, from pretrained weights, or blank, to be filled by what is loaded next."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch

from poly_agents.encoders.backbone import Backbone
from poly_agents.encoders.loading import without_values
from poly_agents.encoders.precision import choose_dtype
from poly_agents.errors import InputError
from poly_agents.models import opening
from poly_agents.models.headers import check_options, described, naming
from poly_agents.models.opening import Opened
from poly_agents.pretrained import parlai_transformer
from poly_agents.rankers import ranker_class
from poly_agents.scoring.ranker import Ranker
from poly_agents.scoring.ranker_options import RankerOptions
from poly_agents.text.tokenizer import Tokenizer

parlai_transformer.register()  # `Backbone.blank` finds an architecture by the name in its configuration


def default_device() -> str:
    """Return `cuda` where there is a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def build(opened: Opened, precision: str = "auto") -> Ranker:
    """Build the ranker of a model file, for inference, on the default device.

    Raises:
        ValueError: weights and header do not fit each other.
    """
    header = opened.header | {"options": opened.header["options"] | {"precision": precision}}
    device = default_device()
    ranker = blank(header, opened.tokenizer, device, path=opened.path)
    ranker.load_tensors(opened.weights, opened.path)
    ranker.to(device).context_encoder.try_out(opened.path)
    return ranker.eval()


def blank(
    header: dict[str, Any],
    tokenizer: Tokenizer,
    device: str,
    for_training: bool = False,
    path: str = "the model file",
) -> Ranker:
    """Build a ranker whose weights have memory but no values: every one of them is loaded next.

    Args:
        header: what a model file says of itself: agent, options, backbone, label_truncate.
        device: where it will run, which decides what precision `auto` is. The weights stay on the CPU.
        for_training: hold the weights in float32. Otherwise they are never held in two precisions.
        path: the model file, for errors.

    Raises:
        ValueError: the header describes no model, or one that does not fit the tokenizer.
    """
    with naming(path), without_values():
        kind = ranker_class(header["agent"])
        check_options(kind.Options, header["options"], path)
        options = kind.Options.of(header["options"])
        dtype = choose_dtype(options.precision, device)
        blank_of = partial(kind.Encoder.blank, header["backbone"], dtype, torch.float32 if for_training else dtype)

        def encoder() -> Backbone:
            return with_vocabulary(described(blank_of, path), tokenizer, path)

        ranker = kind(options, tokenizer.frame_for(options, header["label_truncate"]), encoder)
    if not for_training:
        ranker.lower_precision()
    return ranker


def start(
    agent: str, options: RankerOptions, source: str, tokenizer: Tokenizer, device: str, label_truncate: int = 0
) -> Ranker:
    """Build a ranker over pretrained weights. What they do not have starts new, from torch's random numbers.

    Args:
        agent: the name of the ranker, as in `-m poly_agents/NAME`.
        options: those left open (None) are read from the pretrained weights.
        source: a HuggingFace name or folder, or a model file.
        device: where it will run. The weights stay on the CPU.
    """
    kind = ranker_class(agent)
    pretrained = kind.read_pretrained(options, source, tokenizer)
    known = pretrained.options | starting_options(kind, options, source, tokenizer, bool(pretrained.weights))
    known = {name: value for name, value in known.items() if getattr(options, name) is None}
    options = dataclasses.replace(options, **known)  # what stays open depends on the encoder
    dtype = choose_dtype(options.precision, device)

    def encoder() -> Backbone:
        encoder = with_vocabulary(pretrained_encoder(kind.Encoder, source, dtype), tokenizer, source)
        return kind.adapt_encoder(options, encoder)

    ranker = kind(options, tokenizer.frame_for(options, label_truncate), encoder)
    ranker.load_some(pretrained.weights)
    return ranker


def starting_options(
    kind: type[Ranker], options: RankerOptions, source: str, tokenizer: Tokenizer, is_trained: bool
) -> dict[str, Any]:
    """Return the open options by which a ranker starts where its backbone stands, or nothing if it starts otherwise.

    Args:
        kind: the class of the ranker.
        options: of the ranker.
        source: a HuggingFace name or folder, or a model file.
        tokenizer: of the source.
        is_trained: the source has trained parts for this ranker besides the encoder.
    """
    if not kind.backbone_start or options.start == "paper":
        return {}
    asked = options.start == "backbone"
    return kind.backbone_start if asked or (not is_trained and compares_means(source, tokenizer)) else {}


def compares_means(source: str, tokenizer: Tokenizer) -> bool:
    """Tell whether a backbone was trained to compare two texts by the cosine of their mean states.

    So are the encoders of embeddings that pool the mean, and a `bi` of this project.
    """
    if Path(source).is_file():
        header = opening.read_header(source)
        known = header["options"] if header["agent"] == "bi" else {}
    else:
        bi = ranker_class("bi")
        try:
            known = bi.read_pretrained(bi.Options(), source, tokenizer).options
        except InputError:  # it is more than `bi` can do
            known = {}
    more = any(known.get(name) for name in ("bi_dense", "bi_candidate_map"))
    one_encoder = known.get("share_encoders", True)
    return known.get("reduction") == "mean" and bool(known.get("bi_cosine")) and one_encoder and not more


def with_vocabulary(encoder: Backbone, tokenizer: Tokenizer, source: str) -> Backbone:
    """Return an encoder. Raises ValueError if the tokenizer has ids that it has no embedding for."""
    rows = encoder.model.get_input_embeddings().weight.shape[0]
    if tokenizer.size > rows:
        raise InputError(
            f"the tokenizer of {source} has {tokenizer.size:,} ids, its embeddings have {rows:,} rows; if tokens were "
            "added, resize the embeddings (resize_token_embeddings) and save the checkpoint again"
        )
    return encoder


def pretrained_encoder(kind: type[Backbone], source: str, dtype: torch.dtype) -> Backbone:
    """Load an encoder by HuggingFace name or folder, or out of a model file. Weights that are missing are an error."""
    return trained_encoder(kind, source, dtype) if Path(source).is_file() else kind.downloaded(source, dtype)


def trained_encoder(kind: type[Backbone], model_file: str, dtype: torch.dtype) -> Backbone:
    """Load the context encoder of a trained model.

    Raises:
        ValueError: its weights are not those of such an encoder.
    """
    saved = opening.read_weights(model_file)
    with naming(model_file), without_values():
        encoder = described(partial(kind.blank, saved.header["backbone"], dtype), model_file)
    prefix = "context_encoder.model."
    own = {f"{prefix}{name}": tensor for name, tensor in encoder.model.state_dict().items()}
    wrong = sorted(own.keys() ^ {name for name in saved.weights if name.startswith(prefix)})
    wrong = wrong or [name for name in own if own[name].shape != saved.weights[name].shape]
    if wrong:
        raise InputError(f"the encoder in {model_file} does not fit here, first {wrong[0].removeprefix(prefix)!r}")
    for name, tensor in own.items():
        tensor.copy_(saved.weights.pop(name))
    return encoder
