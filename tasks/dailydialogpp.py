"""DailyDialog++: contexts of DailyDialog with five written responses, five adversarial ones and five of other contexts.

Source   https://iitmnlp.github.io/DailyDialog-plusplus
Licence  none is stated; DailyDialog's is CC BY-NC-SA 4.0
Paper    Sai et al. 2020, https://arxiv.org/abs/2009.11321
Sizes    19,071 contexts, of which 11,429 have adversarial responses: all of valid and test, 9,259 of train
Format   a JSON object a line: `context`, `positive_responses`, `random_negative_responses`,
         `adversarial_negative_responses`
Eval     15 candidates, five of them right; 10 with a variant
Context  every turn

Variants: `random` and `adversarial` leave the other wrong responses out, `adversarial` also contexts without any. In
training every right response is an example of its own.
"""

import json
import random

from poly_agents.tasks import variant
from poly_agents.tasks.response import Example, ResponseTeacher

WHERE = (
    "https://iitmnlp.github.io/DailyDialog-plusplus links to an archive; --data-files is the folder with train.json, "
    "dev.json and test.json"
)
KINDS = {"": ("random", "adversarial"), "random": ("random",), "adversarial": ("adversarial",)}


class DailydialogppTeacher(ResponseTeacher):
    """`-t poly_agents:dailydialogpp`, `-t poly_agents:dailydialogpp:adversarial`"""

    def read(self, split):
        kinds = KINDS[variant(self.opt["task"], KINDS)]
        path = self.path(f"{'dev' if split == 'valid' else split}.json")
        for number, (context, right, wrong) in enumerate(self.rows(path, lambda line: parse(line, kinds))):
            if not wrong:
                continue
            for responses in [[text] for text in right] if split == "train" else [right]:
                candidates = [*responses, *wrong]
                random.Random(number).shuffle(candidates)
                yield Example(context, responses[0], candidates, responses[1:])


def parse(line: str, kinds: tuple[str, ...]) -> tuple[list[str], list[str], list[str]]:
    """Context, right and wrong responses. Raises ValueError, KeyError or TypeError for a bad line."""
    row = json.loads(line)
    right = texts(row["positive_responses"])
    wrong = [text for kind in kinds for text in texts(row[f"{kind}_negative_responses"])]
    context = texts(row["context"])
    if not context or not right:
        raise ValueError("a context and positive_responses are expected")
    return context, right, wrong


def texts(given: list[str]) -> list[str]:
    return [text for text in (" ".join(text.split()) for text in given) if text]
