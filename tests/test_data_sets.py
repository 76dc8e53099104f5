"""ParlAI's commands on every task with files in `tests/fixtures/NAME/`, which are in the official format.

A folder there is all that a new task needs to be tested. `--data-files` is that folder, or the first one inside it that
the task can read.
"""

import builtins
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from parlai.core.params import ParlaiParser
from parlai.core.teachers import create_task_agent_from_taskname
from parlai.scripts.data_stats import DataStats
from parlai.scripts.display_data import DisplayData
from parlai.scripts.interactive import Interactive
from parlai.scripts.self_chat import SelfChat

from poly_agents import tasks
from poly_agents.agents.teachers.response import ResponseTeacher

FIXTURES = Path(__file__).parent / "fixtures"
NO_TASKS = {"saved"}  # files of models
SPLITS = ("train", "valid", "test")


def given() -> list[str]:
    return [name for name in tasks.names() if (FIXTURES / name).is_dir()]


@pytest.fixture(params=given())
def task(request) -> str:
    """Name a task together with its files, so that other tasks can stand beside it."""
    folder = FIXTURES / request.param
    for files in (folder, *sorted(path for path in folder.rglob("*") if path.is_dir())):
        task = f"poly_agents:{request.param}:data_files={files}"
        if splits(task):
            return task
    raise AssertionError(f"no split of {request.param} can be read from {folder}, nor from a folder in it")


def splits(task: str) -> dict[str, ResponseTeacher]:
    """Return the teachers of the splits that have files."""
    found = {}
    for split in SPLITS:
        with suppress(ValueError):
            found[split] = make(task, "train:ordered" if split == "train" else split)
    return found


def make(task: str, datatype: str) -> ResponseTeacher:
    opt = ParlaiParser(True, False).parse_kwargs(task=task, datatype=datatype)
    return create_task_agent_from_taskname(opt)[0]


def acts(teacher: ResponseTeacher) -> list:
    found = []
    while not teacher.epoch_done():
        found.append(teacher.act())
    return found


def test_folders_are_named_after_tasks():
    assert given() == sorted(path.name for path in FIXTURES.iterdir() if path.is_dir() and path.name not in NO_TASKS)


def test_every_split_is_sound(task):
    for split, teacher in splits(task).items():
        messages = acts(teacher)
        assert len(messages) == teacher.num_examples() > 0
        for message in messages:
            labels = message["labels" if split == "train" else "eval_labels"]
            assert labels and all(label.strip() for label in labels) and message["episode_done"]
            assert isinstance(message["text"], str)
            candidates = message.get("label_candidates")
            assert candidates is None or len(candidates) >= 1
            assert "candidate_ids" not in message or len(message["candidate_ids"]) == len(candidates)
            assert "grades" not in message or len(message["grades"]) == len(candidates)


def test_a_stream_is_the_same(task):
    for split, teacher in splits(task).items():
        datatype = "train:ordered:stream" if split == "train" else f"{split}:stream"
        assert acts(make(task, datatype)) == acts(teacher)


def test_the_data_are_shown_and_counted(task, capsys):
    for split in splits(task):
        DisplayData.main(task=task, datatype="train:ordered" if split == "train" else split, num_examples=3)
        assert "NEW EPISODE" in capsys.readouterr().out
        DisplayData.main(task=task, datatype=f"{split}:stream", num_examples=3, mutators="last_turn")
        assert "NEW EPISODE" in capsys.readouterr().out
        stats = DataStats.main(task=task, datatype="train:ordered" if split == "train" else split)
        assert stats["both/utterances"] > 0


@pytest.mark.parametrize("mutators", ["last_turn", "flatten"])
def test_mutators_leave_every_label(task, mutators):
    for split in splits(task):
        datatype = "train:ordered" if split == "train" else split
        labels = "labels" if split == "train" else "eval_labels"
        whole, changed = acts(make(task, datatype)), acts(make(f"{task}:mutators={mutators}", datatype))
        assert [message[labels] for message in changed] == [message[labels] for message in whole]


def test_it_stands_beside_another_task(task, data, capsys):
    for split in splits(task):
        DisplayData.main(task=f"{task},poly_agents:jsonl", jsonl_path=data, datatype=f"{split}:stream", num_examples=6)
        assert capsys.readouterr().out.count("NEW EPISODE") == 6


@pytest.fixture
def chatting(trained, task, tmp_path) -> dict:
    """Return the options of a model and of the task whose responses it may say."""
    for end in ("", ".opt", ".dict"):
        shutil.copy(trained["bi"] + end, tmp_path / f"model{end}")
    if "train" not in splits(task):
        (tmp_path / "pool.txt").write_text("fine thanks\nmy cat\n")
        return {
            "task": task,
            "model_file": str(tmp_path / "model"),
            "fixed_candidates_path": str(tmp_path / "pool.txt"),
        }
    return {"task": task, "model_file": str(tmp_path / "model")}


def test_one_chats_with_it(chatting, monkeypatch, capsys):
    said = iter(["hello how are you", "what is your name", "[EXIT]"])
    monkeypatch.setattr(builtins, "input", lambda prompt="": next(said))
    Interactive.main(**chatting)
    assert capsys.readouterr().out.count("[Bi]") == 2


def test_it_chats_with_itself(chatting, tmp_path, capsys):
    SelfChat.main(**chatting, num_self_chats=1, selfchat_max_turns=3, outfile=str(tmp_path / "out"))
    assert "Bi_1" in capsys.readouterr().out
