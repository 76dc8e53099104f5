"""The file of ranks: one evaluation writes it at a time, and what is in it can be read back."""

import json
import os
import subprocess
import sys

import pytest

from poly_agents.evaluation.ranks_file import RanksFile

WRITES = """
import os, sys
from pathlib import Path
from poly_agents.files.atomic import only_writer
path = Path(sys.argv[1])
with only_writer(path):
    print("writing", flush=True)
    sys.stdin.readline()
    Path(f"{path}.other").write_text("of another")
    os.replace(f"{path}.other", path)
"""  # as RanksFile does, which would import torch


def other(path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "writing\n"
    return process


def test_two_evaluations_do_not_mix_their_lines(tmp_path):
    path = tmp_path / "ranks.jsonl"
    first, own = other(path), RanksFile(str(path))
    with pytest.raises(ValueError, match=r"ranks\.jsonl is being written by another process; wait for it, or give"):
        own.write([{"of": "mine"}])
    first.communicate("\n")
    assert first.returncode == 0 and path.read_text() == "of another"
    own.write([{"of": "mine"}])
    own.close()
    assert path.read_text() == '{"of": "mine"}\n'
    other(path).communicate("\n")  # between two tasks of this evaluation
    with pytest.raises(ValueError, match="was replaced while it was written; give each evaluation a file of its own"):
        own.write([{"of": "mine"}])
    assert path.read_text() == "of another"


def test_an_evaluation_that_failed_is_not_in_the_way_of_the_next_one_in_its_process(tmp_path):
    failed, again = RanksFile(str(tmp_path / "ranks.jsonl")), RanksFile(str(tmp_path / "ranks.jsonl"))
    failed.write([{"number": 1}])
    again.write([{"number": 2}])
    again.close()
    assert again.path.read_text() == '{"number": 2}\n' and failed.file


def test_texts_of_any_kind_are_read_back(tmp_path):
    rows = [{"context": "a\u2028b\x85c\rd", "text": "half \ud83d of a pair"}, {"context": "ü"}]
    ranks = RanksFile(str(tmp_path / "ranks.jsonl"))
    ranks.write(rows)
    ranks.close()
    assert list(map(json.loads, ranks.path.read_text("utf-8").split("\n")[:-1])) == rows
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a device, a pipe or a socket"):
        RanksFile(str(tmp_path / "pipe")).write(rows)
