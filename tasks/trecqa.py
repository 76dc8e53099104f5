"""TrecQA: factoid questions of TREC 8-13, and which sentences of the judged documents answer them.

Source     https://github.com/brmson/dataset-sts, data/anssel/wang (sentences of less than 40 tokens)
Licence    research; TREC's questions are public, the sentences are news of its collections
Paper      Wang, Smith and Mitamura 2007, https://aclanthology.org/D07-1003;
           the two ways to count: Rao, He and Lin 2016, https://doi.org/10.1145/2983323.2983872
Sizes      questions (sentences): train 78 (4,619), valid 65 (1,117), test 68 (1,442);
           `:raw` 83 (4,625), 78 (1,134), 89 (1,478)
Context    the question
Candidates every sentence judged, in the file's order; `response` is the first right one, `others` the rest
Files      `{train,dev,test}.csv` with the columns qtext, label, atext; `train` is the small part judged by hand,
           `train-all.csv` (1,229 questions, judged by patterns) is read for `:all` and `:all:raw`

Questions without any right answer are left out, as trec_eval does. The usual numbers ("clean") leave out those whose
sentences are all right as well; `-t poly_agents:trecqa:raw` keeps them.
"""

import csv
from collections.abc import Iterator

from poly_agents.files.download import Download
from poly_agents.tasks import variant
from poly_agents.tasks.response import Example, ResponseTeacher
from poly_agents.tasks.wikiqa import Answer, examples, is_right

_ROOT = "https://raw.githubusercontent.com/brmson/dataset-sts/master/data/anssel/wang"
FILES = tuple(Download(f"{_ROOT}/{name}", name) for name in ("train.csv", "train-all.csv", "dev.csv", "test.csv"))
COLUMNS = ["qtext", "label", "atext"]


class TrecqaTeacher(ResponseTeacher):
    """`-t poly_agents:trecqa --data-files FOLDER`, `-t poly_agents:trecqa:raw`"""

    def read(self, split) -> Iterator[Example]:
        kinds = variant(self.opt["task"], ("", "raw", "all", "all:raw")).split(":")
        name = {"valid": "dev", "train": "train-all" if "all" in kinds else "train"}.get(split, split)
        for example in examples(answer for answer in self.rows(self.path(f"{name}.csv"), parse) if answer):
            if "raw" in kinds or set(example.candidates) - {example.response, *example.others}:
                yield example


def parse(line: str) -> Answer | None:
    """A row; None for the header."""
    try:
        (fields,) = csv.reader([line], strict=True)
    except csv.Error as error:
        raise ValueError(f"not a row of a CSV file: {error}") from error
    if fields == COLUMNS:
        return None
    if len(fields) != len(COLUMNS):
        raise ValueError(f"a row has the columns {', '.join(COLUMNS)}; got {len(fields)}")
    question, label, text = fields
    return Answer(question, question, text, is_right(label))
