"""DSTC7 track 1, NOESIS: the next utterance of a two-party conversation, from #ubuntu or with a student's advisor.

Source   https://ibm.github.io/dstc-noesis; Ubuntu's subtask 1 also http://parl.ai/downloads/dstc7/dstc7_v2.tgz
Licence  none is stated
Paper    Gunasekara et al. 2019, "DSTC7 Task 1: Noetic End-to-End Response Selection"
Sizes    Ubuntu 100,000 train, 5,000 valid, 1,000 test
Format   a JSON list of objects with `messages-so-far`, `options-for-next`, `options-for-correct-answers`; the answers
         of test apart, `example id TAB candidate id TAB utterance`, the id being `NONE` where no candidate is right
Eval     100 candidates; in subtask 2 the whole pool of 120,000; in subtask 4 also "none of these", which may be right
Context  of Advising, what is known of the student; then every message, `participant 1: ...`, `student: ...`

Variants: Ubuntu's subtask 1 without one, `subtask_2`, `subtask_4`, `advising`, `advising_subtask_4`. Training sets
after Humeau et al. 2020, made here of the plain one: `augmented` adds, as examples of their own, all that the one who
answers said before, without candidates; `sampled` gives each of these 16, its response and others of the training set.
The order of the candidates is ParlAI's. `--submission FILE --submission-format dstc7` writes what the track takes.
"""

import gzip
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from poly_agents.files.download import Download
from poly_agents.tasks import variant
from poly_agents.tasks.response import Example, ResponseTeacher, draw_candidates

FILES = (
    Download(
        "http://parl.ai/downloads/dstc7/dstc7_v2.tgz",
        "dstc7_v2.tgz",
        "cc8fd830f9894768ab4f7b104cddd4105456812ab614041337ec12c5a3a56685",
        archive=True,
    ),
)
WHERE = (
    "all but Ubuntu's subtask 1 come from https://ibm.github.io/dstc-noesis; the names here are ours, after those of "
    "that subtask: of DATA (ubuntu, advising) and subtask N DATA_train_subtask_N.json, DATA_dev_subtask_N.json, "
    "DATA_test_subtask_N.json (of Advising's two test sets the one to be measured on), its answers "
    "DATA_responses_subtask_N.tsv, and the pool of subtask 2 DATA_candidates_subtask_2.tsv: a candidate's id, a tab "
    "and its utterance a line"
)
NONE = "none of these"  # the candidate that is right where no other is
SAMPLED = 16
CHUNK, LARGEST = 1 << 20, 1 << 26  # characters read at once; of one example at most
Answers = dict[str, str]  # utterance -> its id
BETWEEN = re.compile(r"[\s,]*")


class Source(NamedTuple):
    """Which files, and how they are read."""

    data: str = "ubuntu"
    subtask: int = 1
    none: bool = False  # whether "none of these" is a candidate
    pool: bool = False  # whether all examples have the same candidates
    train: str = ""


class Dstc7Teacher(ResponseTeacher):
    """`-t poly_agents:dstc7`, `-t poly_agents:dstc7:augmented` ..."""

    variants = {
        "": Source(),
        "augmented": Source(train="augmented"),
        "sampled": Source(train="sampled"),
        "subtask_2": Source(subtask=2, pool=True),
        "subtask_4": Source(subtask=4, none=True),
        "advising": Source("advising"),
        "advising_subtask_4": Source("advising", 4, none=True),
    }
    names = "{data}_{part}_subtask_{subtask}.json"
    answers = "{data}_responses_subtask_{subtask}.tsv"
    pools = "{data}_candidates_subtask_{subtask}.tsv"

    @property
    def source(self) -> Source:
        return self.variants[variant(self.opt["task"], self.variants)]

    def file(self, name: str, **values) -> Path:
        return self.path(name.format(**self.source._asdict() | values))

    def read(self, split):
        source = self.source
        path = self.file(self.names, part={"train": "train", "valid": "dev", "test": "test"}[split])
        answers = self.read_answers() if split == "test" else None
        pool = self.read_pool() if source.pool else None
        examples = self.read_examples(path, answers, pool, split == "train" and source.train != "")
        return draw_candidates([*examples], "dstc7:sampled", SAMPLED) if self.sampled(split) else examples

    def sampled(self, split: str) -> bool:
        return split == "train" and self.source.train == "sampled"

    def read_examples(
        self, path: Path, answers: dict[str, Answers] | None, pool: Answers | None, augmented: bool
    ) -> Iterator[Example]:
        texts: dict[str, str] = {}  # most candidates are those of other examples too: every text is held once
        shared = ([*pool], [*pool.values()]) if pool else None
        for number, row in enumerate(objects(path)):
            try:
                right = answers[str(row["example-id"])] if answers is not None else right_answers(row)
                example = self.example(row, right, shared, number)
                earlier = [*earlier_answers(row)] if augmented else []
                if pool and example.response not in pool:
                    raise ValueError("the right answer is not in the pool")
            except (ValueError, KeyError, TypeError) as error:
                self.bad(f"{path}: example {number + 1}", error)
                continue
            yield from earlier
            if augmented:
                yield example._replace(candidates=None)
            elif pool is None:
                yield example._replace(candidates=[texts.setdefault(text, text) for text in example.candidates])
            else:
                yield example

    def example(self, row: dict, right: Answers, pool: tuple[list[str], list[str]] | None, number: int) -> Example:
        """One object to an example. Raises ValueError, KeyError or TypeError for a bad one."""
        if not right and not self.source.none:
            raise ValueError("there is no right answer")
        context = [*profile(row.get("profile")), *map(said, row["messages-so-far"])]
        response, *others = right or [NONE]
        if pool is not None:
            return Example(context, response, pool[0], others, id=row["example-id"], candidate_ids=pool[1])
        candidates = [(option["utterance"], option["candidate-id"]) for option in row["options-for-next"]]
        candidates += [(NONE, "NONE")] * self.source.none
        if response not in (text for text, _ in candidates):
            candidates = [*right.items(), *candidates]
        random.Random(number).shuffle(candidates)
        texts, ids = map(list, zip(*candidates, strict=True))
        ids = None if self.split == "train" else ids  # ten million of them, and nobody asks
        return Example(context, response, texts, others, id=row["example-id"], candidate_ids=ids)

    def read_answers(self) -> dict[str, Answers]:
        """example id -> right answers of the test set, none for `NONE`."""
        found: dict[str, Answers] = {}
        for example, candidate, *text in self.rows(self.file(self.answers), lambda line: split_row(line, 2)):
            found.setdefault(example, {}).update({text[0]: candidate} if candidate != "NONE" else {})
        return found

    def read_pool(self) -> Answers:
        """The candidates of every example, in the file's order."""
        pool: Answers = {}
        for candidate, text, *_ in self.rows(self.file(self.pools), lambda line: split_row(line, 2)):
            pool.setdefault(text, candidate)
        return pool

    def chat_candidates(self):
        return iter(self.read_pool()) if self.source.pool else super().chat_candidates()


def said(message: dict) -> str:
    return f"{message['speaker'].replace('_', ' ')}: {message['utterance']}"


def right_answers(row: dict) -> Answers:
    return {answer["utterance"]: answer["candidate-id"] for answer in row.get("options-for-correct-answers") or []}


def earlier_answers(row: dict) -> Iterator[Example]:
    """What the one who answers said before, each with its own context."""
    messages = row["messages-so-far"]
    for place, message in enumerate(messages):
        if place and message["speaker"] != messages[-1]["speaker"]:
            yield Example([*map(said, messages[:place])], message["utterance"])


def profile(given: dict[str, Any] | None) -> Iterator[str]:
    """What an advisor knows of the student, as lines of a persona."""
    courses = (given or {}).get("Courses", {})
    for name, key in (("courses taken", "Prior"), ("courses to suggest", "Suggested")):
        if names := [course["offering"].split("-")[0] for course in courses.get(key, [])]:
            yield f"partner's persona: {name}: {', '.join(dict.fromkeys(names))}"
    for key in ("Standing", "Term"):
        if value := (given or {}).get(key):
            words = value.values() if isinstance(value, dict) else [value]
            yield f"partner's persona: {key.lower()}: {' '.join(map(str, words))}"


def split_row(line: str, least: int) -> list[str]:
    parts = line.split("\t")
    if len(parts) < least:
        raise ValueError(f"at least {least} columns parted by tabs, got {len(parts)}")
    return parts


def objects(path: Path) -> Iterator[dict]:
    """Every object of a JSON list that may be larger than memory."""
    read = json.JSONDecoder().raw_decode
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        text, place, count = file.read(CHUNK), 0, 0
        if not text.lstrip().startswith("["):
            raise ValueError(f"{path}: a JSON list is expected")
        place = text.index("[") + 1
        while not text.startswith("]", place := BETWEEN.match(text, place).end()):
            try:
                row, place = read(text, place)
            except json.JSONDecodeError as error:
                more = file.read(CHUNK)
                if not more or len(text) - place > LARGEST:
                    raise ValueError(f"{path}: after {count} examples: {error}") from error
                text, place = text[place:] + more, 0
                continue
            count += 1
            yield row
