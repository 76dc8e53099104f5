"""Files of candidates: what they hold reaches the store, and what cannot be read is named by its place."""

import json
import os
import pickle
import subprocess

import pytest

from poly_agents.candidates.reading import read_candidates
from poly_agents.candidates.writer import Recipe, update
from poly_agents.files import atomic
from tests.stores import Encoder


def test_candidates_are_read_from_text_and_json_lines(tmp_path):
    (tmp_path / "c.txt").write_text('one\n\n  two \n{"text": "three"}\n', encoding="utf-8")
    assert [c["text"] for c in read_candidates(tmp_path / "c.txt")] == ["one", "two", '{"text": "three"}']
    (tmp_path / "c.jsonl").write_text('{"text": "one", "id": 7}\n\n{"text": "two"}\n', encoding="utf-8")
    assert list(read_candidates(tmp_path / "c.jsonl")) == [{"text": "one", "id": 7}, {"text": "two"}]
    for bad in ("nothing", "[1]", '{"id": 3}', '{"text": ""}', '{"text": 4}'):
        (tmp_path / "bad.jsonl").write_text(f'{{"text": "one"}}\n{bad}\n', encoding="utf-8")
        with pytest.raises(ValueError, match=r"bad\.jsonl, line 2"):
            list(read_candidates(tmp_path / "bad.jsonl"))


def test_a_file_that_changes_between_its_digest_and_its_reading_leaves_no_stale_store(tmp_path, monkeypatch):
    pool, recipe = tmp_path / "pool.txt", Recipe(Encoder(), "model")
    pool.write_text("early\n")

    def changes(path):
        found = sha256(path)
        if path == pool:
            pool.write_text("late\n")
        return found

    sha256 = atomic.sha256
    monkeypatch.setattr(atomic, "sha256", changes)
    assert list(update(tmp_path / "s", pool, recipe).texts) == ["late"]
    monkeypatch.undo()
    pool.write_text("early\n")
    assert list(update(tmp_path / "s", pool, recipe).texts) == ["early"]


def test_files_of_candidates_are_taken_with_a_bom_and_refused_by_place(tmp_path):
    text, rows = tmp_path / "c.txt", tmp_path / "c.jsonl"
    text.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    rows.write_bytes(b'\xef\xbb\xbf{"text": "one"}\n{"text": "two"}\n')
    for path in (text, rows):
        assert list(read_candidates(path)) == [{"text": "one"}, {"text": "two"}]
    kept = 'a\u2028b\x85c\x0bd\x1ce "f"'
    rows.write_text(
        json.dumps({"text": kept, "broken": "\ud83d"}) + "\n" + json.dumps({"text": kept}, ensure_ascii=False)
    )
    store = update(tmp_path / "s", rows, Recipe(Encoder(), "model"))
    assert sorted((store[row] for row in range(2)), key=len) == [{"text": kept}, {"text": kept, "broken": "\ud83d"}]
    for data, message in (
        ("one\ncafé\n".encode("latin-1"), r"c\.txt, line 2: byte 4 of the line, 0xe9, is not UTF-8.*iconv -f latin1"),
        ("one\n".encode("utf-16"), r"c\.txt is not a text file in UTF-8; if it is in UTF-16, convert it"),
        (pickle.dumps(["one"] * 300), r"c\.txt is not a text file|c\.txt, line 1: byte 1 of the line, 0x80, is not"),
        (b"", r"c\.txt holds no candidates; write one candidate per line"),
        (b" \n\n", "holds no candidates"),
    ):
        text.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            update(tmp_path / "t", text, Recipe(Encoder(), "model"))
    for row in ("null", "[]", '"one"', "{}", '{"text": null}', '{"text": 3}', '{"text": "\\ud800"}', "[" * 100_000):
        rows.write_text(f'{{"text": "one"}}\n{row}\n')
        with pytest.raises(ValueError, match=r"c\.jsonl, line 2"):
            update(tmp_path / "t", rows, Recipe(Encoder(), "model"))
    with pytest.raises(FileNotFoundError, match=r"there is no file of candidates .*none\.txt"):
        update(tmp_path / "t", tmp_path / "none.txt", Recipe(Encoder(), "model"))
    with pytest.raises(ValueError, match="is a folder; give a file"):
        update(tmp_path / "t", tmp_path / "s", Recipe(Encoder(), "model"))


def test_candidates_from_a_pipe_are_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writing = subprocess.Popen(f"printf 'one\\ntwo\\n' > {tmp_path / 'pipe'}", shell=True)
    assert sorted(update(tmp_path / "s", tmp_path / "pipe", Recipe(Encoder(), "model")).texts) == ["one", "two"]
    assert writing.wait() == 0


@pytest.mark.parametrize(
    "wrong", [None, 3, {}, {"text": None}, {"text": ""}, "", "\ud800", ["x"], {"text": "a", "b": {1, 2}}]
)
def test_candidates_that_are_none_are_named(tmp_path, wrong):
    with pytest.raises(ValueError, match="candidate"):
        update(tmp_path / "s", ["one", wrong], Recipe(Encoder(), "model"))
