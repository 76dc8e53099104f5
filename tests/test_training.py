"""A run killed with -9 resumes: same data, same rates, same weights in the end."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import termios
from collections import Counter
from pathlib import Path

import pytest
import torch
from parlai.scripts.train_model import TrainLoop, TrainModel

from poly_agents.agents import training_run
from poly_agents.agents.model_file import restore_trainstats
from poly_agents.files import checkpoint
from poly_agents.learning.training import NonFiniteLoss
from tests.agents import ROWS

DRIVER = """
import os, signal, sys
from parlai.scripts.train_model import TrainModel
from poly_agents.agents.ranker_agent import RankerAgent

step = RankerAgent.train_step
count = 0

def counted(self, batch):
    global count
    count += 1
    if count == {kill}:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch)

RankerAgent.train_step = counted
TrainModel.main(
    model="poly_agents/{name}", task="poly_agents:jsonl", jsonl_path={data!r}, backbone={tiny!r}, precision="float32",
    model_file={path!r}, text_truncate=31, label_truncate=13, batchsize=4, max_train_steps=9, negatives=2,
    save_every_n_secs={save}, validation_every_n_epochs=-1, learningrate=0.001, seed=1, loglevel="error",
)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "all.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return str(path)


def run(folder, tiny, data, name="poly", kill=0, save=1e-9) -> int:
    """Train in a process of its own, which is killed at step `kill`; its exit code."""
    folder.mkdir(exist_ok=True)
    code = DRIVER.format(name=name, kill=kill, data=data, tiny=tiny, path=str(folder / "model"), save=save)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300).returncode


@pytest.mark.parametrize("name", ["poly", "cross"])
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(tiny, data, tmp_path, name):
    assert run(tmp_path / "whole", tiny, data, name) == 0
    assert run(tmp_path / "killed", tiny, data, name, kill=6) == -9
    half = checkpoint.read_header(str(tmp_path / "killed" / "model.checkpoint"))
    assert half["number_training_updates"] == 5 and half["examples_seen"] == {"poly_agents:jsonl": 20}
    assert run(tmp_path / "killed", tiny, data, name) == 0
    whole, resumed = (checkpoint.read(str(tmp_path / f / "model")) for f in ("whole", "killed"))
    assert resumed.header["number_training_updates"] == 9
    for key, tensor in whole.weights.items():
        torch.testing.assert_close(resumed.weights[key], tensor, atol=1e-5, rtol=1e-4)


def test_a_terminal_gets_a_progress_bar_and_a_pipe_does_not(tiny, data, tmp_path):
    code = DRIVER.format(name="bi", kill=0, data=data, tiny=tiny, path=str(tmp_path / "model"), save=-1)
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 120))
    piped = subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=end, timeout=300)
    os.close(end)
    shown = b""
    with contextlib.suppress(OSError):  # a closed terminal ends with EIO
        while part := os.read(terminal, 65536):
            shown += part
    os.close(terminal)
    assert piped.returncode == 0
    assert b"loss=" in shown and b"ex/s" in shown and b"36/36" in shown
    quiet = subprocess.run([sys.executable, "-c", code.replace("model'", "other'")], capture_output=True, timeout=300)
    assert b"loss=" not in quiet.stderr + quiet.stdout


def train(tiny, data, tmp_path, **changes) -> None:
    given = {"model": "poly_agents/bi", "task": "poly_agents:jsonl", "jsonl_path": data, "backbone": tiny}
    given |= {"model_file": str(tmp_path / "model"), "text_truncate": 31, "label_truncate": 13, "batchsize": 4}
    ends = {} if "num_epochs" in changes else {"max_train_steps": 30}
    TrainModel.main(**given | {"precision": "float32"} | ends | changes)


def test_training_stops_before_a_loss_that_is_no_number_reaches_the_weights(tiny, data, tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"the loss of a batch is nan.*smaller -lr"):
        train(tiny, data, tmp_path, learningrate=1e30, save_every_n_secs=1e-9, warmup_updates=0)
    saved = checkpoint.read(f"{tmp_path / 'model'}.checkpoint")
    assert 0 < saved.header["number_training_updates"] < 30
    assert all(tensor.isfinite().all() for tensor in saved.weights.values())


def test_only_training_misses_the_state_of_an_optimizer(tiny, data, tmp_path, monkeypatch):
    missed = []
    monkeypatch.setattr(training_run, "warn_of_empty_optimizer", lambda: missed.append("state"))
    never_better = {"learningrate": 0, "validation_every_n_steps": 3, "save_every_n_secs": 1e-9}
    train(tiny, data, tmp_path, max_train_steps=7, **never_better)  # the best model, of step 3, is opened at the end
    assert missed == []
    (tmp_path / "model.checkpoint").unlink(missing_ok=True)
    train(tiny, data, tmp_path, max_train_steps=7, **never_better)
    assert missed == ["state"]


@pytest.mark.parametrize("name", ["bi_scale", "distill_temperature", "learningrate"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_options_are_finite(tiny, data, tmp_path, name, value):
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} must be a finite number, got {value}"):
        train(tiny, data, tmp_path, **{name: value})


class Killed(BaseException):
    """Stands for a kill: nothing of ParlAI or ours catches it."""


def weights(path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.read(str(path)).weights)


EPOCH = {"num_epochs": 1.5, "save_every_n_secs": 1e-9, "lr_scheduler": "fixed", "seed": 1}


@pytest.mark.parametrize("half", [False, True])
def test_a_kill_between_a_checkpoint_and_its_statistics_makes_no_update_more(tiny, data, tmp_path, monkeypatch, half):
    train(tiny, data, tmp_path / "whole", **EPOCH)
    save, saves = TrainLoop._save_train_stats, []

    def killed(self, suffix=None):
        saves.append(suffix)
        if len(saves) == (1 if half else 3):
            if half:
                Path(f"{tmp_path}/cut/model.checkpoint.trainstats").write_text('{"parleys": 4, "train_ti')
            raise Killed
        save(self, suffix)

    monkeypatch.setattr(TrainLoop, "_save_train_stats", killed)
    with pytest.raises(Killed):
        train(tiny, data, tmp_path / "cut", **EPOCH)
    monkeypatch.undo()
    train(tiny, data, tmp_path / "cut", **EPOCH)
    whole, cut = (checkpoint.read_header(f"{tmp_path}/{name}/model.checkpoint") for name in ("whole", "cut"))
    assert whole["number_training_updates"] == cut["number_training_updates"] > 3
    assert whole["train_stats"]["total_epochs"] == cut["train_stats"]["total_epochs"]
    for name, tensor in weights(tmp_path / "whole" / "model").items():
        torch.testing.assert_close(weights(tmp_path / "cut" / "model")[name], tensor, atol=1e-5, rtol=1e-4)


def test_statistics_of_earlier_versions_are_taken_from_the_save_before(tmp_path):
    checkpoint_path, opt = f"{tmp_path}/model.checkpoint", {"datatype": "train", "model_file": f"{tmp_path}/model"}
    path = Path(f"{checkpoint_path}.trainstats")
    path.with_name(path.name + ".previous").write_text('{"parleys": 3}')
    path.write_text('{"parleys": 4, "train_ti')
    restore_trainstats(checkpoint_path, {"number_training_updates": 4}, opt)
    assert json.loads(path.read_text())["parleys"] == 3
    path.with_name(path.name + ".previous").unlink()
    path.write_text('{"parleys": 4, "train_ti')
    restore_trainstats(checkpoint_path, {"number_training_updates": 4}, opt)
    assert json.loads(path.read_text())["parleys"] == 4


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = str(tmp_path / "model")
    checkpoint.write(path, {"n": 1}, {"a": torch.zeros(2)})
    with pytest.raises(TypeError):
        checkpoint.write(path, {"n": object()}, {"a": torch.ones(2)})
    with pytest.raises(Exception, match=r"."):
        checkpoint.write(path, {"n": 2}, {"a": "not a tensor"})
    assert checkpoint.read(path).header == {"n": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("damage", [lambda b: b[:-4], lambda b: b[:3], lambda b: b"", lambda b: b"{" + b])
def test_a_damaged_model_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "model"
    checkpoint.write(str(path), {"n": 1}, {"a": torch.zeros(20)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"model is damaged or not a model of poly_agents"):
        checkpoint.read(str(path))


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, str(tmp_path / "model"))
    with pytest.raises(ValueError, match="not a model of poly_agents"):
        checkpoint.read(str(tmp_path / "model"))


def test_an_epoch_of_training_shows_every_example_once(data):
    from parlai.core.opt import Opt

    from poly_agents.tasks.jsonl import JsonlTeacher

    opt = Opt(task="poly_agents:jsonl", datatype="train", jsonl_path=data, batchsize=1, seed=3)
    teacher = JsonlTeacher(opt)
    twin = JsonlTeacher(opt, teacher.share())
    epochs = [[(teacher, twin)[i % 2].act()["text"] for i in range(len(ROWS))] for _ in range(2)]
    every = Counter("\n".join(row["context"]) for row in ROWS)
    assert Counter(epochs[0]) == Counter(epochs[1]) == every
    assert epochs[0] != epochs[1]
    again = JsonlTeacher(opt)
    assert [again.act()["text"] for _ in ROWS] == epochs[0]
