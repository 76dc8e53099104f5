"""Your own data: one JSON object a line.

    {"context": ["hi", "hello, how are you?"], "response": "fine", "candidates": ["fine", "no"]}

`--jsonl-path` (or `--data-files`) is a folder with `train.jsonl`, `valid.jsonl` and `test.jsonl`, or one file, which
then is every split. Without `candidates`, evaluation draws 19 others from the same file, always the same ones; for that
it holds the examples in memory, in a stream too.
"""

import copy
from collections.abc import Iterator
from pathlib import Path

from parlai.utils import logging
from parlai.utils.misc import warn_once

from poly_agents.tasks.response import CANDIDATES, Example, ResponseTeacher, draw_candidates, json_object


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
        logging.info(f"drawing {CANDIDATES} candidates for each {split} example")
        return draw_candidates(list(self.examples_of(split)), f"jsonl:{split}")

    def examples_of(self, split: str) -> Iterator[Example]:
        """The lines of a split."""
        return self.rows(self.file(split), parse)

    def count(self, split):
        if self.opt.get("skip_bad_rows"):
            return sum(1 for _ in copy.copy(self).examples_of(split))
        return sum(1 for _ in self.rows(self.file(split), str))  # every line is an example, or will be refused

    def file(self, split: str) -> Path:
        given = self.opt.get("jsonl_path") or self.opt.get("data_files")
        if not given:
            raise ValueError("-t poly_agents:jsonl needs --jsonl-path, a file or a folder")
        path = Path(given)
        if path.is_file():
            if split != "train":
                warn_once(f"{path} is read for {split} as for training; a folder keeps the splits apart")
            return path
        for file in (path / f"{split}.jsonl", path / f"{split}.jsonl.gz"):
            if file.is_file():
                return file
        raise ValueError(f"--jsonl-path {path}: there is no file {path / f'{split}.jsonl'}")


def parse(line: str) -> Example:
    """One JSON object to an example. Raises ValueError with the reason."""
    row = json_object(line)
    if unknown := row.keys() - {"context", "response", "candidates"}:
        raise ValueError(f"unknown keys {sorted(unknown)}; allowed are context, response, candidates")
    context, response, candidates = (row.get(key) for key in ("context", "response", "candidates"))
    if not is_texts(context):
        raise ValueError("context must be a list of texts, oldest turn first")
    if not isinstance(response, str) or not response.strip():
        raise ValueError("response must be a text that is not empty")
    if candidates is not None and not (is_texts(candidates) and candidates):
        raise ValueError("candidates must be a list of texts, or be left out")
    if candidates is not None and response.strip() not in {text.strip() for text in candidates}:
        raise ValueError("the response is not among the candidates")
    return Example(context, response, candidates)


def is_texts(value) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
