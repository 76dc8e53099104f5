"""DailyDialog: everyday conversations from sites where English is learnt.

Source     http://yanran.li/dailydialog (ijcnlp_dailydialog.zip)
Licence    CC BY-NC-SA 4.0
Paper      Li et al. 2017, https://aclanthology.org/I17-1099
Sizes      train 11,118 dialogues, 76,053 responses; valid 1,000 dialogues, 7,069 responses, less the copies
Context    every turn before the response, oldest first (`--history-turns N` keeps the newest)
Candidates 20 in evaluation: the response and 19 of the same split, drawn once
Files      `train.zip`, `validation.zip`, `test.zip` as they are inside the official archive, or that archive itself;
           `dialogues_SPLIT.txt` in them has one dialogue a line, `__eou__` after every turn

Valid and test hold copies of train dialogues, some with other blanks, quotes or capitals (69 of valid have none of
these): those whose letters and digits stand in a row in a train dialogue are left out, unless
`--dailydialog-copies true`. Of valid these are 130: 122 are like a train dialogue turn by turn, one is parted into
other turns, 7 stand whole in a longer one, whose contexts and responses are thus in train too; 6,095 responses stay. So
the train file is needed to evaluate. Some 30 more that differ in a word or a turn stay.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import suppress

from poly_agents.files.download import Download
from poly_agents.tasks.response import ResponseTeacher, draw_candidates, replies

ARCHIVE = "ijcnlp_dailydialog.zip"
FILES = (Download(f"http://yanran.li/files/{ARCHIVE}", ARCHIVE),)
END = "__eou__"


class DailydialogTeacher(ResponseTeacher):
    """`-t poly_agents:dailydialog --data-files FOLDER`"""

    history_turns = 100

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("dailydialog")
        group.add_argument("--dailydialog-copies", type="bool", default=False, help="evaluate on copies of train too")
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
        """Each as its turns; from the archive, those within it, or their unpacked files."""
        name = "validation" if split == "valid" else split
        with suppress(ValueError):
            path = self.path(f"dialogues_{name}.txt")
            return self.rows(path, parse)
        return self.packed(name)

    def packed(self, name: str) -> Iterator[list[str]]:
        try:
            path, data = self.path(f"{name}.zip"), None
        except ValueError:
            path = self.path(ARCHIVE)
            with zipfile.ZipFile(path) as archive:
                data = io.BytesIO(archive.read(f"{path.stem}/{name}.zip"))
        member = f"{name}/dialogues_{name}.txt"
        with zipfile.ZipFile(data or path) as archive, archive.open(member) as lines:
            for number, line in enumerate(lines, 1):
                try:
                    if line.strip():
                        yield parse(line.decode("utf-8"))
                except ValueError as error:
                    self.bad(f"{path}/{member}:{number}", error)


def parse(line: str) -> list[str]:
    """The turns of a dialogue.

    >>> parse("Hi , Ann ! __eou__ Hello . __eou__")
    ['Hi , Ann !', 'Hello .']
    """
    *turns, rest = line.split(END)
    if rest.strip() or not turns:
        raise ValueError(f"a dialogue ends in {END}")
    return [" ".join(turn.split()) for turn in turns if turn.strip()]


def letters(dialogue: list[str]) -> str:
    """What a copy has in common with its original."""
    return re.sub(r"[\W_]", "", "".join(dialogue).lower())
