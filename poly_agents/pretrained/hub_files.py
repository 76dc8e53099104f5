"""Files of a pretrained checkpoint, in a folder or by HuggingFace name: JSON files, and single tensors by name."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from poly_agents.errors import InputError
from poly_agents.files import json_files

WEIGHTS = "model.safetensors", "pytorch_model.bin"


def path_of(source: str, name: str) -> Path | None:
    """Return the path of a file of a checkpoint, or None if the checkpoint has no such file.

    Args:
        source: a folder, or a HuggingFace name, from which the file is fetched. A model file has no such files.
        name: the file within the folder.
    """
    if Path(source).exists():
        path = Path(source, name)
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(source, name))
    except EntryNotFoundError:  # raised too if the file is not cached and there is no network
        return None


def settings(source: str, name: str) -> Any:
    """Read a JSON file of a checkpoint. A missing file reads as an empty object; a damaged one raises ValueError."""
    path = path_of(source, name)
    return {} if path is None else json_files.read(path)


def tensors(source: str, names: Iterable[str], folder: str = "") -> dict[str, Tensor]:
    """Read some tensors of a checkpoint in float32. The rest of its weights is not read.

    Args:
        source: a folder or HuggingFace name.
        names: the tensors to read. Those that the checkpoint does not have are left out.
        folder: the folder within the checkpoint that has the weights.

    Raises:
        ValueError: there are no weights.
    """
    for file_name in WEIGHTS:
        path = path_of(source, f"{folder}/{file_name}" if folder else file_name)
        if path is None:
            continue
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                saved = set(file.keys())
                return {name: file.get_tensor(name).float() for name in names if name in saved}
        states = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return {name: states[name].float() for name in names if name in states}
    raise InputError(f"{source} has neither of {', '.join(WEIGHTS)}" + (f" in {folder}" if folder else ""))


def linear(source: str, names: dict[str, str], folder: str = "") -> dict[str, Tensor]:
    """Read weights and biases of linear layers. A layer without a bias gets one of zeros.

    Args:
        source: a folder or HuggingFace name.
        names: the name of each layer in the checkpoint -> its name here.
        folder: the folder within the checkpoint that has the weights.

    Returns:
        `NAME.weight` and `NAME.bias` of every layer, by the names here.

    Raises:
        ValueError: a weight is missing. It is never filled with random numbers.
    """
    saved = tensors(source, [f"{theirs}.{part}" for theirs in names for part in ("weight", "bias")], folder)
    if missing := [theirs for theirs in names if f"{theirs}.weight" not in saved]:
        raise InputError(
            f"the checkpoint {source} lacks the weights of {', '.join(missing)}, which its settings promise"
        )
    renamed = {}
    for theirs, ours in names.items():
        weight = saved[f"{theirs}.weight"]
        renamed[f"{ours}.weight"] = weight
        renamed[f"{ours}.bias"] = saved.get(f"{theirs}.bias", torch.zeros(len(weight)))
    return renamed
