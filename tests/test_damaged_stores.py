"""Damaged stores: every damage is mended by the next build or refused by name, and nothing damaged is used."""

import json
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from poly_agents.candidates import manifest, segments
from poly_agents.candidates.manifest import Damaged
from poly_agents.candidates.store import Store
from poly_agents.candidates.writer import Recipe, build
from poly_agents.errors import InputError
from tests.stores import Encoder, contents, lines, words


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    monkeypatch.setattr(segments, "ROWS", 13)
    monkeypatch.setattr(segments, "CHUNK", 5)


@pytest.mark.parametrize("suffix", [".safetensors", ".jsonl"])
@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_damaged_segment_is_refused_by_name_and_it_alone_is_made_again(tmp_path, suffix, harm):
    store = build(tmp_path / "s", lines(*words(0, 40)), Recipe(Encoder(), "model"))
    path = tmp_path / "s" / f"{store.segments[1].name}{suffix}"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.unlink()
    if harm != "gone":
        path.write_bytes(data if harm == "flip" else data[:-3])
    with pytest.raises(Damaged, match=path.name):
        Store(tmp_path / "s", "model")
    encode = Encoder()
    again = build(tmp_path / "s", lines(*words(0, 40)), Recipe(encode, "model"))
    assert set(encode.asked) == set(map(store.texts.__getitem__, range(13, 26)))
    assert contents(again) == {text: Encoder()([text])[0].tolist() for text in words(0, 40)}


def reopened(folder: Path, given: list[dict]) -> dict[str, list]:
    return contents(build(folder, given, Recipe(Encoder(), "model")))


TRUE = {text: Encoder()([text])[0].tolist() for text in words(0, 60)}


@pytest.mark.parametrize("suffix", [".safetensors", ".jsonl"])
def test_a_store_that_was_cut_off_or_overwritten_while_it_is_open_is_refused_by_name(tmp_path, suffix):
    store = build(tmp_path / "s", lines(*words(0, 40)), Recipe(Encoder(), "model"))
    path = next(tmp_path.glob(f"s/*{suffix}"))
    store.check()
    os.utime(path)  # the same bytes
    store.check()
    data = path.read_bytes()
    for harmed in (data[:-9], data[:-1] + b"\x7f"):
        path.write_bytes(harmed)
        with pytest.raises(Damaged, match=f"{path.name} was changed while the store was open; run `parlai poly_index`"):
            store.check()
    assert reopened(tmp_path / "s", lines(*words(0, 40))) == {text: TRUE[text] for text in words(0, 40)}
    store.check()  # its files were replaced; it still has the old ones


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_vectors_that_are_no_numbers_are_neither_written_nor_read(tmp_path, precision, ragged, monkeypatch):
    for wrong in (float("nan"), float("inf"), 1e30):

        def encode(texts, wrong=wrong):
            encoded = Encoder(ragged)(texts)
            (encoded.vectors if ragged else encoded)[texts.index("bad") if "bad" in texts else 0, ..., 1] *= (
                wrong if "bad" in texts else 1
            )
            return encoded

        with pytest.raises(ValueError, match="the encoding of the candidate 'bad' is infinite or not a number"):
            build(tmp_path / "s", lines("good", "bad"), Recipe(encode, "model", precision))
    recipe = Recipe(encode, "model", precision)
    with monkeypatch.context() as patch:  # as a version without the check
        patch.setattr(segments, "check_finite", lambda *_: None)
        patch.setattr(segments, "sketch", lambda *_: {})
        patch.setattr(manifest, "are_finite", lambda *_: True)
        build(
            tmp_path / "s", lines("good", "bad"), Recipe(lambda texts: encode(texts, float("nan")), "model", precision)
        )
    with pytest.raises(Damaged, match="holds vectors that are infinite or not numbers"):
        Store(tmp_path / "s")
    assert sorted(build(tmp_path / "s", lines("good", "fine"), recipe).texts) == ["fine", "good"]


def damages(data: bytes) -> dict[str, bytes | None]:
    """What can happen to a file; None: it is gone."""
    draw = random.Random(7)
    found = {
        "gone": None,
        "empty": b"",
        "half": data[: len(data) // 2],
        "binary": bytes(range(256)),
        "zeros": bytes(len(data)),
    }
    found |= {"no object": b"[]", "deep": b"[" * 100_000, "appended": data + b"x", "twice": data + data}
    for number in range(12):
        place, bit = draw.randrange(len(data)), 1 << draw.randrange(8)
        found[f"flip {number}"] = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
    return found


def header_damages(data: bytes) -> dict[str, bytes]:
    header = json.loads(data)
    found = {}
    for key in header:
        found[f"no {key}"] = {name: value for name, value in header.items() if name != key}
        for wrong in (None, 0, -1, "x", [], {}, [[]], [["a", 1, "b", "c"]]):
            found[f"{key} {wrong!r}"] = header | {key: wrong}
    for place, wrong in ((0, "../x"), (0, None), (1, 10**12), (1, 12), (1, True), (2, "0" * 64), (3, 5)):
        listed = [list(segment) for segment in header["segments"]]
        listed[1][place] = wrong
        found[f"{place} is {wrong}"] = header | {"segments": listed}
    found["one is missing"] = header | {"segments": header["segments"][1:]}
    found["one is there twice"] = header | {"segments": [*header["segments"], header["segments"][0]]}
    return {name: json.dumps(each).encode() for name, each in found.items()}


@pytest.mark.parametrize("which", ["store.json", "unfinished.json", ".safetensors", ".jsonl"])
def test_every_damage_is_mended_by_the_next_build_or_refused_by_name(tmp_path, which, caplog):
    given, folder = lines(*words(0, 30)), tmp_path / "s"
    build(folder, given, Recipe(Encoder(), "model"))
    shutil.copy(folder / "store.json", folder / "unfinished.json")  # as of a build that was killed at its very end
    path = next(each for each in sorted(folder.iterdir()) if each.name.endswith(which))
    whole = {each: each.read_bytes() for each in folder.iterdir()}
    harms = damages(whole[path]) | (header_damages(whole[path]) if which.endswith(".json") else {})
    mended = 0
    for name, data in harms.items():
        for each, content in whole.items():
            each.write_bytes(content)
        path.unlink() if data is None else path.write_bytes(data)
        with suppress(InputError):
            found = contents(Store(folder, "model"))
            assert found == {text: TRUE[text] for text in words(0, 30) if text in found}, name
        try:
            assert reopened(folder, given) == {text: TRUE[text] for text in words(0, 30)}, name
            mended += 1
        except InputError as error:
            assert f"{which} has format" in str(error) and "give a new folder" in str(error), name
    assert mended > len(harms) - 4
    assert which == "unfinished.json" or f"{path.name} " in caplog.text  # what is encoded again is said


def test_a_store_without_its_header_is_known_by_its_files(tmp_path):
    folder, given = tmp_path / "s", lines(*words(0, 30))
    build(folder, given, Recipe(Encoder(), "model"))
    (folder / "store.json").unlink()
    assert len(build(folder, given, Recipe(Encoder(), "model"))) == 30
    (folder / "store.json").write_text("")
    (folder / "0123456789abcdef.jsonl").write_text("{}")
    assert len(build(folder, given, Recipe(Encoder(), "model"))) == 30
    (folder / "store.json").write_text("")
    (folder / "thesis.jsonl").write_text("mine")
    with pytest.raises(ValueError, match="a folder of something else"):
        build(folder, given, Recipe(Encoder(), "model"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "0123456789abcdef.jsonl").write_text("mine")
    with pytest.raises(ValueError, match="a folder of something else"):
        build(other, given, Recipe(Encoder(), "model"))
    with pytest.raises(ValueError, match="is a file; give a folder"):
        build(folder / "thesis.jsonl", given, Recipe(Encoder(), "model"))


def test_a_build_removes_no_file_of_anybody_else(tmp_path):
    build(tmp_path / "s", lines(*words(0, 20)), Recipe(Encoder(), "model"))
    mine = {"candidates.jsonl", "notes.txt", "my.safetensors", "draft.tmp"}
    for name in mine:
        (tmp_path / "s" / name).write_text("mine")
    build(tmp_path / "s", lines(*words(10, 30)), Recipe(Encoder(), "model"))
    assert mine < {path.name for path in (tmp_path / "s").iterdir()}
