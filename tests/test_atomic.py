"""Files and folders appear whole or not at all, killed writers leave nothing for good, and two do not mix."""

import logging
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from poly_agents.errors import InputError
from poly_agents.files import atomic, lines
from poly_agents.files.atomic import locked, new_folder, only_writer, replace, write_text

KILLED = """
import os, signal, sys
from pathlib import Path
from poly_agents.files.atomic import new_folder, replace
def write(path):
    path = Path(path)
    (path / "part" if path.is_dir() else path).write_text("half")
    if path.is_file():
        path.with_name(".tmpXa3f").write_text("safetensors has temporary files of its own")
    os.kill(os.getpid(), signal.SIGKILL)
{"file": replace, "folder": new_folder}[sys.argv[1]](sys.argv[2], write)
"""
HOLDS = """
import sys
from pathlib import Path
from poly_agents.files.atomic import locked, only_writer
with only_writer(Path(sys.argv[1])), locked(Path(sys.argv[1] + ".lock"), "it"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def python(code: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_else(tmp_path, kind):
    target = tmp_path / "made"
    assert python(KILLED, kind, str(target)).wait() == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    living = left.name.replace(left.name.split("-")[1], "1")  # process 1 is always there
    elsewhere = left.name.replace(left.name.split(".")[1].split("-")[0], "00000000")
    kept = {living, elsewhere, "made.tmp", "made.1234.tmp", left.name.replace("made", "made2")}
    for name in kept:
        (tmp_path / name).write_text("not ours to remove")
    if kind == "file":
        write_text(target, "whole")
    else:
        new_folder(target, lambda folder: (folder / "part").write_text("whole"))
    assert {path.name for path in tmp_path.iterdir()} == kept | {"made"}


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_beside(tmp_path):
    write_text(tmp_path / "made", "old")
    with pytest.raises(OSError):
        replace(tmp_path / "made", lambda beside: (Path(beside).write_text("half"), os.listdir(beside)))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("made", "old")]


def test_writes_inside_a_write_do_not_meet(tmp_path):
    def write(beside):
        write_text(tmp_path / "made", "inner")
        Path(beside).write_text("outer")

    replace(tmp_path / "made", write)
    assert (tmp_path / "made").read_text() == "outer"


def test_a_second_writer_waits_and_says_so_or_is_refused(tmp_path):
    other = python(HOLDS, str(tmp_path / "made"))
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="made is being written by another process; wait for it"):
        only_writer(tmp_path / "made").__enter__()
    said, handler = [], logging.Handler()
    handler.emit = lambda record: (said.append(record.getMessage()), other.communicate("\n"))  # lets the other one end
    atomic.LOG.addHandler(handler)
    with locked(tmp_path / "made.lock", "the store"):
        assert other.returncode == 0
    atomic.LOG.removeHandler(handler)
    assert said == ["waiting for another process that writes the store"]
    with only_writer(tmp_path / "made"), only_writer(tmp_path / "made"):  # the same process may, after a failure
        pass


def test_a_mark_of_the_byte_order_is_no_text_and_other_encodings_are_named(tmp_path):
    path = tmp_path / "c.txt"

    def read(data: bytes) -> list[str]:
        path.write_bytes(data)
        with path.open("rb") as file:
            return [lines.decode(line) for line in lines.bounded(file, path)]

    assert read(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo") == ["one\n", "\ufefftwo"]
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        with pytest.raises(ValueError, match=r"c\.txt is not a text file in UTF-8.*iconv -f utf-16"):
            read("one\ntwo\n".encode(encoding))
    with pytest.raises(ValueError, match="byte 4 of the line, 0xe9, is not UTF-8; if the file is in Latin-1, convert"):
        read("one\ncafé\n".encode("latin-1"))
    assert read("a\u2028b\x85c\rd\x0be\n".encode()) == ["a\u2028b\x85c\rd\x0be\n"]


@pytest.mark.parametrize("write", [replace, new_folder])
def test_a_full_disk_is_one_sentence_whatever_writes(tmp_path, write):
    def save(path):
        save_file({"a": torch.ones(99)}, Path(path, "a") if write is new_folder else path)

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        with pytest.raises(InputError, match=rf"^{tmp_path}/out cannot be written \(File too large.*make room"):
            write(tmp_path / "out", save)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(tmp_path.iterdir())
