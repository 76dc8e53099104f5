"""Files of a pretrained checkpoint, in a folder or by HuggingFace name: JSON files, and single tensors by name."""

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from poly_agents.errors import InputError, first_line
from poly_agents.files import json_files
from poly_agents.files.regular import check_not_pointer

WEIGHTS = "model.safetensors", "pytorch_model.bin"
CHECKED = (".json", ".txt", ".safetensors", ".bin", ".model")


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


def weight_files(source: str, folder: str = "") -> list[Path]:
    """Return the files that hold the weights of a checkpoint: one, or the shards that an index names.

    Args:
        source: a folder or HuggingFace name.
        folder: the folder within the checkpoint that has the weights.

    Raises:
        ValueError: there are no weights, or the index is damaged.
    """
    inside = f"{folder}/" if folder else ""
    for name in WEIGHTS:
        if path := path_of(source, f"{inside}{name}"):
            return [path]
        if index := path_of(source, f"{inside}{name}.index.json"):
            return shards(source, inside, index)
    raise InputError(f"{source} has neither of {', '.join(WEIGHTS)}" + (f" in {folder}" if folder else ""))


def shards(source: str, inside: str, index: Path) -> list[Path]:
    """Return the files that an index of weights names. Raises ValueError if one is missing or outside the folder."""
    content = json_files.read(index)
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise InputError(f"{index} is no index of weights; restore the file")
    paths = []
    for name in sorted(set(named.values())):
        path = path_of(source, f"{inside}{name}") if Path(name).name == name else None
        if path is None:
            raise InputError(f"{index} names {name!r}, which is not there; restore the file")
        paths.append(path)
    return paths


def names(source: str, folder: str = "") -> set[str]:
    """Return the names of all tensors of a checkpoint. Arguments and errors are those of `weight_files`."""
    return {name for path in weight_files(source, folder) for name in read_tensors(path, lambda name: False)[0]}


def tensors(source: str, names: Iterable[str], folder: str = "") -> dict[str, Tensor]:
    """Read some tensors of a checkpoint in float32. The rest of its weights is not read.

    Args:
        source: a folder or HuggingFace name.
        names: the tensors to read. Those that the checkpoint does not have are left out.
        folder: the folder within the checkpoint that has the weights.

    Raises:
        ValueError: there are no weights, or a file is damaged.
    """
    wanted, found = set(names), {}
    for path in weight_files(source, folder):
        found |= read_tensors(path, wanted.__contains__)[1]
    return found


def read_tensors(path: Path, wanted: Callable[[str], bool]) -> tuple[set[str], dict[str, Tensor]]:
    """Read the names of all tensors of a file, and in float32 those that are wanted.

    Raises:
        ValueError: the file is damaged, cut off, or a pointer of Git LFS.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                names = set(file.keys())
                return names, {name: file.get_tensor(name).float() for name in names if wanted(name)}
        states = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        return set(states), {name: tensor.float() for name, tensor in states.items() if wanted(name)}
    except Exception as error:  # torch and safetensors raise many kinds
        check_not_pointer(path)
        raise InputError(f"{path} is damaged or cut off ({first_line(error)}); restore the file") from error


def check_files(source: str) -> None:
    """Check that the files of a folder are whole: no pointers of Git LFS, and weights that were not cut off.

    Args:
        source: a folder. A HuggingFace name passes, because the hub's own library checks what it fetches.

    Raises:
        ValueError: a file is not whole. The message names it.
    """
    if not Path(source).is_dir():
        return
    for path in sorted(Path(source).iterdir()):
        if path.suffix in CHECKED and path.is_file():
            check_not_pointer(path)
            if path.suffix == ".safetensors" or path.match("pytorch_model*.bin"):
                read_tensors(path, lambda name: False)
    settings(source, "config.json")


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
