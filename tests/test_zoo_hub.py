"""Checkpoints of HuggingFace's hub: pinned, checked, and converted to model files."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub import constants

import poly_agents
from poly_agents import zoo
from poly_agents.errors import DownloadError
from poly_agents.zoo import making, publishing, sources
from tests.agents import evaluate
from tests.model_files import folder_of, scores
from tests.servers import commit, serving_hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving_hub(monkeypatch, tmp_path / "cache") as found:
        yield found


@pytest.fixture
def small(hub, tiny, monkeypatch):
    """Put a tiny BERT on the hub, beside files that nobody should fetch, and return the name of its entry."""
    hub.repos["org/small"] = folder_of(tiny) | {"pytorch_model.bin": b"pickled", "modeling.py": b"code"}
    monkeypatch.setitem(zoo.ZOO, "small", zoo.Entry("bi", sources.Hub("org/small"), options={"reduction": "first"}))
    return "small"


def test_a_model_of_the_hub_becomes_a_model_file_and_is_fetched_once(hub, small, tiny, data, tmp_path):
    report = evaluate("zoo:poly_agents/small/model", data, datapath=str(tmp_path))  # without -m
    asked = len(hub.asked)
    path = zoo.fetch(small, tmp_path)
    assert path == tmp_path / "models/poly_agents/small/model" and len(hub.asked) == asked
    assert not any(name.endswith((".bin", ".py")) for _, name in hub.asked)
    model = poly_agents.load(str(path), "float32")
    assert model.ranker.options.backbone == "org/small" and model.ranker.options.reduction == "first"
    files = tmp_path / "by hand"
    files.mkdir()
    making.build("bi", {"reduction": "first"}, tiny, "by hand", files)
    np.testing.assert_array_equal(scores(path), scores(files / "model"))
    assert 0 < report["hits@1"].value() <= 1


def test_the_revision_that_came_first_is_kept(hub, small, tmp_path):
    first = commit(hub.repos["org/small"])
    path = zoo.fetch(small, tmp_path)
    before = path.read_bytes()
    hub.repos["org/small"]["more.txt"] = b"another commit"
    shutil.rmtree(path.parent)
    assert zoo.fetch(small, tmp_path).read_bytes() == before
    assert json.loads((path.parent.parent / ".small.json").read_text())["revision"] == first
    shutil.rmtree(path.parent)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DownloadError, match=r"org/small did not come from http.*404.*HF_ENDPOINT can name a mirror"):
        zoo.fetch(small, tmp_path)


def test_damaged_weights_are_refused_by_name(hub, small, tmp_path):
    weights = bytearray(hub.repos["org/small"]["model.safetensors"])
    weights[-1] ^= 1
    hub.damaged["model.safetensors"] = bytes(weights)
    with pytest.raises(DownloadError, match=r"model\.safetensors is damaged: its digest is"):
        zoo.fetch(small, tmp_path)
    assert not (tmp_path / "models/poly_agents/small").exists()


def test_what_cannot_come_says_what_to_do(hub, small, tmp_path, monkeypatch):
    del hub.repos["org/small"]["model.safetensors"]
    with pytest.raises(DownloadError, match=r"org/small has no \.safetensors .* pickled weights can run code"):
        zoo.fetch(small, tmp_path)
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set; unset it"):
        zoo.fetch(small, tmp_path)
    assert len(hub.asked) == asked


def test_no_weight_is_filled_with_random_numbers(hub, small, tmp_path, monkeypatch):
    monkeypatch.setitem(zoo.ZOO, "small", dataclasses.replace(zoo.ZOO["small"], agent="cross", options={}))
    with pytest.raises(ValueError, match=r"no weights for .*head\.0\.bias.* --backbone org/small"):
        zoo.fetch(small, tmp_path)


def test_the_variables_of_the_hub_are_honoured(hub, trained, tmp_path):
    publishing.prepare_folder(str(tmp_path / "mine"), trained["bi"], [], "mit", "en")
    hub.repos["org/mine"] = folder_of(tmp_path / "mine")
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "PARLAI_DATAPATH": str(tmp_path)}
    code = "from poly_agents import zoo; print(zoo.local('zoo:poly_agents/hub/org/mine/model'))"

    def run(**more) -> subprocess.CompletedProcess:
        shutil.rmtree(tmp_path / "models", ignore_errors=True)
        return subprocess.run(
            [sys.executable, "-c", code], env=os.environ | variables | more, capture_output=True, text=True
        )

    assert run(HF_HUB_OFFLINE="0").stdout.strip() == str(tmp_path / "models/poly_agents/hub/org/mine/model")
    asked = len(hub.asked)
    ran = run(HF_HUB_OFFLINE="1")  # from its cache
    assert ran.returncode == 0 and len(hub.asked) == asked
    ran = run(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "empty"))
    assert "HF_HUB_OFFLINE is set; unset it" in ran.stderr.splitlines()[-1] and len(hub.asked) == asked
    ran = run(HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "empty"), HTTP_PROXY="http://127.0.0.1:9", NO_PROXY="")
    assert ran.returncode != 0 and len(hub.asked) == asked
    assert "org/mine did not come from" in ran.stderr
