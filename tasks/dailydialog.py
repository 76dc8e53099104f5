"""DailyDialog: everyday conversations from sites where English is learned.

Source     http://yanran.li/dailydialog (ijcnlp_dailydialog.zip), or if that does not answer
           http://parl.ai/downloads/dailydialog/dailydialog.tar.gz, the archive of ParlAI's task
Licence    CC BY-NC-SA 4.0
Paper      Li et al. 2017, https://aclanthology.org/I17-1099
Sizes      dialogues: train 11,118, valid 1,000, test 1,000; responses of the official files: train 76,053, valid
           7,069, of which 6,095 are left without the copies (below); ParlAI's archive has 76,052 / 7,069 / 6,740
Context    every turn before the response, oldest first (`--history-turns N` keeps the newest)
Candidates 20 in evaluation: the response and 19 responses of the same split, drawn once
Files      the official archive as it is, or the `train.zip`, `validation.zip`, `test.zip` inside it, or their
           `dialogues_{train,validation,test}.txt` with one dialogue a line and `__eou__` after every turn; or
           ParlAI's `{train,valid,test}.json`, a line {"dialogue": [{"text": ...}, ...], ...} for each dialogue

Copies: valid and test contain dialogues of train, often with other spaces, quotes or capitals. A dialogue is dropped
if its letters and digits, in order, are part of a train dialogue. In valid these are 130: 122 match a train dialogue
turn by turn (69 of them character by character), one splits its turns differently, 7 are part of a longer dialogue,
whose contexts and responses are thus in train too. About 30 dialogues that differ in a word or a turn stay.
`--dailydialog-copies true` keeps all. Evaluation therefore reads the train file too.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from poly_agents.agents.teachers.examples import draw_candidates, replies
from poly_agents.agents.teachers.reading import json_object, list_at, rows_of, text_at
from poly_agents.agents.teachers.response import ResponseTeacher
from poly_agents.errors import InputError
from poly_agents.files.download import Download

ARCHIVE = "ijcnlp_dailydialog.zip"
END = "__eou__"


class DailydialogTeacher(ResponseTeacher):
    """`-t poly_agents:dailydialog`"""

    FILES = (
        Download(f"http://yanran.li/files/{ARCHIVE}", ARCHIVE),
        Download(
            "http://parl.ai/downloads/dailydialog/dailydialog.tar.gz",
            "dailydialog.tar.gz",
            "c3adb09bd715b9fa5cd1ac41613b7de61eb5afbe477826a6146abefef573e6bb",
            archive=True,
        ),
    )
    history_turns = 100

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("dailydialog")
        group.add_argument(
            "--dailydialog-copies", type="bool", default=False, help="evaluate on the copies of train dialogues too"
        )
        return parser

    def read(self, split):
        dialogues = list(self.dialogues(split))
        if split != "train" and not self.opt.get("dailydialog_copies"):
            known = "\n".join(map(letters, self.dialogues("train")))
            dialogues = [dialogue for dialogue in dialogues if letters(dialogue) not in known]
        turns = self.positive("history_turns", self.history_turns)
        examples = [example for dialogue in dialogues for example in replies(dialogue, turns)]
        return examples if split == "train" else draw_candidates(examples, f"dailydialog:{split}")

    def dialogues(self, split: str) -> Iterator[list[str]]:
        """Read every dialogue of a split as its turns."""
        name = "validation" if split == "valid" else split
        unpacked = (f"dialogues_{name}.txt", f"{name}.zip") if self.opt.get("data_files") else ()
        path = self.path(*unpacked, ARCHIVE, f"{split}.json")
        if path.name == ARCHIVE:
            return self.inner(path, name)
        if path.suffix == ".zip":
            return self.zipped(path, path, name)
        return self.rows(path, parse_json if ".json" in path.suffixes else parse)

    def inner(self, path: Path, name: str) -> Iterator[list[str]]:
        """Read a split from the archive inside the official archive."""
        with zipfile.ZipFile(path) as archive:
            data = io.BytesIO(archive.read(f"{path.stem}/{name}.zip"))
        return self.zipped(path, data, name)

    def zipped(self, path: Path, data: Path | io.BytesIO, name: str) -> Iterator[list[str]]:
        """Read a split from its archive; `path` is for error messages."""
        member = f"{name}/dialogues_{name}.txt"
        with zipfile.ZipFile(data) as archive, archive.open(member) as lines:
            yield from rows_of(lines, f"{path}/{member}", parse, self.bad)


def parse(line: str) -> list[str]:
    """Split a line of the official files into turns.

    >>> parse("Hi , Ann ! __eou__ Hello . __eou__")
    ['Hi , Ann !', 'Hello .']
    """
    *turns, rest = line.split(END)
    if rest.strip() or not turns:
        raise InputError(f"a dialogue ends in {END}")
    return clean(turns)


def parse_json(line: str) -> list[str]:
    """Read the turns of a line of ParlAI's files.

    >>> parse_json('{"topic": "work", "dialogue": [{"text": "Hi , Ann !"}, {"text": "Hello ."}]}')
    ['Hi , Ann !', 'Hello .']
    """
    return clean([text_at(turn, "text") for turn in list_at(json_object(line), "dialogue")])


def clean(texts: list[str]) -> list[str]:
    """Reduce spaces to one between words and drop empty texts."""
    return [" ".join(text.split()) for text in texts if text.strip()]


def letters(dialogue: list[str]) -> str:
    """Join the letters and digits of a dialogue, which a copy shares with its original."""
    return re.sub(r"[\W_]", "", "".join(dialogue).lower())
