"""Model files: weights are mapped, popped one by one, and little of the file is in memory at a time."""

import json
import os
import random
import resource
import zlib

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from poly_agents.errors import InputError
from poly_agents.files import checkpoint

NAMES = "one two three four five six seven".split()


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return {name: torch.arange(11.0) * number for number, name in enumerate(NAMES)}


@pytest.mark.parametrize("held", [1, 44, 100, 2**27])
def test_popped_weights_are_those_that_were_written(weights, tmp_path, monkeypatch, held):
    path = str(tmp_path / "model")
    checkpoint.write(path, {"agent": "bi"}, weights)
    monkeypatch.setattr(checkpoint, "HELD", held)
    read = checkpoint.read(path).weights
    assert set(read) == set(NAMES) and len(read) == 7
    assert_close(read["two"], weights["two"])
    popped = {name: read.pop(name) for name in NAMES[::-1]}
    assert_close(popped, weights)
    assert not read
    with pytest.raises(KeyError):
        read.pop("one")


def mapped_bytes() -> int:
    """Return how much of the files that this process has mapped is in memory."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("RssFile"))


def test_weights_that_were_used_do_not_stay_in_memory(tmp_path, monkeypatch):
    path, size = str(tmp_path / "model"), 4 * 2**20
    checkpoint.write(path, {}, {str(number): torch.ones(size // 4) for number in range(16)})  # 64 MiB
    monkeypatch.setattr(checkpoint, "HELD", size)
    read = checkpoint.read(path).weights
    before, most = mapped_bytes(), 0
    for name in list(read):
        assert float(read.pop(name).sum()) == size // 4
        most = max(most, mapped_bytes() - before)
    assert size // 2 <= most <= 8 * size


def test_an_optimizer_comes_back_as_it_was(weights, tmp_path):
    path, state = str(tmp_path / "model"), {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(5)}}
    checkpoint.write(path, {"n": 1}, weights, {"state": state, "param_groups": [{"lr": 0.5, "params": [0]}]})
    saved = checkpoint.read(path)
    assert saved.header["n"] == 1 and saved.optimizer["param_groups"] == [{"lr": 0.5, "params": [0]}]
    assert_close(saved.optimizer["state"], state)
    assert_close(dict(saved.weights), weights)


def test_a_safetensors_file_of_others_is_refused(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model")
    with pytest.raises(ValueError, match=r"model is a safetensors file but not a model of poly_agents"):
        checkpoint.read(str(tmp_path / "model"))


# --- checksums --------------------------------------------------------------------------------------------------------


def test_every_bit_that_flips_is_found(weights, tmp_path):
    """Whatever loads after a flip is what was written."""
    path = tmp_path / "model"
    header = {"agent": "bi", "options": {"bi_scale": 20.0, "bi_cosine": True}}
    checkpoint.write(str(path), header, weights)
    whole, draw = path.read_bytes(), random.Random(7)
    for bit in [draw.randrange(8 * len(whole)) for _ in range(300)]:
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            read = checkpoint.read(str(path))
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert read.header | header == read.header  # nothing is said but what was written
            assert_close(dict(read.weights), weights, atol=0, rtol=0)


def test_a_file_is_compared_once_for_each_state_it_is_in(weights, tmp_path, monkeypatch):
    path, compared = str(tmp_path / "model"), []
    monkeypatch.setattr(checkpoint, "checksum", lambda tensor: compared.append(1) or zlib.crc32(tensor.numpy()))
    checkpoint.write(path, {}, weights)
    compared.clear()
    for _ in range(3):
        checkpoint.read(path)
    assert len(compared) == len(NAMES)
    checkpoint.write(path, {"n": 2}, weights)
    compared.clear()
    checkpoint.read(path)
    assert len(compared) == len(NAMES)


def test_a_file_of_an_earlier_version_has_no_checksums_and_loads(weights, tmp_path):
    text = json.dumps({"agent": "bi"})
    save_file({f"model.{name}": tensor for name, tensor in weights.items()}, tmp_path / "model", {"poly_agents": text})
    read = checkpoint.read(str(tmp_path / "model"))
    assert read.header == {"agent": "bi"}
    assert_close(dict(read.weights), weights)


def test_the_same_model_is_the_same_bytes(weights, tmp_path):
    paths = [tmp_path / str(number) for number in range(5)]
    for path in paths:
        checkpoint.write(str(path), {"agent": "bi", "options": {}}, weights)
    assert len({path.read_bytes() for path in paths}) == 1


def test_what_is_no_model_file_is_named_for_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pointer").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (tmp_path / "half").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    for name, message in {
        "nothing": "there is no model file",
        ".": "is a folder",
        "pipe": "is a device, a pipe or a socket",
        "pointer": "is a Git LFS pointer",
        "half": "is damaged or not a model",
    }.items():
        with pytest.raises(InputError, match=message) as raised:
            checkpoint.read(str(tmp_path / name))
        assert str(tmp_path / name) in str(raised.value) and "delete" not in str(raised.value)


def test_a_full_disk_is_named_and_leaves_what_was_there(weights, tmp_path):
    path = tmp_path / "model"
    checkpoint.write(str(path), {"agent": "bi"}, weights)
    before, limit = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        with pytest.raises(InputError, match=r"model cannot be written \(File too large.*make room"):
            checkpoint.write(str(path), {"agent": "poly"}, weights)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["model"]
