"""Files from strangers: what they say of sizes and places is not believed, and what is in the way is not replaced."""

import gzip
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

import poly_agents
from poly_agents.agents.teachers.reading import rows
from poly_agents.candidates.reading import read_candidates
from poly_agents.candidates.store import Damaged, Store
from poly_agents.candidates.writer import Recipe, build
from poly_agents.files import archives, checkpoint, lines
from poly_agents.files.atomic import write_text
from poly_agents.learning import negatives

CANDIDATES = [{"text": text} for text in ("hello", "how are you", "fine thanks")]
RECIPE = Recipe(lambda texts: torch.ones(len(texts), 4), "of a model")


# --- model files --------------------------------------------------------------------------------------------------


def altered(path: str, folder: Path, **changes) -> str:
    """Copy a model file with other entries in its header; `backbone_x` is entry x of the backbone."""
    saved = checkpoint.read(path)
    header = json.loads(json.dumps(saved.header))
    for name, value in changes.items():
        place, _, entry = name.rpartition("__")
        (header[place] if place else header)[entry] = value
    copy = str(folder / "model")
    checkpoint.write(copy, header, dict(saved.weights))
    shutil.copy(f"{path}.dict", f"{copy}.dict")
    return copy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": None}, "says backbone None, which must be an object"),
        (
            {"backbone__num_hidden_layers": 10**6},
            "backbone.num_hidden_layers 1000000, which must be a number",
        ),
        ({"backbone__vocab_size": 10**12}, "backbone.vocab_size 1000000000000, which must be"),
        ({"backbone__hidden_size": -26}, "backbone.hidden_size -26"),
        ({"backbone__hidden_size": "26"}, "backbone.hidden_size '26'"),
        ({"backbone__model_type": None}, "backbone.model_type None"),
        ({"text_truncate": 0}, "text_truncate 0, which must be a number from 1"),
        ({"label_truncate": -5}, "label_truncate -5"),
        ({"label_truncate": True}, "label_truncate True"),
        ({"options__poly_codes": 10**9}, "options.poly_codes 1000000000, which must be at most"),
        ({"options": []}, "options \\[\\], which must be an object"),
        ({"agent": None}, "agent None, which must be a name"),
    ],
)
def test_a_header_that_the_weights_do_not_bear_out_is_refused(trained, tmp_path, changes, message):
    path = altered(trained["poly"], tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        poly_agents.load(path, "float32")


def test_a_header_of_endless_brackets_is_refused_by_file(trained, tmp_path):
    path = tmp_path / "model"
    saved = checkpoint.read(trained["bi"])
    checkpoint.write(str(path), {}, dict(saved.weights))
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["poly_agents"] = "[" * 100_000
    new = json.dumps(header).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + data[8 + length :])
    with pytest.raises(ValueError, match=r"header of .*model is not JSON \(nested too deeply\)"):
        checkpoint.read_header(str(path))


# --- stores -------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path) -> Path:
    build(tmp_path / "store", CANDIDATES, RECIPE, progress=False)
    return tmp_path / "store"


def change(store: Path, **entry) -> None:
    """Change the first segment that the manifest lists."""
    header = json.loads((store / "store.json").read_text())
    names = ("name", "rows", "vectors", "lines")
    header["segments"][0] = [entry.get(name, old) for name, old in zip(names, header["segments"][0], strict=True)]
    (store / "store.json").write_text(json.dumps(header))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "", "0123456789abcdeg", None, 7])
def test_a_segment_outside_of_the_store_is_refused(store, name):
    change(store, name=name)
    with pytest.raises(Damaged, match=r"store\.json"):
        Store(store)


@pytest.mark.parametrize("rows", [10**12, 2, 4, 0, -1, "3", True, None])
def test_a_number_of_rows_that_the_files_do_not_have_is_refused(store, rows):
    change(store, rows=rows)
    with pytest.raises(Damaged, match=r"store\.json"):
        Store(store)


def test_a_damaged_manifest_is_written_again(store):
    change(store, name="../outside")
    made = build(store, CANDIDATES, RECIPE, progress=False)
    assert sorted(made.texts) == sorted(each["text"] for each in CANDIDATES)


# --- archives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_long_header_is_refused_before_it_is_read(tmp_path, kind):
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, 3 * 2**30
    path = tmp_path / "bomb.tar"
    path.write_bytes(info.tobuf() + bytes(2**20))
    with pytest.raises(ValueError, match="a header has 3,221,225,472 bytes"):
        archives.unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_long_names_that_are_fair_are_unpacked(tmp_path):
    name = "/".join(["folder" * 9] * 6) + "/file"
    with tarfile.open(tmp_path / "long.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size = 5
        tar.addfile(info, io.BytesIO(b"hello"))
    archives.unpack(tmp_path / "long.tar", tmp_path / "out")
    assert (tmp_path / "out" / name).read_bytes() == b"hello"


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 10)
    with tarfile.open(tmp_path / "many.tar", "w") as tar:
        for number in range(11):
            tar.addfile(tarfile.TarInfo(f"{number}"))
    with pytest.raises(ValueError, match="more than 10 members"):
        archives.unpack(tmp_path / "many.tar", tmp_path / "out")


def test_headers_that_add_up_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_HEADERS", 9000)
    with tarfile.open(tmp_path / "pax.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(9):
            info = tarfile.TarInfo(f"{number}")
            info.pax_headers = {"comment": "x" * 1000}
            tar.addfile(info)
    with pytest.raises(ValueError, match="headers have more than 9,000 bytes"):
        archives.unpack(tmp_path / "pax.tar", tmp_path / "out")


# --- lines --------------------------------------------------------------------------------------------------------


def test_a_line_without_an_end_is_refused_by_place(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST", 100)
    with gzip.open(tmp_path / "rows.gz", "wb") as file:
        file.write(b"short\n" + b"x" * 1000)
    with pytest.raises(ValueError, match=r"rows\.gz:2 is longer than 100 bytes"):
        list(rows(tmp_path / "rows.gz", str))
    (tmp_path / "candidates.txt").write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match=r"candidates\.txt:1 is longer"):
        list(read_candidates(tmp_path / "candidates.txt"))


@pytest.mark.parametrize("end", ["\u2028", "\u0085", "\x0b", "\x1c"])
def test_a_line_ends_at_a_newline_alone(tmp_path, end):
    text = f"hello{end}there"
    (tmp_path / "candidates.txt").write_text(f"{text}\nyou\n", encoding="utf-8", newline="")
    assert [each["text"] for each in read_candidates(tmp_path / "candidates.txt")] == [text, "you"]
    row = {"context": text, "response": "you", "negatives": [text]}
    (tmp_path / "negatives").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert negatives.read(str(tmp_path / "negatives")) == {(text, "you"): [text]}


# --- what is in the way -------------------------------------------------------------------------------------------


def test_only_a_regular_file_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "folder", Path("/dev/null")):
        with pytest.raises(ValueError, match="would take its place"):
            write_text(path, "x")
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "file", "new")
    write_text(tmp_path / "link", "new too")
    assert (tmp_path / "file").read_text() == "new" and (tmp_path / "link").read_text() == "new too"
    assert (tmp_path / "pipe").is_fifo() and Path("/dev/null").is_char_device()
