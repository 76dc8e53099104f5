"""Model files: weights are mapped, popped one by one, and little of the file is in memory at a time."""

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

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
