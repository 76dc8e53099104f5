"""WikiQA: Bing queries, and which sentences of a Wikipedia article's opening answer them.

Source     https://www.microsoft.com/en-us/download/details.aspx?id=52419 (WikiQACorpus.zip)
Licence    Microsoft Research Data License: research, no redistribution
Paper      Yang, Yih and Meek 2015, https://aclanthology.org/D15-1237
Sizes      questions with a right answer: train 873, valid 126, test 243; 8,672 / 1,130 / 2,351 sentences
Context    the question
Candidates every sentence of the article's opening, in its order; `response` is the first right one, `others` the rest
Files      either the official `WikiQA-{train,dev,test}.tsv`,
           or `{train,dev,test}/{a.toks,b.toks,sim.txt,id.txt}`: question, sentence, label, question's number a line

Questions without any right answer are left out (1,245 / 170 / 390 of them), as in the paper's table and in `eval.py` of
the official package. Questions whose sentences are all right stay.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from poly_agents.agents.teachers.examples import Example
from poly_agents.agents.teachers.reading import columns
from poly_agents.agents.teachers.response import ResponseTeacher
from poly_agents.errors import InputError

HEADER = "QuestionID\tQuestion\tDocumentID\tDocumentTitle\tSentenceID\tSentence\tLabel"


class Answer(NamedTuple):
    """One candidate of one question."""

    question_id: str
    question: str
    text: str
    right: bool


class WikiqaTeacher(ResponseTeacher):
    """`-t poly_agents:wikiqa --data-files FOLDER`"""

    WHERE = (
        "the licence does not allow to redistribute WikiQACorpus.zip: get it from "
        "https://www.microsoft.com/en-us/download/details.aspx?id=52419 (ParlAI has a copy, "
        "http://parl.ai/downloads/wikiqa/wikiqa.tar.gz, sha256 "
        "9bb8851dfa8db89a209480e65a3d8967d8bbdf94d5d17a364c0381b0b7609412), unpack it and give the folder with "
        "WikiQA-train.tsv, WikiQA-dev.tsv and WikiQA-test.tsv as --data-files"
    )

    def read(self, split):
        name = "dev" if split == "valid" else split
        path = self.path(f"WikiQA-{name}.tsv", f"{name}/id.txt")
        if path.name.startswith("id.txt"):
            return examples(self.tokens(name))
        return examples(answer for answer in self.rows(path, parse) if answer)

    def tokens(self, name: str) -> Iterator[Answer]:
        """Read the four files whose lines belong together."""
        files = [self.path(f"{name}/{file}") for file in ("id.txt", "a.toks", "b.toks", "sim.txt")]
        columns = [list(self.rows(file, str.strip)) for file in files]
        if len({len(column) for column in columns}) > 1:
            counts = ", ".join(f"{file.name} {len(column)}" for file, column in zip(files, columns, strict=True))
            raise InputError(f"{files[0].parent}: the files must have as many lines each, got {counts}")
        for number, (question_id, question, text, label) in enumerate(zip(*columns, strict=True), 1):
            try:
                yield Answer(question_id, question, text, is_right(label))
            except ValueError as error:
                self.bad(f"{files[-1]}:{number}", error)


def parse(line: str) -> Answer | None:
    """Parse a row of the official file. Returns None for its header."""
    if line == HEADER:
        return None
    question_id, question, _, _, _, text, label = columns(line, 7)
    return Answer(question_id, question, text, is_right(label))


def is_right(label: str) -> bool:
    """Parse a label. Raises ValueError if it is neither 0 nor 1."""
    if label not in ("0", "1"):
        raise InputError(f"the label is 0 or 1, got {label!r}")
    return label == "1"


def examples(answers: Iterable[Answer]) -> Iterator[Example]:
    """Make an example of every question that has a right answer, in the order of the file."""
    questions: dict[str, list[Answer]] = {}
    for answer in answers:
        questions.setdefault(answer.question_id, []).append(answer)
    for group in questions.values():
        right = list(dict.fromkeys(answer.text for answer in group if answer.right))
        if right:
            yield Example([group[0].question], right[0], [answer.text for answer in group], right[1:])
