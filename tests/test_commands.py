"""How commands end: one sentence for a mistake, help for who asks, silence when nobody reads."""

import errno
import os
import subprocess
import sys

import pytest
from parlai.core import script
from parlai.core.params import ParlaiParser
from parlai.core.script import superscript_main

from poly_agents.errors import InputError
from poly_agents.patches import commands

OURS = ("poly_convert", "poly_export", "poly_index", "poly_layers", "poly_mine", "poly_zoo")


@pytest.fixture
def parlai(monkeypatch, capfd):
    """Run `parlai ...` as the console does: exit code, stdout, stderr."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["parlai", *map(str, arguments)])
        try:
            superscript_main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        return code, *capfd.readouterr()

    return run


def test_a_mistake_is_one_sentence(parlai, data, tiny, tmp_path):
    task = ["-t", "poly_agents:jsonl", "--jsonl-path"]
    mine = ["poly_mine", "-mf", tmp_path / "m", "--out", tmp_path / "out", *task, data]
    train = ["train_model", "-m", "poly_agents/bi", *task, data, "-mf", tmp_path / "m", "--backbone", tiny]
    mistakes = {
        "there is no checkpoint 'nothing' in the zoo": ["poly_zoo", "nothing"],
        "did you mean 'poly'?": ["train_model", "-m", "poly_agents/polly", *task, data, "-mf", tmp_path / "m"],
        "No module named 'parlai.agents.nothing'": ["train_model", "-m", "nothing", *task, data, "-mf", tmp_path / "m"],
        "a name ends in ':' or '/'; -m poly_agents/poly and": ["display_data", "-t", "poly_agents:"],
        f"Model file does not exist, check to make sure it is correct: {tmp_path}": [
            "eval_model",
            "-mf",
            tmp_path / "m",
            *task,
            data,
        ],
        "there is no task to evaluate on": ["eval_model", "-mf", tmp_path / "m"],
        "--hard-negatives-margin must be a finite number, got nan": [*mine, "--hard-negatives-margin", "nan"],
        "cosine requires setting --max-train-steps": [*train, "--lr-scheduler", "cosine", "--num-epochs", "1"],
        "No task specified": ["display_data"],
        "Could not find filename 'nothing.opt": ["display_data", "-o", "nothing.opt"],
    }
    for sentence, arguments in mistakes.items():
        code, _, err = parlai(*arguments)
        assert (code, "Traceback" in err) == (1, False), err
        assert err.startswith("error: ") and sentence in err and err.count("\n") == 1


def test_debug_shows_the_traceback(parlai, monkeypatch):
    with pytest.raises(InputError, match="no checkpoint"):
        parlai("poly_zoo", "nothing", "--debug")
    monkeypatch.setenv(commands.DEBUG, "1")
    with pytest.raises(InputError, match="no checkpoint"):
        parlai("poly_zoo", "nothing")


def test_a_command_called_from_python_raises():
    with pytest.raises(InputError, match="no checkpoint"):
        superscript_main(["poly_zoo", "nothing"])


def test_a_fault_of_a_program_keeps_its_traceback(monkeypatch):
    with pytest.raises(KeyError):
        commands.console(lambda: {}["text"])
    with pytest.raises(RuntimeError):
        commands.console(lambda: (_ for _ in ()).throw(RuntimeError("shapes")))


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ENOSPC, errno.EISDIR])
def test_files_that_cannot_be_used_are_named(capsys, number):
    def fail():
        raise OSError(number, os.strerror(number), "models/\x1b[2Jpoly")

    with pytest.raises(SystemExit) as ended:
        commands.console(fail)
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: {os.strerror(number)}: models/\\x1b[2Jpoly\n"


@pytest.mark.parametrize("name", OURS)
def test_help_needs_no_required_flags(parlai, name):
    code, out, err = parlai(name, "--help")
    assert code == 0 and f"usage: parlai {name}" in out and not err


def test_a_wrong_flag_is_one_line_that_names_the_near_one(parlai, data):
    code, out, err = parlai("display_data", "-t", "poly_agents:jsonl", "--jsonl-pathh", data)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "unrecognized arguments: --jsonl-pathh" in err and "did you mean --jsonl-path?" in err
    code, _, err = parlai("poly_zoo", "--markets")  # half of it is in --markdown
    assert code == 2 and "unrecognized arguments: --markets (--help" in err
    code, _, err = parlai("poly_indx", "-mf", "model")
    assert code == 2 and err.endswith("; did you mean poly_index? (--help lists the flags)\n")
    code, _, err = parlai("poly_index", "-mf", "model")
    assert code == 2 and "the following arguments are required" in err and err.count("\n") == 1


def test_ctrl_c_ends_with_130(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        commands.console(interrupted)
    assert ended.value.code == 130 and capsys.readouterr().err == "ended by SIGINT\n"


def test_an_output_that_nobody_reads_ends_a_command_in_silence():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "parlai", "poly_zoo"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=120)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_parsing_leaves_required_flags_required():
    parser = ParlaiParser(False, False)
    parser.add_argument("--out", required=True)
    parser.parse_known_args([], nohelp=True)
    with pytest.raises(SystemExit):
        parser.parse_known_args([])
    assert script.ParlaiScript._run_args.__func__.__module__ == commands.__name__
