"""MuTual: English listening exams for Chinese students; which of four utterances follows takes reasoning.

Source   https://github.com/Nealcly/MuTual
Licence  none is stated; for research
Paper    Cui et al. 2020, https://arxiv.org/abs/2004.04494
Sizes    7,088 train, 886 valid; the answers of test are hidden
Format   a JSON object: `article`, `options`, `answers` (A to D), `id`; one a file in folders `mutual/train` and
         `mutual/dev` (`mutual_plus/...`), or one a line of `mutual_train.jsonl`, `mutual_dev.jsonl` (`mutual_plus_...`)
Eval     4 candidates of the file; in one of valid and three of train the right one stands there twice
Context  every turn with its `m :` or `f :`, as in the candidates

Variant `plus`: MuTual-plus, where a reply that is always safe takes the place of one of the candidates.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from poly_agents.tasks import variant
from poly_agents.tasks.response import Example, ResponseTeacher

WHERE = "https://github.com/Nealcly/MuTual: give its folder data as --data-files"
TURN = re.compile(r"\s+(?=[mf] ?: )", re.IGNORECASE)


class MutualTeacher(ResponseTeacher):
    """`-t poly_agents:mutual`, `-t poly_agents:mutual:plus`"""

    def read(self, split):
        if split == "test":
            raise ValueError("the answers of mutual's test set are hidden; use -dt valid")
        name = "mutual_plus" if variant(self.opt["task"], ("", "plus")) else "mutual"
        for path in self.files(name, "train" if split == "train" else "dev"):
            yield from self.rows(path, parse)

    def files(self, name: str, part: str) -> Iterator[Path]:
        """The files of a folder by their numbers, or the one with an example a line."""
        folder = Path(self.opt.get("data_files") or "") / name / part
        number = re.compile(r"\d+")
        found = [path for path in folder.glob(f"{part}_*.txt") if number.search(path.stem)]
        yield from sorted(found, key=lambda path: int(number.search(path.stem)[0])) or [
            self.path(f"{name}_{part}.jsonl")
        ]


def parse(line: str) -> Example:
    """A JSON object to an example. Raises ValueError, KeyError or TypeError for a bad one."""
    row = json.loads(line)
    options = [option.strip() for option in row["options"]]
    place = "ABCD".find(row["answers"])
    if len(options) != 4 or len(row["answers"]) != 1 or place < 0:
        raise ValueError(f"4 options and an answer A to D are expected, got {len(options)} and {row['answers']!r}")
    return Example(TURN.split(row["article"].strip()), options[place], options)
