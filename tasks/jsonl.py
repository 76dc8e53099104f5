"""Your own data: one JSON object per line.

    {"context": ["hi", "hello, how are you?"], "response": "fine", "candidates": ["fine", "no"]}

`--jsonl-path` (or `--data-files`) is a folder with `train.jsonl`, `valid.jsonl` and `test.jsonl`, or one file, which
then serves as every split. If examples have no `candidates`, evaluation draws 19 others from the same file for each,
always the same ones, or all there are if it has fewer. For that it holds the examples in memory, with `:stream` too.
"""

import copy
from collections.abc import Iterator
from pathlib import Path

from poly_agents.agents.teachers.examples import CANDIDATES, Example, draw_candidates, normalized
from poly_agents.agents.teachers.reading import json_object
from poly_agents.agents.teachers.response import ResponseTeacher, logging, warn_once
from poly_agents.errors import InputError

KEYS = ("context", "response", "candidates")


class JsonlTeacher(ResponseTeacher):
    """`-t poly_agents:jsonl --jsonl-path PATH`"""

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("jsonl")
        group.add_argument("--jsonl-path", help="a folder with train.jsonl, valid.jsonl, test.jsonl, or one file")
        return parser

    def read(self, split):
        if split == "train" or all(example.candidates for example in copy.copy(self).examples_of(split)):
            return self.examples_of(split)
        examples = list(self.examples_of(split))
        count = min(CANDIDATES, len({normalized(example.response) for example in examples}))
        if count < 2:
            raise InputError(f"{self.file(split)} has one response alone, so there is nothing to rank; add examples")
        logging.info(f"drawing {count} candidates for each {split} example")
        if count < CANDIDATES:
            warn_once(
                f"{self.file(split)} has only {count} different responses: hits@k are of {count}, not {CANDIDATES}"
            )
        return draw_candidates(examples, f"jsonl:{split}", count)

    def examples_of(self, split: str) -> Iterator[Example]:
        """Read the lines of a split."""
        return self.rows(self.file(split), parse)

    def count(self, split):
        if self.opt.get("skip_bad_rows"):
            return sum(1 for _ in copy.copy(self).examples_of(split))
        return sum(1 for _ in self.rows(self.file(split), str))  # a line is an example, or reading it will raise

    def file(self, split: str) -> Path:
        """Find the file of a split."""
        given = self.opt.get("jsonl_path") or self.opt.get("data_files")
        if not given:
            raise InputError("-t poly_agents:jsonl needs --jsonl-path, a file or a folder")
        path = Path(given)
        if path.is_file():
            if split != "train":
                warn_once(f"{path} is read for {split} as for training; a folder keeps the splits apart")
            return path
        for file in (path / f"{split}.jsonl", path / f"{split}.jsonl.gz"):
            if file.is_file():
                return file
        raise InputError(f"--jsonl-path {path}: there is no file {path / f'{split}.jsonl'}")


def parse(line: str) -> Example:
    """Parse a JSON object. Raises ValueError that says which key is wrong.

    >>> parse('{"context": ["hi"], "response": "hello"}').response
    'hello'
    """
    row = json_object(line)
    if unknown := row.keys() - set(KEYS):
        raise InputError(f"unknown keys {sorted(unknown)}; allowed are {', '.join(KEYS)}")
    context, response, candidates = (row.get(key) for key in KEYS)
    if not is_texts(context):
        raise InputError("context must be a list of texts, oldest turn first")
    if not isinstance(response, str) or not response.strip():
        raise InputError("response must be a text that is not empty")
    if candidates is not None and not (is_texts(candidates) and candidates):
        raise InputError("candidates must be a list of texts, or be left out")
    if candidates is not None and response.strip() not in {text.strip() for text in candidates}:
        raise InputError("the response is not among the candidates")
    return Example(context, response, candidates)


def is_texts(value) -> bool:
    """Tell whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
