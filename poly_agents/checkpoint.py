"""Model files: one safetensors file of weights with a JSON header. Nothing in it can run code.

The header holds what is needed to build the model anywhere: which ranker, its options, the backbone's configuration.
A training checkpoint also holds the optimiser's tensors, the counters, and how many examples of each task were seen.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from poly_agents.files import replace

KEY = "poly_agents"  # of the header


class Checkpoint(NamedTuple):
    header: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Any] | None  # as `optimizer.state_dict()` gives it


def write(path: str, header: dict[str, Any], weights: dict[str, Tensor], optimizer: dict | None = None) -> None:
    """Write a model file beside `path` and rename it into place."""
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
    if optimizer is not None:
        header = header | {"optimizer_groups": optimizer["param_groups"]}
        for number, state in optimizer["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    replace(path, lambda beside: save_file(tensors, beside, {KEY: json.dumps(header)}))


def read_header(path: str) -> dict[str, Any]:
    """The header alone: fast, whatever the size of the file."""
    with _open(path) as file:
        return _header(path, file)


def read(path: str) -> Checkpoint:
    """The whole file. Raises ValueError, naming it, where it is damaged or of another format."""
    with _open(path) as file:
        header = _header(path, file)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    if "optimizer_groups" not in header:
        return Checkpoint(header, weights, None)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = tensor
    return Checkpoint(header, weights, {"state": state, "param_groups": header["optimizer_groups"]})


def examples_seen(model_file: str, task: str) -> int:
    """How many training examples of a task the checkpoint beside `model_file` has seen; 0 without one."""
    path = f"{model_file}.checkpoint"
    return read_header(path).get("examples_seen", {}).get(task, 0) if Path(path).exists() else 0


def _open(path: str):
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is damaged or not a model of poly_agents ({error}); restore the file, or delete it to start again"
        ) from error


def _header(path: str, file) -> dict[str, Any]:
    metadata = file.metadata() or {}
    if KEY not in metadata:
        raise ValueError(f"{path} is a safetensors file but not a model of poly_agents: its header says nothing of one")
    return json.loads(metadata[KEY])
