"""TrecQA: factoid questions of TREC 8-13, and which sentences of the judged documents answer them.

Source     https://github.com/brmson/dataset-sts, data/anssel/wang (sentences of less than 40 tokens)
Licence    "derived from TREC questions, public domain", says the repository; the sentences are news of TREC's
           collections, which are for research
Paper      Wang, Smith and Mitamura 2007, https://aclanthology.org/D07-1003;
           the two ways to count: Rao, He and Lin 2016, https://doi.org/10.1145/2983323.2983872
Sizes      questions (sentences): train 78 (4,619), valid 65 (1,117), test 68 (1,442);
           `:raw` 83 (4,625), 78 (1,134), 89 (1,478)
Context    the question
Candidates every sentence judged, in the file's order; `response` is the first right one, `others` the rest
Files      `{train,dev,test}.csv` with the columns qtext, label, atext; `train` is the small part that people judged,
           `train-all.csv` (1,229 questions, judged by patterns) is read by `:all` and `:all:raw`

Questions without any right answer are left out, as trec_eval does. The usual numbers ("clean") also leave out questions
whose sentences are all right; `-t poly_agents:trecqa:raw` keeps them.
"""

from collections.abc import Iterator

from poly_agents.agents.teachers.examples import Example
from poly_agents.agents.teachers.reading import csv_fields
from poly_agents.agents.teachers.response import ResponseTeacher, variant
from poly_agents.errors import InputError
from poly_agents.files.download import Download
from poly_agents.tasks.wikiqa import Answer, examples, is_right

SITE = "https://raw.githubusercontent.com/brmson/dataset-sts/master/data/anssel/wang"
COLUMNS = ["qtext", "label", "atext"]


class TrecqaTeacher(ResponseTeacher):
    """`-t poly_agents:trecqa`, `-t poly_agents:trecqa:raw`"""

    FILES = (
        Download(f"{SITE}/train.csv", "train.csv", "b3398769dee040bceb5ca4ffe49eaa9096e71c9533432031f3bddfdb3dee7a8f"),
        Download(f"{SITE}/dev.csv", "dev.csv", "3c266ccaa633e929515bc8643a0615c05f64d2fb62b3a687d85ff7fabdf79a6a"),
        Download(f"{SITE}/test.csv", "test.csv", "5aaf688f8c79a0eab96c77dcc8919e82006169712a799aa97343588000769288"),
        Download(f"{SITE}/train-all.csv", "train-all.csv"),
    )

    def read(self, split) -> Iterator[Example]:
        kinds = variant(self.opt["task"], ("", "raw", "all", "all:raw")).split(":")
        name = {"valid": "dev", "train": "train-all" if "all" in kinds else "train"}.get(split, split)
        for example in examples(answer for answer in self.rows(self.path(f"{name}.csv"), parse) if answer):
            if "raw" in kinds or set(example.candidates) - {example.response, *example.others}:
                yield example


def parse(line: str) -> Answer | None:
    """Parse a row. Returns None for the header."""
    fields = csv_fields(line)
    if fields == COLUMNS:
        return None
    if len(fields) != len(COLUMNS):
        raise InputError(f"a row has the columns {', '.join(COLUMNS)}; got {len(fields)}")
    question, label, text = fields
    return Answer(question, question, text, is_right(label))
