"""Rows as people's files have them: wrong types in every field, other encodings, endless nesting. Each is named."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from poly_agents.errors import InputError
from tests import data
from tests.data import FIXTURES

BOMB = "[" * 100_000
WRONG = [None, 7, [], {}, [None], {"a": {"b": [1]}}, "\ud800", ""]
LINES = [  # task, split, folder, file: a JSON object a line
    ("jsonl", "train:ordered", "jsonl", "train.jsonl"),
    ("beir", "test", "beir/toy", "corpus.jsonl"),
    ("beir", "test", "beir/toy", "queries.jsonl"),
    ("snli", "test", "snli", "snli_1.0_test.jsonl"),
    ("mnli", "test", "mnli", "multinli_1.0_dev_mismatched.jsonl"),
    ("mutual:plus", "valid", "mutual", "mutual_plus_dev.jsonl"),
    ("insuranceqa", "valid", "insuranceqa", "answers.en.jsonl"),
    ("insuranceqa", "valid", "insuranceqa", "valid.en.jsonl"),
    ("dailydialogpp", "train:ordered", "dailydialogpp", "train.json"),
    ("dailydialogpp:positives", "train:ordered", "dailydialogpp", "data_positives.json"),
    ("dailydialog", "train:ordered", "dailydialog/parlai", "train.json"),
    ("ubuntu_irc", "train:ordered", "ubuntu_irc/replies", "train.jsonl"),
]
LISTS = [  # the same: one JSON list of objects
    ("dstc7", "valid", "dstc7", "ubuntu_dev_subtask_1.json"),
    ("dstc7:augmented", "train:ordered", "dstc7", "ubuntu_train_subtask_1.json"),
    ("dstc7:advising", "valid", "dstc7", "advising_dev_subtask_1.json"),
    ("dstc8", "valid", "dstc8", "DSTC8_DATA/Task_1/ubuntu/task-1.ubuntu.dev.json"),
]
TABLES = [  # the same: columns
    ("tabs", "train:ordered", "ubuntu_v1", "train.txt"),
    ("rrs", "test", "rrs", "restoration-200k/test.txt"),
    ("wikiqa", "valid", "wikiqa", "WikiQA-dev.tsv"),
    ("trecqa", "valid", "trecqa", "dev.csv"),
    ("ubuntu_v2", "valid", "ubuntu_v2", "valid.csv"),
    ("convai2", "valid", "convai2", "valid_self_original.txt"),
    ("msmarco", "valid", "msmarco", "qrels.dev.small.tsv"),
    ("dailydialog", "train:ordered", "dailydialog", "dialogues_train.txt"),
    ("beir", "test", "beir/toy", "qrels/test.tsv"),
    ("insuranceqa", "valid", "insuranceqa/original", "vocabulary"),
    ("wikipedia", "valid", "wikipedia", "wikipedia_dev10k.txt"),
]


def read(task: str, split: str, folder: Path, **options) -> list:
    found = data.read(task, split, folder, insuranceqa_pool=100, **options)
    return [example._replace(candidates=example.candidates and list(example.candidates)) for example in found]


def spoiled(row) -> Iterator:
    """Yield a row of JSON with every one of its values replaced by every wrong one, and without each of its keys."""
    if isinstance(row, dict):
        for key, value in row.items():
            rest = {name: own for name, own in row.items() if name != key}
            yield rest
            yield from (rest | {key: wrong} for wrong in (*WRONG, *spoiled(value)))
    elif isinstance(row, list) and row:
        yield from ([wrong, *row[1:]] for wrong in (*WRONG, *spoiled(row[0])))


def refused(task: str, split: str, folder: Path, name: str) -> bool:
    """Tell whether a file is refused, with its name. With `--skip-bad-rows` it must not be."""
    try:
        read(task, split, folder)
    except InputError as error:
        assert Path(name).name in str(error)
    else:
        return False
    assert read(task, split, folder, skip_bad_rows=True)
    return True


@pytest.mark.parametrize(("task", "split", "folder", "name"), LINES)
def test_a_wrong_value_anywhere_in_a_line_is_named_or_harmless(tmp_path, task, split, folder, name):
    path = shutil.copytree(FIXTURES / folder, tmp_path / "data") / name
    good = path.read_text("utf-8").rstrip("\n")
    row = json.loads(good.split("\n")[0])
    found = [
        refused(task, split, tmp_path / "data", name)
        for bad in spoiled(row)
        if path.write_text(f"{good}\n{json.dumps(bad)}")
    ]
    assert any(found)
    for bad in (BOMB.encode(), b'{"a": "\xe9"}', b"[]", b"null", b"7", b"{"):
        path.write_bytes(good.encode() + b"\n" + bad)
        with pytest.raises(InputError, match=rf"{path.name}:{good.count(chr(10)) + 2}: "):
            read(task, split, tmp_path / "data")
        assert read(task, split, tmp_path / "data", skip_bad_rows=True)


@pytest.mark.parametrize(("task", "split", "folder", "name"), LISTS)
def test_a_wrong_value_anywhere_in_a_list_is_named_or_harmless(tmp_path, task, split, folder, name):
    path = shutil.copytree(FIXTURES / folder, tmp_path / "data") / name
    good = json.loads(path.read_text("utf-8"))
    found = [
        refused(task, split, tmp_path / "data", name)
        for bad in (*spoiled(good[0]), *WRONG)
        if path.write_text(json.dumps([*good, bad]))
    ]
    assert any(found)
    path.write_text(json.dumps(good)[:-1] + f", {BOMB}")
    with pytest.raises(InputError, match=rf"{path.name}: after {len(good)} examples: .* nested too deeply"):
        read(task, split, tmp_path / "data")


@pytest.mark.parametrize(("task", "split", "folder", "name"), TABLES)
def test_a_bad_row_of_a_table_is_named_or_harmless(tmp_path, task, split, folder, name):
    path = shutil.copytree(FIXTURES / folder, tmp_path / "data") / name
    good = path.read_bytes().rstrip(b"\n")
    last = good.split(b"\n")[-1]
    for bad in (
        b"\xe9" + last,
        b"x",
        b"\t",
        last + b"\tx",
        b'"' + last,
        last.rpartition(b"\t")[0] + b"\tnan",
        b"\0" + last,
    ):
        path.write_bytes(good + b"\n" + bad)
        is_refused = refused(task, split, tmp_path / "data", name)
        assert is_refused or b"\xe9" not in bad


@pytest.mark.parametrize(("task", "split", "folder", "name"), [*LINES, *LISTS, *TABLES])
def test_a_byte_order_mark_changes_nothing(tmp_path, task, split, folder, name):
    path = shutil.copytree(FIXTURES / folder, tmp_path / "data") / name
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(task, split, tmp_path / "data") == read(task, split, FIXTURES / folder)
