"""MuTual: English listening exams for Chinese students; which of four utterances follows takes reasoning.

Source   https://github.com/Nealcly/MuTual
Licence  none is stated; for research
Paper    Cui et al. 2020, https://arxiv.org/abs/2004.04494
Sizes    7,088 train, 886 valid, 886 test, whose answers are hidden
Format   a JSON object: `article`, `options`, `answers` (A to D; blank in test), `id`; one object a file in the folders
         `mutual/{train,dev,test}` (`mutual_plus/...`), or one object a line in `mutual_{train,dev,test}.jsonl`
         (`mutual_plus_...`)
Eval     4 candidates of the file; in one example of valid and three of train the right one is there twice
Context  every turn with its `m :` or `f :`, as in the candidates

Test is only for `--submission FILE`; the address to send it to is on the leaderboard's page,
https://nealcly.github.io/MuTual-leaderboard. Variant `plus`: MuTual-plus, in which a safe reply that always fits
replaces one of the candidates.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from poly_agents.agents.teachers.examples import Example
from poly_agents.agents.teachers.reading import id_at, json_object, text_at, texts_at
from poly_agents.agents.teachers.response import ResponseTeacher, variant
from poly_agents.errors import InputError

LETTERS = ("A", "B", "C", "D")
NUMBERED = re.compile(r"\D*(\d+)")
TURN = re.compile(r"\s+(?=[mf] ?: )", re.IGNORECASE)


class MutualTeacher(ResponseTeacher):
    """`-t poly_agents:mutual`, `-t poly_agents:mutual:plus`"""

    SUBMISSIONS = ("mutual",)
    WHERE = "clone https://github.com/Nealcly/MuTual and give its folder data as --data-files"

    def read(self, split):
        if split == "test":
            self.only_for_a_submission()
        name = "mutual_plus" if variant(self.opt["task"], ("", "plus")) else "mutual"
        for path in self.files(name, "dev" if split == "valid" else split):
            yield from self.rows(path, lambda line: parse(line, hidden=split == "test"))

    def files(self, name: str, part: str) -> Iterator[Path]:
        """Find the files of a folder in the order of their numbers, or else the file with an example a line."""
        folder = Path(self.opt.get("data_files") or "") / name / part
        numbered = {
            int(found[1]): path for path in folder.glob(f"{part}_*.txt") if (found := NUMBERED.fullmatch(path.stem))
        }
        yield from [numbered[number] for number in sorted(numbered)] or [self.path(f"{name}_{part}.jsonl")]


def parse(line: str, hidden: bool) -> Example:
    """Parse a JSON object. If the answers are `hidden`, it may lack one.

    Raises ValueError or KeyError for a bad one.
    """
    row = json_object(line)
    options, answer = [option.strip() for option in texts_at(row, "options")], text_at(row, "answers").strip()
    if len(options) != 4 or (answer not in LETTERS and not (hidden and not answer)):
        raise InputError(f"4 options and an answer A to D are expected, got {len(options)} and {answer!r}")
    response = options[LETTERS.index(answer)] if answer else None
    turns = TURN.split(text_at(row, "article").strip())
    return Example(turns, response, options, id=id_at(row, "id"), candidate_ids=LETTERS)
