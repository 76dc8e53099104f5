"""Model files: one safetensors file of weights with a JSON header. Nothing in it can run code.

The header holds what is needed to build the model anywhere: which ranker, its options, the backbone's configuration.
A training checkpoint also holds the optimiser's tensors, the counters, and how many examples of each task were seen.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from poly_agents.files.atomic import replace

KEY = "poly_agents"  # of the header
PART = 2**27  # bytes of a mapped file that are held at a time


class Checkpoint(NamedTuple):
    header: dict[str, Any]
    weights: dict[str, Tensor]  # `pop` them, and the file is never in memory as a whole
    optimizer: dict[str, Any] | None  # as `optimizer.state_dict()` gives it


class Weights(dict[str, Tensor]):
    """Tensors that a mapped file holds. Popped ones stay in memory while they are in use, give or take 128 MB."""

    def __init__(self, load: Callable[[], dict[str, Tensor]]):
        super().__init__(load())
        self.load = load
        self.popped = 0  # bytes of the mapping in use

    def pop(self, name: str) -> Tensor:
        tensor = super().pop(name)
        self.popped += tensor.nbytes
        if self.popped > PART:
            fresh = self.load()
            self.update((name, fresh[name]) for name in self)
            self.popped = 0
        return tensor


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
    """Read the header alone, which is fast for a file of any size."""
    with _open(path) as file:
        return _header(path, file)


def read(path: str) -> Checkpoint:
    """Read a whole file. Raises ValueError, naming it, if it is damaged or has another format."""
    header = read_header(path)
    weights = Weights(lambda: _tensors(path, "model."))
    if "optimizer_groups" not in header:
        return Checkpoint(header, weights, None)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _tensors(path, "optimizer.").items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = tensor
    return Checkpoint(header, weights, {"state": state, "param_groups": header["optimizer_groups"]})


def settings(header: dict[str, Any]) -> dict[str, Any]:
    """What ParlAI's options say of a model, but for its name: its own options and the lengths of its texts."""
    return header["options"] | {key: header[key] for key in ("text_truncate", "label_truncate")}


def examples_seen(model_file: str, task: str) -> int:
    """How many training examples of a task the checkpoint beside `model_file` has seen; 0 without one."""
    path = f"{model_file}.checkpoint"
    return read_header(path).get("examples_seen", {}).get(task, 0) if Path(path).exists() else 0


def _tensors(path: str, prefix: str) -> dict[str, Tensor]:
    """Mapped, not read."""
    with _open(path) as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}


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
