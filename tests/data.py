"""Read fixtures, and the real data sets on machines that have them."""

import os
import shutil
from pathlib import Path

import pytest
from parlai.core.opt import Opt

from poly_agents import tasks
from poly_agents.agents.teachers.examples import Example
from poly_agents.agents.teachers.response import ResponseTeacher

FIXTURES = Path(__file__).parent / "fixtures"


def shared(name: str) -> Path:
    """Return a file or folder under `$POLY_AGENTS_DATA`, or skip the test if it is not there."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("POLY_AGENTS_DATA") or beside, name)
    if not path.exists():
        pytest.skip(f"there is no {path}; $POLY_AGENTS_DATA says where the data sets are")
    return path


def teacher(task: str, split: str, folder: Path, **options) -> ResponseTeacher:
    """Make the teacher of `-t poly_agents:TASK` over the files of a folder."""
    kind = tasks.teacher("".join(word.capitalize() for word in task.split(":")[0].split("_")) + "Teacher")
    given = {"task": f"poly_agents:{task}", "datatype": split, "batchsize": 1, "data_files": str(folder)}
    return kind(Opt(given | options))


def read(task: str, split: str, folder: Path, **options) -> list[Example]:
    """Read the examples of a split."""
    return list(teacher(task, split, folder, **options).examples)


def spoil(folder: Path, name: str, line: str, into: Path) -> Path:
    """Copy a folder and add a line at the end of one of its files."""
    shutil.copytree(folder, into, dirs_exist_ok=True)
    with (into / name).open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    return into
