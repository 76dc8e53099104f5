"""SNLI and MultiNLI: three labels, the same examples as ParlAI's own tasks make of the same files."""

import shutil
from pathlib import Path

import pytest
from parlai.core import build_data
from parlai.core.opt import Opt
from parlai.tasks.multinli.agents import DefaultTeacher as TheirMnli
from parlai.tasks.snli.agents import DefaultTeacher as TheirSnli

from tests.data import FIXTURES, read, spoil, teacher

TASKS = [("snli", TheirSnli, "SNLI/snli_1.0"), ("mnli", TheirMnli, "MultiNLI/multinli_1.0")]


@pytest.mark.parametrize("split", ["train:ordered", "valid", "test"])
@pytest.mark.parametrize(("task", "theirs", "folder"), TASKS)
def test_the_examples_are_those_of_parlai(tmp_path, task, theirs, folder, split):
    shutil.copytree(FIXTURES / task, tmp_path / folder)
    build_data.mark_done(str(Path(tmp_path, folder).parent), version_string="1.0")
    other = theirs(Opt(task=task, datatype=split, datapath=str(tmp_path), batchsize=1))
    ours = teacher(task, split, FIXTURES / task)
    assert ours.num_examples() == other.num_examples() == 3
    for _ in range(3):
        mine, wanted = ours.act(), other.act()
        assert mine["text"] == wanted["text"]
        label = "labels" if split.startswith("train") else "eval_labels"
        assert list(mine[label]) == list(wanted[label])
        assert sorted(mine["label_candidates"]) == sorted(wanted["label_candidates"])  # theirs are shuffled


@pytest.mark.parametrize(("task", "file"), [("snli", "snli_1.0_dev.jsonl"), ("mnli", "multinli_1.0_dev_matched.jsonl")])
def test_a_bad_row_is_named_by_file_and_line(tmp_path, task, file):
    row = '{"gold_label": "maybe", "sentence1": "a", "sentence2": "b"}'
    folder = spoil(FIXTURES / task, file, row, tmp_path)
    with pytest.raises(ValueError, match=rf"{file}:5: gold_label is one of entailment, .*, got 'maybe'"):
        read(task, "valid", folder)
    assert teacher(task, "valid", folder, skip_bad_rows=True).skipped == 1
