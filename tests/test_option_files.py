"""Options that come with a model never run code: not by unpickling, not by the names that ParlAI imports."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from parlai.core.opt import Opt
from parlai.utils import pickle as parlai_pickle

from poly_agents.files import option_files

SHELL = {"/bin/sh": "", "-c": "", "model": "subprocess:Popen"}


class Planted:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.fixture
def planted(tmp_path) -> Path:
    """A file that exists only once code has run."""
    return tmp_path / "planted"


def write(path: Path, options) -> str:
    path.write_text(json.dumps(options), encoding="utf-8")
    return str(path)


def test_a_pickled_file_of_options_is_refused_and_not_unpickled(tmp_path, planted):
    path = tmp_path / "model.opt"
    path.write_bytes(pickle.dumps({"model": "poly_agents/poly", "x": Planted(planted)}))
    with pytest.raises(ValueError, match=r"model\.opt is not JSON"):
        Opt.load(str(path))
    assert not planted.exists()


@pytest.mark.parametrize(
    "name",
    [
        *("subprocess:Popen", "os:system", "evil.agents:Agent", "projects:evil:agent", "internal:evil", "../evil"),
        "a/b/c",
        *("tfidf_retriever", "parlai.agents.tfidf_retriever.tfidf_retriever:TfidfRetrieverAgent", "rag", "fid/fid"),
    ],
)
def test_an_agent_that_is_neither_ours_nor_of_parlai_is_refused_by_name(tmp_path, name):
    path = write(tmp_path / "model.opt", {"model": name})
    with pytest.raises(ValueError, match=r"names the agent .*give its name with -m"):
        Opt.load(path)
    with pytest.raises(ValueError, match="names the agent"):
        Opt.load(write(tmp_path / "other.opt", {"model": "poly_agents/bi", "override": {"model": name}}))


@pytest.mark.parametrize(
    "name",
    [
        "poly_agents/poly",
        "poly_agents.poly:PolyAgent",
        "poly_agents.agents:PolyAgent",
        "transformer/polyencoder",
        "repeat_label",
        "parlai.agents.transformer.polyencoder:PolyencoderAgent",
    ],
)
def test_agents_of_ours_and_of_parlai_are_read(tmp_path, name):
    assert Opt.load(write(tmp_path / "model.opt", {"model": name}))["model"] == name


def test_a_model_does_not_choose_which_files_its_evaluation_writes(tmp_path):
    outputs = {"ranks_file": "/home/me/notes", "submission": "/home/me/notes"}
    options = outputs | {"model": "poly_agents/bi", "override": outputs}
    read = option_files.read(write(tmp_path / "model.opt", options))
    assert read == {"model": "poly_agents/bi", "override": {}}


@pytest.mark.parametrize("words", [["-m", "mine.agents:MyAgent"], ["--model=mine.agents:MyAgent"]])
def test_a_name_on_the_command_line_is_the_user_s_choice(words, tmp_path, monkeypatch):
    path = write(tmp_path / "model.opt", {"model": "mine.agents:MyAgent"})
    monkeypatch.setattr(sys, "argv", ["parlai", "eval_model", *words])
    assert Opt.load(path)["model"] == "mine.agents:MyAgent"


@pytest.mark.parametrize("name", ["evil.code:Teacher", "projects:evil", "convai2,evil.code:Teacher", "/tmp/evil.py", 3])
def test_tasks_of_others_are_left_out(tmp_path, name):
    options = {"model": "poly_agents/bi", "task": name, "evaltask": name, "batchsize": 3}
    assert Opt.load(write(tmp_path / "model.opt", options)) == {"model": "poly_agents/bi", "batchsize": 3}


@pytest.mark.parametrize("name", ["poly_agents:jsonl", "convai2:none,poly_agents:mutual:plus", "fromfile:parlaiformat"])
def test_tasks_of_ours_and_of_parlai_are_kept(tmp_path, name):
    assert Opt.load(write(tmp_path / "model.opt", {"task": name}))["task"] == name


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[1]", b"\xff\xfe{}", b'{"model": ', b"null"])
def test_what_is_not_an_object_is_refused_by_file(tmp_path, content):
    path = tmp_path / "model.opt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.opt is not"):
        option_files.read(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(option_files, "LARGEST", 20)
    with pytest.raises(ValueError, match="has 34 bytes; a file of options has at most 20"):
        option_files.read(write(tmp_path / "model.opt", {"model": "poly_agents/polypolyp"}))


def test_the_attack_on_a_chat_does_nothing(tmp_path, planted):
    write(tmp_path / "model.opt", SHELL | {f"touch {planted}": ""})
    (tmp_path / "model").touch()
    command = [sys.executable, "-m", "parlai", "interactive", "-mf", str(tmp_path / "model")]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=120)
    assert done.returncode and "names the agent 'subprocess:Popen'" in done.stderr and not planted.exists()


def test_parlai_s_own_agents_unpickle_tensors_alone(tmp_path, planted):
    path = str(tmp_path / "model")
    torch.save({"model": {"a": torch.ones(2)}, "number_training_updates": 3, "opt": Opt({"a": 1})}, path)
    loaded = torch.load(path, pickle_module=parlai_pickle, weights_only=False)
    assert loaded["model"]["a"].tolist() == [1, 1] and loaded["opt"]["a"] == 1
    torch.save({"model": Planted(planted)}, path)
    with pytest.raises(pickle.UnpicklingError, match=r"carries \w+\.exec"):
        torch.load(path, pickle_module=parlai_pickle, weights_only=False)
    assert not planted.exists()
