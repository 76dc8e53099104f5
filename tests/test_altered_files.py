"""Files of models and backbones that were altered or cut off: each loads, or is refused by a sentence that names it."""

import json
import shutil
from pathlib import Path

import pytest
from parlai.core.agents import create_agent_from_model_file

import poly_agents
from poly_agents.errors import InputError
from poly_agents.files import checkpoint
from poly_agents.models.opening import read_tokenizer
from poly_agents.text.tokenizer import Tokenizer

SAVED = Path(__file__).parent / "fixtures/saved"
REMOVED = object()
OTHER_VALUES = [REMOVED, None, -1, 10**12, float("nan"), "", [1]]


def places(value, place: tuple = ()):
    """Yield the place of every entry within a JSON value. Of long lists and objects the first few stand for all."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(items)[:25]:
        yield (*place, key)
        yield from places(part, (*place, key))


def with_other(value, place: tuple, other):
    """Copy a JSON value with another entry at a place."""
    copy = json.loads(json.dumps(value))
    *path, key = place
    inner = copy
    for step in path:
        inner = inner[step]
    if other is REMOVED:
        del inner[key]
    else:
        inner[key] = other
    return copy


@pytest.mark.parametrize("name", ["ed2lm"])
def test_a_header_loads_or_is_refused_by_file_whatever_is_in_it(name, tmp_path):
    path = tmp_path / "model"
    shutil.copy(SAVED / name / "model.dict", f"{path}.dict")
    saved = checkpoint.read(str(SAVED / name / "model"))
    weights, refused = dict(saved.weights), 0
    for place in places(saved.header):
        for other in OTHER_VALUES:
            checkpoint.write(str(path), with_other(saved.header, place, other), weights)
            try:
                poly_agents.load(str(path), "float32").rank("hello you", ["blue dog", "one"])
            except InputError as error:
                assert str(path) in str(error), (place, other)
                refused += 1
    assert refused > 100


@pytest.mark.parametrize("name", ["converted"])
def test_a_dictionary_loads_or_is_refused_by_file_whatever_is_in_it(name, tmp_path):
    path = tmp_path / "model.dict"
    saved, refused = json.loads((SAVED / name / "model.dict").read_text(encoding="utf-8")), 0
    for place in places(saved):
        for other in OTHER_VALUES:
            path.write_text(json.dumps(with_other(saved, place, other)), encoding="utf-8")
            try:
                read_tokenizer(str(path)).ids_of(["hello you", "my cat\nfine", ""])
            except InputError as error:
                assert str(path) in str(error), (place, other)
                refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not JSON"),
        (b"null", "no JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 50_000, "nested too deeply"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
    ],
)
def test_a_damaged_dictionary_is_refused_by_file(data, message, tmp_path):
    (tmp_path / "model.dict").write_bytes(data)
    with pytest.raises(InputError, match=rf"model\.dict.*{message}"):
        read_tokenizer(str(tmp_path / "model.dict"))


def test_a_dictionary_that_was_changed_is_refused(trained, tmp_path):
    data = Path(f"{trained['bi']}.dict").read_bytes()
    (tmp_path / "model.dict").write_bytes(data.replace(b'"hello": 4', b'"hello": 5'))
    with pytest.raises(InputError, match=r"model\.dict is damaged: it is not what was written"):
        read_tokenizer(str(tmp_path / "model.dict"))


# --- folders of backbones ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["pointer", "half", "nested"])
def test_a_damaged_file_of_a_backbone_is_named(name, damage, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "backbone")
    path = folder / name
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    whole = path.read_bytes()
    path.write_bytes({"pointer": pointer, "half": whole[: len(whole) // 2], "nested": b"[" * 100_000}[damage])
    place = folder if name == "tokenizer.json" and damage != "pointer" else path
    with pytest.raises(InputError) as raised:
        poly_agents.start("cross", backbone=str(folder), precision="float32")
    assert str(place) in str(raised.value)
    assert ("is a Git LFS pointer" in str(raised.value)) == (damage == "pointer")


def test_a_backbone_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"there is no backbone {tmp_path}/none"):
        poly_agents.start("bi", backbone=f"{tmp_path}/none")
    with pytest.raises(InputError, match=r"backbone org/none cannot be loaded .*; give a folder, a model file"):
        poly_agents.start("bi", backbone="org/none")


def test_the_tokenizer_of_another_model_is_refused(trained, tmp_path):
    path = str(tmp_path / "model")
    for end in ("", ".opt", ".dict"):
        shutil.copy(f"{trained['bi']}{end}", f"{path}{end}")
    own = Tokenizer.from_saved(saved := json.loads(Path(f"{path}.dict").read_text("utf-8")), path)
    words = saved["tokenizer"]["model"]["vocab"]
    words["hello"], words["you"] = words["you"], words["hello"]
    Tokenizer.from_saved(saved, path).save(f"{path}.dict")
    for load in (poly_agents.load, create_agent_from_model_file):
        with pytest.raises(InputError, match=rf"{path} was saved with another tokenizer"):
            load(path)
    own.save(f"{path}.dict")
    assert poly_agents.load(path).tokenizer.ids("hello") == own.ids("hello")
