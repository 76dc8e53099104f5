"""Your own data in the format that most benchmarks of response selection have: a candidate a line, tabs between.

    1 TAB hi TAB hello, how are you? TAB fine
    0 TAB hi TAB hello, how are you? TAB blue

The columns are the label, the turns of the context and the candidate. Lines of one context follow one another.
`--data-files` is the folder with `train.txt`, `valid.txt` (or `dev.txt`) and `test.txt`, or one file. In training every
right candidate is an example of its own, with the wrong candidates of its context; in evaluation a context is one
example.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from poly_agents.agents.teachers.examples import Example
from poly_agents.agents.teachers.response import ResponseTeacher, logging
from poly_agents.errors import InputError

CHINESE = "\u3000-\u303f\u3400-\u9fff\uff00-\uffef"
BESIDE_CHINESE = re.compile(rf"(?<=[{CHINESE}])\s+|\s+(?=[{CHINESE}])")


class Row(NamedTuple):
    """One candidate of one context; the grade is 0 or 1 unless people graded it higher."""

    grade: int
    context: list[str]
    candidate: str


class TabsTeacher(ResponseTeacher):
    """`-t poly_agents:tabs --data-files PATH`

    A benchmark in this format sets the attributes:

    Attributes:
        folder: the folder that its archive unpacks to; the files may also lie outside it.
        sizes: the number of candidates of a context, by split.
        labels: the labels that a line can begin with.
        judged: True if people judged the candidates, so that a context may have no right ones or only right ones.
        segmented: True if Chinese words are separated by spaces.
    """

    folder = ""
    sizes: Mapping[str, int] = {}
    labels: Sequence[str] = ("0", "1")
    judged = False
    segmented = False

    def read(self, split) -> Iterator[Example]:
        path, left_out = self.file(split), 0
        for number, rows in enumerate(self.contexts(path, split), 1):
            context, candidates = rows[0].context, [row.candidate for row in rows]
            right = [row.candidate for row in rows if row.grade]
            wrong = [row.candidate for row in rows if not row.grade]
            size = self.sizes.get(split, len(rows))
            if split == "train":
                yield from (Example(context, text, [text, *wrong] if wrong else None) for text in right)
            elif len(rows) != size:
                self.bad_context(path, number, context, f"{size} candidates expected, got {len(rows)}")
            elif self.judged and not (right and wrong):
                left_out += 1
            elif not right:
                self.bad_context(path, number, context, "no candidate is right")
            else:
                yield Example(context, right[0], candidates, right[1:])
        if left_out:
            logging.info(f"{path}: {left_out} contexts left out, whose candidates are all right or all wrong")

    def bad_context(self, path: Path, number: int, context: list[str], reason: str) -> None:
        """Raise an error for a bad context, or skip it, as `bad` does with a row."""
        self.bad(f"{path}: context {number}, {context[0][:40]!r}", ValueError(reason))

    def file(self, split: str) -> Path:
        """Find the file of a split, in the benchmark's folder or beside it."""
        names = ["dev.txt", "valid.txt"] if split == "valid" else [f"{split}.txt"]
        inside = [f"{self.folder}/{name}" for name in names] if self.folder else []
        return self.path(*inside, *names)

    def contexts(self, path: Path, split: str) -> Iterator[list[Row]]:
        """Collect the lines of each context. A context ends where another one follows, or when it is complete.

        A benchmark's training set may have the same context twice in a row. Each time its right candidate is first.
        """
        rows: list[Row] = []
        for row in self.rows(path, self.parse):
            full = row.grade if self.sizes and split == "train" else len(rows) == self.sizes.get(split)
            if rows and (full or row.context != rows[0].context):
                yield rows
                rows = []
            rows.append(row)
        if rows:
            yield rows

    def parse(self, line: str) -> Row:
        """Parse a line. Raises ValueError for a wrong label, or if the context or the candidate is empty."""
        label, *texts = line.split("\t")
        if label not in self.labels:
            raise InputError(f"a line begins with {self.labels[0]} or {self.labels[-1]}, got {label[:20]!r}")
        *context, candidate = map(unsegment if self.segmented else str.strip, texts or [""])
        context = [turn for turn in context if turn]
        if not context or not candidate:
            raise InputError("a label, a context and a candidate are expected, separated by tabs")
        return Row(int(label), context, candidate)


def unsegment(text: str) -> str:
    """Remove the spaces between Chinese words.

    >>> unsegment("下载 了 ftv player 后 还是 不 能看")
    '下载了ftv player后还是不能看'
    """
    return BESIDE_CHINESE.sub("", text.strip())
