"""SNLI: does a sentence follow from another, contradict it, or neither?

Source     https://nlp.stanford.edu/projects/snli/snli_1.0.zip
Licence    CC BY-SA 4.0
Paper      Bowman et al. 2015, https://aclanthology.org/D15-1075
Sizes      pairs with a label: train 549,367, valid 9,842, test 9,824
Context    two turns, "Premise: ..." and "Hypothesis: ..."
Candidates entailment, contradiction, neutral
Files      `snli_1.0_{train,dev,test}.jsonl` of the archive

Pairs on whose label the annotators did not agree ("-") are left out. The examples equal those of ParlAI's task `snli`.
"""

from collections.abc import Iterator

from poly_agents.agents.teachers.examples import Example
from poly_agents.agents.teachers.reading import json_object, text_at
from poly_agents.agents.teachers.response import ResponseTeacher
from poly_agents.errors import InputError
from poly_agents.files.download import Download

LABELS = ("entailment", "contradiction", "neutral")


class SnliTeacher(ResponseTeacher):
    """`-t poly_agents:snli`"""

    FILES = (
        Download(
            "https://nlp.stanford.edu/projects/snli/snli_1.0.zip",
            "snli_1.0.zip",
            "afb3d70a5af5d8de0d9d81e2637e0fb8c22d1235c2749d83125ca43dab0dbd3e",
            archive=True,
        ),
    )
    names = {"train": "snli_1.0_train.jsonl", "valid": "snli_1.0_dev.jsonl", "test": "snli_1.0_test.jsonl"}

    def read(self, split) -> Iterator[Example]:
        return (example for example in self.rows(self.path(self.names[split]), parse) if example)


def parse(line: str) -> Example | None:
    """Parse a pair. Returns None if it has no label."""
    row = json_object(line)
    premise, hypothesis, label = (text_at(row, key) for key in ("sentence1", "sentence2", "gold_label"))
    if label == "-":
        return None
    if label not in LABELS:
        raise InputError(f"gold_label is one of {', '.join(LABELS)} or -, got {label!r}")
    premise, hypothesis = (text.strip("\n").strip("\t") for text in (premise, hypothesis))
    return Example([f"Premise: {premise}", f"Hypothesis: {hypothesis}"], label, LABELS)
