"""A training run that is told to end is saved first, and ends with the exit code of the signal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from parlai.scripts.train_model import TrainLoop, TrainModel

from poly_agents.agents.ranker_agent import RankerAgent
from poly_agents.errors import InputError
from poly_agents.files import checkpoint

COMMAND = """train_model -m poly_agents/bi -t poly_agents:jsonl --precision float32 --text-truncate 31 -bs 4
    --label-truncate 13 --max-train-steps 100000 --validation-every-n-epochs -1 --lr-scheduler fixed""".split()


def train(tiny, data, path, **changes) -> None:
    given = {"model": "poly_agents/bi", "task": "poly_agents:jsonl", "jsonl_path": data, "backbone": tiny}
    given |= {"model_file": str(path), "text_truncate": 31, "label_truncate": 13, "batchsize": 4, "seed": 1}
    given |= {"precision": "float32", "max_train_steps": 9, "validation_every_n_epochs": -1, "save_every_n_secs": -1}
    TrainModel.main(**given | changes)


def send(monkeypatch, method: str, at: int, number: int) -> None:
    """Send a signal to this process when a method of the agent is called for the n-th time."""
    own, calls = getattr(RankerAgent, method), []

    def counted(self, batch):
        calls.append(batch)
        if len(calls) == at:
            os.kill(os.getpid(), number)
        return own(self, batch)

    monkeypatch.setattr(RankerAgent, method, counted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_is_saved_and_resumes_to_the_same_weights(tiny, data, tmp_path, monkeypatch, capsys, number):
    train(tiny, data, tmp_path / "whole")
    send(monkeypatch, "train_step", 4, number)
    with pytest.raises((KeyboardInterrupt, SystemExit)) as ended:
        train(tiny, data, tmp_path / "stopped")
    said = str(ended.value) if number == signal.SIGINT else capsys.readouterr().err
    assert f"ended by {signal.Signals(number).name}: the run is saved in {tmp_path}/stopped.checkpoint" in said
    assert number == signal.SIGINT or ended.value.code == 128 + number
    assert checkpoint.read_header(f"{tmp_path}/stopped.checkpoint")["number_training_updates"] == 4
    monkeypatch.undo()
    train(tiny, data, tmp_path / "stopped")
    whole, stopped = (checkpoint.read(str(tmp_path / name)).weights for name in ("whole", "stopped"))
    for name, tensor in whole.items():
        torch.testing.assert_close(stopped[name], tensor, atol=1e-5, rtol=1e-4)


def test_a_validation_does_not_delay_the_end(tiny, data, tmp_path, monkeypatch):
    send(monkeypatch, "eval_step", 1, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="the run is saved"):
        train(tiny, data, tmp_path / "model", validation_every_n_steps=3)
    assert checkpoint.read_header(f"{tmp_path}/model.checkpoint")["number_training_updates"] == 3


def test_a_run_that_goes_on_keeps_the_best_weights_until_there_are_better_ones(tiny, data, tmp_path):
    never_better = {"learningrate": 0, "validation_every_n_steps": 3, "save_every_n_secs": 0.001}
    for steps in (7, 7):  # the second time it only goes on
        train(tiny, data, tmp_path / "model", max_train_steps=steps, **never_better)
        assert checkpoint.read_header(f"{tmp_path}/model")["number_training_updates"] == 3


def test_handlers_of_before_are_back_after_a_run(tiny, data, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train(tiny, data, tmp_path / "model", max_train_steps=1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_pipe_that_nobody_reads_ends_a_run_after_it_is_saved(tiny, data, tmp_path, monkeypatch):
    def log(self):
        raise BrokenPipeError

    monkeypatch.setattr(TrainLoop, "log", log)
    with pytest.raises(BrokenPipeError):
        train(tiny, data, tmp_path / "model", log_every_n_steps=2)
    assert checkpoint.read_header(f"{tmp_path}/model.checkpoint")["number_training_updates"] == 2


def test_a_measure_that_does_not_exist_costs_no_training(tiny, data, tmp_path):
    with pytest.raises(InputError, match=r"--validation-metric hist@1 is not measured; there are: .*hits@1"):
        train(tiny, data, tmp_path / "model", validation_metric="hist@1", validation_every_n_steps=3)
    assert checkpoint.read_header(f"{tmp_path}/model.checkpoint")["number_training_updates"] == 3


@pytest.mark.parametrize("processes", [1, 2])
def test_the_command_ends_with_143_and_one_sentence(tiny, data, tmp_path, processes):
    several = ["--distributed-world-size", str(processes)] if processes > 1 else []
    name = "multiprocessing_train" if processes > 1 else COMMAND[0]
    given = ["--jsonl-path", data, "--backbone", tiny, "-mf", tmp_path / "model", "--save-every-n-secs", "0.01"]
    command = [sys.executable, "-m", "parlai", name, *COMMAND[1:], *map(str, given), *several]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while not Path(f"{tmp_path}/model.checkpoint.trainstats").exists() and running.poll() is None:
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        said = running.communicate(timeout=60)[1]
    finally:
        running.kill()
    assert running.returncode == 128 + signal.SIGTERM, said
    assert "Traceback" not in said and said.count("ended by SIGTERM: the run is saved in") == 1
    assert checkpoint.read_header(f"{tmp_path}/model.checkpoint")["number_training_updates"] > 0
