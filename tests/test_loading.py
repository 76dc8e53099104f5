"""`poly_agents.load` and `-mf` name what a path is, instead of a damage that is not there; nothing is waited for."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import poly_agents
from poly_agents.errors import InputError, MissingFileError
from poly_agents.files import checkpoint
from poly_agents.models import opening


@pytest.mark.parametrize("path", ["", "nothing/here", None])
def test_a_missing_file_is_a_missing_file(path):
    with pytest.raises(MissingFileError, match="there is no model file '") as caught:
        poly_agents.load(path)
    assert "delete" not in str(caught.value)


def test_a_folder_of_a_backbone_names_the_way_to_use_it(tiny):
    with pytest.raises(
        InputError, match=r"HuggingFace's format, not a model file.*poly_agents\.start\('bi', backbone="
    ):
        poly_agents.load(tiny)
    assert poly_agents.start("bi", backbone=tiny).rank("hello", ["red"])


def test_a_folder_of_a_classifier_names_cross(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "classifier")
    config = (folder / "config.json").read_text(encoding="utf-8").replace("BertModel", "BertForSequenceClassification")
    (folder / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(InputError, match=r"poly_agents\.start\('cross', backbone="):
        poly_agents.load(str(folder))


def test_a_folder_of_a_model_names_the_file_in_it(trained):
    folder = os.path.dirname(trained["bi"])
    with pytest.raises(InputError, match="is a folder; give the model file in it, "):
        poly_agents.load(folder)


def test_another_folder_is_named_as_one(tmp_path):
    with pytest.raises(InputError, match="is a folder, not a model file; give the path of a file"):
        poly_agents.load(str(tmp_path))


@pytest.mark.parametrize("place", ["model", "model.dict"])
def test_a_pipe_is_refused_instead_of_being_waited_for(trained, tmp_path, place):
    for name in ("model", "model.dict"):
        shutil.copy(os.path.join(os.path.dirname(trained["bi"]), name), tmp_path)
    (tmp_path / place).unlink()
    os.mkfifo(tmp_path / place)
    with pytest.raises(InputError, match=f"{place} is a device, a pipe or a socket"):
        poly_agents.load(tmp_path / "model")


@pytest.mark.parametrize("read", [opening.read_header, opening.read_weights, checkpoint.read, checkpoint.read_header])
def test_no_reader_waits_for_a_pipe_or_a_device(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/zero"):
        with pytest.raises(InputError, match="is a device, a pipe or a socket"):
            read(path)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"dropout": "a"}, "--dropout must be of type float, got 'a'"),
        ({"backbone": 5}, "--backbone must be of type str, got 5"),
        ({"backbone": None}, "--backbone must be of type str, got None"),
        ({"layers": True}, "--layers must be of type int, got True"),
        ({"layers": 2.0}, "--layers must be of type int, got 2.0"),
        ({"share_encoders": 1}, "--share-encoders must be of type bool, got 1"),
        ({"precision": np.array(["a", "b"])}, "--precision must be of type str, got array"),
        ({"context_prompt": ["a" * 999]}, r"--context-prompt must be of type str, got \['a{12}\.\.\.a{13}'\]$"),
    ],
)
def test_an_option_of_another_type_is_named(option, says):
    with pytest.raises(InputError, match=says):
        poly_agents.start("bi", **option)


def test_a_path_is_a_backbone_too(tiny):
    assert poly_agents.start("bi", backbone=Path(tiny)).ranker.options.backbone == tiny


def test_nothing_is_written_where_a_model_cannot_be_saved(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = poly_agents.load(trained["bi"])
    for path in ("", tmp_path, "."):
        with pytest.raises(InputError, match="is a folder, and a file would take its place"):
            model.save(path)
    assert not list(tmp_path.iterdir())


def test_unknown_names_list_the_near_ones(tiny):
    with pytest.raises(InputError, match="there is no checkpoint zoo:nothing/here in ParlAI's zoo"):
        poly_agents.load("zoo:nothing/here")
    with pytest.raises(InputError, match="there is no option of bi 'backbonee'; did you mean 'backbone'"):
        poly_agents.start("bi", backbonee=tiny)
    with pytest.raises(InputError, match="there is no backbone 'MiniLMM'; did you mean 'minilm'"):
        poly_agents.start("bi", backbone="MiniLMM")
    with pytest.raises(InputError, match="there is no ranker None; there are: bi, "):
        poly_agents.start(None)
    with pytest.raises(ImportError, match="there is no ranker 'polly'; did you mean 'poly'"):
        poly_agents.start("polly", backbone=tiny)
