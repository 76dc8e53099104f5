"""Ubuntu Dialogue Corpus v2: conversations of two from the #ubuntu channels.

Source   http://parl.ai/downloads/ubuntu/ubuntu.tar.gz, the files of github.com/rkadlec/ubuntu-ranking-dataset-creator
Licence  none is stated for the logs; the scripts are Apache-2.0
Paper    Lowe et al. 2017, "Training End-to-End Dialogue Systems with the Ubuntu Dialogue Corpus"
Sizes    1,000,000 train, 19,560 valid, 18,920 test
Format   CSV with a header: `Context, Utterance, Label` for training, where rows labelled 0 are left out;
         `Context, Ground Truth Utterance, Distractor_0 .. Distractor_8` for evaluation
Eval     10 candidates of the file, in an order drawn once
Context  a turn ends at `__eot__`, an utterance at `__eou__`, which becomes ` .` as in ParlAI
"""

import csv
import random
from collections.abc import Iterator
from pathlib import Path

from poly_agents.agents.teachers.examples import Example
from poly_agents.agents.teachers.reading import finite, open_text, valid_text
from poly_agents.agents.teachers.response import ResponseTeacher
from poly_agents.errors import InputError
from poly_agents.files.download import Download

LONGEST = 1 << 24  # characters of a field; Python's csv allows 131,072 by default


class UbuntuV2Teacher(ResponseTeacher):
    """`-t poly_agents:ubuntu_v2`"""

    FILES = (
        Download(
            "http://parl.ai/downloads/ubuntu/ubuntu.tar.gz",
            "ubuntu.tar.gz",
            "87caf297381287247cbff3aa7cc2f4609f3b12c40e8535688168d7413740e0d0",
            archive=True,
        ),
    )

    def read(self, split):
        path = self.path(f"{split}.csv")
        for number, row in enumerate(self.records(path, 3 if split == "train" else 11)):
            context, response, *others = row
            turns = [turn for turn in map(str.strip, context.split("\n")) if turn]
            if split == "train":
                yield Example(turns, response)
                continue
            candidates = [*others, response]
            random.Random(number).shuffle(candidates)
            yield Example(turns, response, candidates)

    def records(self, path: Path, columns: int) -> Iterator[list[str]]:
        """Read the texts of every row of a CSV file. `bad` deals with rows that have other columns."""
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
        with open_text(path) as file:
            rows = csv.reader(file, strict=True)
            next(rows, None)
            while True:
                try:
                    row = next(rows)
                    valid_text("".join(row))
                    if row and len(row) != columns:
                        raise InputError(f"{columns} columns expected, got {len(row)}")
                    if not row or (columns == 3 and finite(row.pop()) == 0):
                        continue
                except StopIteration:
                    return
                except (ValueError, csv.Error) as error:
                    self.bad(f"{path}:{rows.line_num}", error)
                    continue
                yield [text.replace("__eou__", ".").replace("__eot__", "\n").strip() for text in row]
