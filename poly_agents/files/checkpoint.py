"""Model files: one safetensors file of weights with a JSON header. Nothing in it can run code.

The header holds what it takes to build the model anywhere: the name of the ranker, its options, and the configuration
of its encoder. A training checkpoint also holds the tensors of the optimizer, counters, and how many examples of each
task were seen.

A CRC-32 of the header and of each tensor is kept in the header and compared when a process first reads the file: a
disk or a copy that changed a bit is found before it changes a score. It finds damage, not forgery.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from poly_agents.errors import InputError
from poly_agents.files import json_files
from poly_agents.files.atomic import replace
from poly_agents.files.regular import check_not_pointer, check_regular

KEY = "poly_agents"  # the header's key in the metadata of the safetensors file
CHECKSUMS = "crc32"  # the entry of the header with the checksums: of each tensor by its name, of the rest under ""
LENGTHS = ("text_truncate", "label_truncate", "persona_share")  # entries of the header that say how texts are cut
HELD = 2**27  # bytes of a mapped file that stay in memory while its tensors are popped


class MappedWeights(Mapping[str, Tensor]):
    """The tensors of a file that is mapped into memory, by name. Popped one by one they need little memory.

    A tensor that was read stays in memory as long as its mapping is in use. So `pop` maps the file a second time after
    every 128 MB. The earlier mapping is freed together with the tensors that were popped from it.
    """

    def __init__(self, map_file: Callable[[], dict[str, Tensor]]):
        """Map a file.

        Args:
            map_file: maps the file and returns its tensors. It is called again in `pop`.
        """
        self._map_file = map_file
        self._tensors = map_file()
        self._popped = 0  # bytes popped from the mapping in use

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def pop(self, name: str) -> Tensor:
        """Remove a tensor and return it."""
        tensor = self._tensors.pop(name)
        self._popped += tensor.nbytes
        if self._popped > HELD:
            fresh = self._map_file()
            self._tensors = {name: fresh[name] for name in self._tensors}
            self._popped = 0
        return tensor


Weights = MappedWeights | dict[str, Tensor]  # pop each tensor when it is needed, and the file never is in memory whole


class Checkpoint(NamedTuple):
    """Everything a model file holds."""

    header: dict[str, Any]
    weights: Weights
    optimizer: dict[str, Any] | None  # as `optimizer.state_dict()` returns it; None if the file has none


def write(path: str, header: dict[str, Any], weights: Mapping[str, Tensor], optimizer: dict | None = None) -> None:
    """Write a model file.

    Args:
        path: the file to make or replace. It is written beside its place and renamed.
        header: what can be written as JSON.
        weights: tensors by name.
        optimizer: what `optimizer.state_dict()` returns.

    Raises:
        ValueError: the disk is full, or the file cannot be written for another reason.
    """
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
    if optimizer is not None:
        header = header | {"optimizer_groups": optimizer["param_groups"]}
        for number, state in optimizer["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sums = {"": text_checksum(header)} | {name: checksum(tensor) for name, tensor in tensors.items()}
    text = json.dumps(header | {CHECKSUMS: sums})
    replace(path, lambda beside: save_file(tensors, beside, {KEY: text}))


def read_header(path: str) -> dict[str, Any]:
    """Read the header alone, which is fast for a file of any size. Raises ValueError as `read` does."""
    return _headers(path)[0]


def read(path: str) -> Checkpoint:
    """Read a model file. Its weights are mapped, and their checksums compared if that was not done before.

    Raises:
        ValueError: the file is missing, damaged, or in another format. The message names it.
    """
    header, sums = _headers(path)
    verify(path, sums)
    weights = MappedWeights(lambda: _tensors(path, "model."))
    if "optimizer_groups" not in header:
        return Checkpoint(header, weights, None)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _tensors(path, "optimizer.").items():
        number, _, key = name.partition(".")
        if not (number.isdecimal() and key):
            raise InputError(f"{path} is damaged: it holds an entry optimizer.{name}; restore the file")
        state.setdefault(int(number), {})[key] = tensor
    return Checkpoint(header, weights, {"state": state, "param_groups": header["optimizer_groups"]})


_verified: set[tuple] = set()  # files whose tensors this process has compared with their checksums


def verify(path: str, sums: Mapping[str, int] | None) -> None:
    """Compare the tensors of a file with its checksums. A file that did not change since is not read again.

    Args:
        path: the file.
        sums: by the names of tensors; None for a file of an earlier version, which has none.

    Raises:
        ValueError: a tensor is not what was written. The message names it.
    """
    stat = os.stat(path)
    state = os.path.abspath(path), stat.st_ino, stat.st_size, stat.st_mtime_ns
    if sums is None or state in _verified:
        return
    tensors = MappedWeights(lambda: _tensors(path, ""))
    if sums.keys() - {""} != set(tensors):
        raise InputError(f"{path} is damaged: its checksums are not those of its tensors; restore the file")
    for name in list(tensors):
        if checksum(tensors.pop(name)) != sums[name]:
            raise InputError(f"{path} is damaged: the checksum of {name} is another one; restore the file")
    _verified.add(state)


def checksum(tensor: Tensor) -> int:
    """Return the CRC-32 of a tensor's type, shape and values.

    >>> checksum(torch.zeros(2)) == checksum(torch.zeros(2)), checksum(torch.zeros(2)) == checksum(torch.zeros(1, 2))
    (True, False)
    """
    kind = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    return zlib.crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy(), zlib.crc32(kind))


def settings(header: dict[str, Any]) -> dict[str, Any]:
    """Return what a ParlAI `.opt` file says of a model besides its name: its options and the lengths of texts."""
    return header["options"] | {key: header[key] for key in LENGTHS if key in header}


def examples_seen(model_file: str, task: str) -> int:
    """Return how many training examples of a task the checkpoint of `model_file` has seen, 0 without a checkpoint."""
    path = f"{model_file}.checkpoint"
    return read_header(path).get("examples_seen", {}).get(task, 0) if Path(path).exists() else 0


def _tensors(path: str, prefix: str) -> dict[str, Tensor]:
    """Map the tensors whose names begin with `prefix`. They are returned without it."""
    with _open(path) as file:
        names = file.keys()
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names if name.startswith(prefix)}


def _open(path: str):
    check_regular(path, "model file")
    try:
        check_not_pointer(path)
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or not a model of poly_agents ({error}); restore the file") from error


def text_checksum(header: dict[str, Any]) -> int:
    """Return the CRC-32 of a header as JSON."""
    return zlib.crc32(json.dumps(header).encode())


def _headers(path: str) -> tuple[dict[str, Any], dict[str, int] | None]:
    """Read the header, and the checksums in it if there are any."""
    with _open(path) as file:
        metadata = file.metadata() or {}
    if KEY not in metadata:
        raise InputError(
            f"{path} is a safetensors file but not a model of poly_agents: its metadata has no {KEY!r}; give another"
        )
    header = json_files.parse(metadata[KEY], f"the header of {path}")
    if not isinstance(header, dict):
        raise InputError(f"the header of {path} is a {type(header).__name__}, not an object; restore the file")
    if CHECKSUMS not in header:
        return header, None
    sums = header.pop(CHECKSUMS)
    if not isinstance(sums, dict) or sums.get("") != text_checksum(header):
        raise InputError(f"the header of {path} is damaged: it is not what was written; restore the file")
    return header, sums
