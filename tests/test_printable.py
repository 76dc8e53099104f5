"""Texts of others never command the terminal: not in chats, not in what is displayed, not in logs."""

import io
import json
from logging import StreamHandler

import pytest
from parlai.scripts.display_data import DisplayData
from parlai.scripts.display_model import DisplayModel
from parlai.utils import logging
from parlai.utils.misc import display_messages

from poly_agents.text.printable import printable
from tests.agents import settings

CLEAR, TITLE, TURN = "\x1b[2J", "\x1b]0;owned\x07", "\u202e"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (CLEAR, "\\x1b[2J"),
        (TITLE, "\\x1b]0;owned\\x07"),
        (f"a{TURN}b", "a\\u202eb"),
        ("\x9b31m", "\\x9b31m"),
        ("back\rup", "back\\rup"),
        ("two\nlines\tand tabs: é 中 👍", "two\nlines\tand tabs: é 中 👍"),
    ],
)
def test_control_characters_are_spelt_out(text, shown):
    assert printable(text) == shown


def test_messages_are_displayed_without_commands():
    message = {"id": f"a{CLEAR}", "text": f"hello{CLEAR}", "eval_labels": [TITLE], "text_candidates": [TURN]}
    shown = display_messages([message], add_fields="text_candidates")
    assert "hello\\x1b[2J" in shown and not {"\x1b", "\x07", TURN} & set(shown)


def test_log_lines_have_no_commands():
    out = io.StringIO()
    handler = StreamHandler(out)
    logging.logger.addHandler(handler)
    try:
        logging.error(f"left out {CLEAR}")
        logging.logger.error("left out %s", TITLE)
    finally:
        logging.logger.removeHandler(handler)
    assert out.getvalue() == "left out \\x1b[2J\nleft out \\x1b]0;owned\\x07\n"


def test_data_and_rankings_are_displayed_without_commands(options, tmp_path, capsys):
    row = {
        "context": [f"hi{CLEAR}", f"you{TITLE}"],
        "response": f"fine{TURN}",
        "candidates": [f"fine{TURN}", f"no{CLEAR}"],
    }
    for split in ("train", "valid"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    data = {"task": "poly_agents:jsonl", "jsonl_path": str(tmp_path), "datatype": "valid", "num_examples": 1}
    DisplayData.main(**data, verbose=True)
    DisplayModel.main(**settings(options, "bi") | data | {"model_file": None, "show_candidates": 2, "batchsize": 1})
    shown = capsys.readouterr().out
    assert "hi\\x1b[2J" in shown and "fine\\u202e" in shown and "[ranking]" in shown
    assert not {"\x1b", "\x07", TURN} & set(shown)
