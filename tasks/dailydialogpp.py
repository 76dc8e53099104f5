"""DailyDialog++: contexts of DailyDialog with five written responses, five adversarial ones and five of other contexts.

Source   https://iitmnlp.github.io/DailyDialog-plusplus
Licence  none is stated for the data (the site's repository is MIT); DailyDialog's is CC BY-NC-SA 4.0
Paper    Sai et al. 2020, https://arxiv.org/abs/2009.11321
Sizes    contexts with adversarial responses: train 9,259, valid 1,028, test 1,142; 7,641 more without, for training
Format   a JSON object a line: `context`, `positive_responses`, `random_negative_responses`,
         `adversarial_negative_responses`; `data_positives.json` holds the contexts without adversarial responses and
         has the first two keys alone
Eval     15 candidates, five of them right; 10 with a variant
Context  every turn

Every right response is a training example of its own. Variants: `random` and `adversarial` have only these wrong
responses; `positives` trains on `train.json` and `data_positives.json` together, without candidates, and evaluates like
the plain task.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

from poly_agents.agents.teachers.examples import Example
from poly_agents.agents.teachers.reading import json_object, texts_at
from poly_agents.agents.teachers.response import ResponseTeacher, variant
from poly_agents.errors import InputError
from poly_agents.files.download import Download
from poly_agents.tasks.dailydialog import clean

SITE = "https://iitmnlp.github.io/DailyDialog-plusplus/dataset"
KINDS = {  # variant -> which wrong responses are candidates
    "": ("random", "adversarial"),
    "random": ("random",),
    "adversarial": ("adversarial",),
    "positives": ("random", "adversarial"),
}


class Row(NamedTuple):
    """A line of a file: a context with its right and wrong responses."""

    context: list[str]
    right: list[str]
    wrong: list[str]


class DailydialogppTeacher(ResponseTeacher):
    """`-t poly_agents:dailydialogpp`, `-t poly_agents:dailydialogpp:adversarial`"""

    FILES = tuple(Download(f"{SITE}/{name}", name) for name in ("train.json", "dev.json", "test.json"))
    WHERE = (
        "the pages of https://iitmnlp.github.io/DailyDialog-plusplus link to train.json, dev.json and test.json; "
        "data_positives.json, which only dailydialogpp:positives reads, lies beside them in the authors' repository"
    )

    def read(self, split) -> Iterator[Example]:
        name = variant(self.opt["task"], KINDS)
        if split == "train" and name == "positives":
            yield from self.positives()
            return
        path = self.path(f"{'dev' if split == 'valid' else split}.json")
        for number, row in enumerate(self.rows(path, lambda line: parse(line, KINDS[name]))):
            if not row.wrong:
                continue
            for responses in [[text] for text in row.right] if split == "train" else [row.right]:
                candidates = [*responses, *row.wrong]
                random.Random(number).shuffle(candidates)
                yield Example(row.context, responses[0], candidates, responses[1:])

    def positives(self) -> Iterator[Example]:
        """Yield every right response of both training files, without candidates."""
        for path in dict.fromkeys(self.path(name) for name in ("train.json", "data_positives.json")):
            for row in self.rows(path, lambda line: parse(line, ())):
                yield from (Example(row.context, response) for response in row.right)


def parse(line: str, kinds: tuple[str, ...]) -> Row:
    """Parse a line, with the wrong responses of some kinds. Raises ValueError or KeyError for a bad line."""
    row = json_object(line)
    keys = [f"{kind}_negative_responses" for kind in kinds]
    if lacking := [key for key in keys if key not in row]:
        raise InputError(
            f"there is no {lacking[0]}: rows without them, as in data_positives.json, are for training with "
            "-t poly_agents:dailydialogpp:positives"
        )
    right, context = clean(texts_at(row, "positive_responses")), clean(texts_at(row, "context"))
    wrong = [text for key in keys for text in clean(texts_at(row, key))]
    if not context or not right:
        raise InputError("a context and positive_responses are expected")
    return Row(context, right, wrong)
