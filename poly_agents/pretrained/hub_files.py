"""Files of a pretrained checkpoint, in a folder or by HuggingFace name: settings, and single tensors by name."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

WEIGHTS = "model.safetensors", "pytorch_model.bin"


def path_of(source: str, name: str) -> Path | None:
    """Where a file of the checkpoint is, fetched if need be; None where it has none of that name, as a model file."""
    if Path(source).exists():
        path = Path(source, name)
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(source, name))
    except EntryNotFoundError:  # also where it is not cached and there is no network
        return None


def settings(source: str, name: str) -> Any:
    """A JSON file of the checkpoint; an empty object where there is none."""
    path = path_of(source, name)
    if path is None:
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); restore the file") from error


def tensors(source: str, names: Iterable[str], folder: str = "") -> dict[str, Tensor]:
    """Those of the named tensors that the checkpoint has, in float32; nothing else of its weights is read."""
    for name in WEIGHTS:
        path = path_of(source, f"{folder}/{name}" if folder else name)
        if path is None:
            continue
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                there = set(file.keys())
                return {name: file.get_tensor(name).float() for name in names if name in there}
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return {name: found[name].float() for name in names if name in found}
    raise ValueError(f"{source} has neither of {', '.join(WEIGHTS)}" + (f" in {folder}" if folder else ""))


def linear(source: str, names: dict[str, str], folder: str = "") -> dict[str, Tensor]:
    """Weights and biases of layers, {theirs: ours}, by our names; a layer without a bias has one of zeros.

    Raises ValueError where a weight is lacking: none is filled with random numbers.
    """
    found = tensors(source, [f"{theirs}.{part}" for theirs in names for part in ("weight", "bias")], folder)
    if lacking := [theirs for theirs in names if f"{theirs}.weight" not in found]:
        raise ValueError(
            f"the checkpoint {source} lacks the weights of {', '.join(lacking)}, which its settings promise"
        )
    taken = {}
    for theirs, ours in names.items():
        weight = found[f"{theirs}.weight"]
        taken[f"{ours}.weight"] = weight
        taken[f"{ours}.bias"] = found.get(f"{theirs}.bias", torch.zeros(len(weight)))
    return taken
