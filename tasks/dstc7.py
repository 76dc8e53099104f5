"""DSTC7 track 1, NOESIS: the next utterance of a two-party conversation, from #ubuntu or with a student's advisor.

Source   https://ibm.github.io/dstc-noesis/public/datasets.html has a link to every file (share pages on Box, to be
         downloaded by hand); Ubuntu's subtask 1 is also http://parl.ai/downloads/dstc7/dstc7_v2.tgz
Licence  none is stated for the data; the organisers' code is MIT
Paper    Gunasekara et al. 2019, "DSTC7 Task 1: Noetic End-to-End Response Selection"
Sizes    Ubuntu 100,000 train, 5,000 valid, 1,000 test
Format   a JSON list of objects with `messages-so-far`, `options-for-next`, `options-for-correct-answers`; test has its
         answers apart, `example id TAB candidate id TAB utterance`. Several ids are separated by commas; the id is
         `NONE` if no candidate is right
Files    see `names`: the organisers' names, and those that many people give to the files
Eval     100 candidates; in subtask 2 a pool of 120,000, the same for train, valid and test; in subtask 4 also "none of
         these", which may be right
Context  of Advising, what is known of the student; then every message, `participant 1: ...`, `student: ...`

Without a variant this is Ubuntu's subtask 1. The others: `subtask_2`, `subtask_4`, `advising`, `advising_subtask_4`.
Advising has two test sets, case 1 and case 2; `advising_case_2` and `advising_subtask_4_case_2` are measured on the
second. Training sets after Humeau et al. 2020 are made here from the plain one: `augmented` adds every earlier message
of the speaker who answers as an example of its own, without candidates; `sampled` gives each of these 16 candidates,
its response and others of the training set. The candidates are shuffled like ParlAI's.
`--submission FILE` writes what the track takes. Subtasks 3 and 5 are not read.
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from poly_agents.agents.teachers.examples import Example, draw_candidates
from poly_agents.agents.teachers.reading import BAD_ROW, as_id, list_at, open_text, text_at, valid_text
from poly_agents.agents.teachers.response import ResponseTeacher, variant
from poly_agents.errors import InputError
from poly_agents.files.download import Download

NONE = "none of these"  # the candidate that is right if no other one is
SAMPLED = 16
CHUNK = 1 << 20  # characters read at once
LARGEST = 1 << 26  # characters of one example at most
BETWEEN = re.compile(r"[\s,]*")
PARTS = {"train": "train", "valid": "dev", "test": "test"}  # split -> its part of a file's name

Id = str | int  # as the file has it
Utterances = dict[str, Id]  # utterance -> its candidate id


class Source(NamedTuple):
    """The files and candidates of a variant.

    Attributes:
        data: `ubuntu` or `advising`.
        subtask: the number of the subtask.
        none: "none of these" is a candidate.
        pool: all examples have the same candidates.
        train: the training set is `augmented` or `sampled`.
        case: the end of a test file's name, which says which of Advising's test sets it is.
    """

    data: str = "ubuntu"
    subtask: int = 1
    none: bool = False
    pool: bool = False
    train: str = ""
    case: str = ""


class Answers:
    """The right answers of a test set, from rows of example id, candidate ids and, if it is given, the utterance."""

    def __init__(self, rows: Iterator[list[str]]):
        self.rows: dict[str, list[list[str]]] = {}
        for example, *row in rows:
            self.rows.setdefault(example, []).append(row)

    def of(self, row: dict) -> Utterances:
        """Return the right utterances of an example, none for `NONE`. Raises KeyError, or ValueError for a lost id."""
        known = {str(candidate): text for text, candidate in options(row, "options-for-next")}
        right: Utterances = {}
        for ids, *text in self.rows[str(row["example-id"])]:
            candidates = [candidate.strip() for candidate in ids.split(",")]
            for candidate in candidates:
                if candidate == "NONE":
                    continue
                if text and len(candidates) == 1:
                    right[text[0]] = candidate
                elif candidate in known:
                    right[known[candidate]] = candidate
                else:
                    raise InputError(f"the right answer {candidate!r} is not among the candidates")
        return right


class Dstc7Teacher(ResponseTeacher):
    """`-t poly_agents:dstc7`, `-t poly_agents:dstc7:augmented` ..."""

    FILES = (
        Download(
            "http://parl.ai/downloads/dstc7/dstc7_v2.tgz",
            "dstc7_v2.tgz",
            "cc8fd830f9894768ab4f7b104cddd4105456812ab614041337ec12c5a3a56685",
            archive=True,
        ),
    )
    SUBMISSIONS = ("dstc7",)
    WHERE = (
        "only Ubuntu's subtask 1 can be downloaded; get the other files by hand from "
        "https://ibm.github.io/dstc-noesis/public/datasets.html (the pool of subtask 2: "
        "https://ibm.box.com/s/uyzbhvt6zuowg120qzin099fbcijc2bp) and give their folder as --data-files"
    )
    variants = {
        "": Source(),
        "augmented": Source(train="augmented"),
        "sampled": Source(train="sampled"),
        "subtask_2": Source(subtask=2, pool=True),
        "subtask_4": Source(subtask=4, none=True),
        "advising": Source("advising"),
        "advising_case_2": Source("advising", case="_case2"),
        "advising_subtask_4": Source("advising", 4, none=True),
        "advising_subtask_4_case_2": Source("advising", 4, none=True, case="_case2"),
    }

    @property
    def source(self) -> Source:
        return self.variants[variant(self.opt["task"], self.variants)]

    @staticmethod
    def names(source: Source, kind: str) -> list[str]:
        """List the names that a file may have. `kind` is train, dev, test, responses or candidates.

        >>> Dstc7Teacher.names(Source("advising"), "dev")
        ['advising_dev_subtask_1.json', 'advising.scenario-1.dev.json']
        """
        data, task = source.data, source.subtask
        case = source.case if kind in ("test", "responses") else ""
        ending = "json" if kind in PARTS.values() else "tsv"
        found = [f"{data}_{kind}_subtask_{task}{case}.{ending}"]
        if kind == "candidates":
            found.append(f"subtask_{task}_candidates.tsv")
        if data == "advising" and kind == "train":
            inner = f"may30.train.scenario-{task}.json"  # once it was packed under this name
            found += [f"advising.scenario-{task}.train.json", f"advising.scenario-{task}.train.json/{inner}", inner]
        elif data == "advising" and kind == "dev":
            found.append(f"advising.scenario-{task}.dev.json")
        elif data == "advising" and kind == "test":
            found += [f"test.blind.scenario-{task}{case}.json", f"test.blind.scenario0-{task}{case}.json"]
        elif data == "advising" and kind == "responses":
            found.append(f"advising.scenario-{task}.test.json.answers-{'case2' if case else 'case1'}.tsv")
        return found

    def file(self, kind: str) -> Path:
        return self.path(*self.names(self.source, kind))

    def read(self, split):
        answers = self.read_answers() if split == "test" else None
        examples = self.read_examples(self.file(PARTS[split]), answers, split == "train" and self.source.train != "")
        if split == "train" and self.source.train == "sampled":
            return draw_candidates([*examples], "dstc7:sampled", SAMPLED)
        return examples

    def read_examples(self, path: Path, answers: Answers | None, augmented: bool) -> Iterator[Example]:
        """Read the examples of a file; `answers` are those of a test set, `augmented` adds the earlier messages."""
        pool = self.read_pool() if self.source.pool else {}
        shared = ([*pool], [*pool.values()])  # one list for all examples
        texts: dict[str, str] = {}  # most candidates are those of other examples too: hold every text once
        for number, row in enumerate(objects(path)):
            try:
                as_id(row["example-id"], "example-id")
                right = right_answers(row) if answers is None else answers.of(row)
                example = self.example(row, right)
                earlier = [*earlier_answers(row)] if augmented else []
                if pool and example.response not in pool:
                    raise InputError("the right answer is not in the pool")
                found = shared if pool else self.candidates(row, right, number)
            except BAD_ROW as error:
                self.bad(f"{path}: example {number + 1}", error)
                continue
            yield from earlier
            if augmented:
                yield example
            elif pool:
                yield example._replace(candidates=found[0], candidate_ids=found[1])
            else:
                ids = None if self.split == "train" else found[1]  # ten million in train, and nobody asks for them
                known = [texts.setdefault(text, text) for text in found[0]]
                yield example._replace(candidates=known, candidate_ids=ids)

    def example(self, row: dict, right: Utterances) -> Example:
        """Make an example without candidates. Raises ValueError if nothing is right but something has to be."""
        if not right and not self.source.none:
            raise InputError("there is no right answer")
        response, *others = right or [NONE]
        return Example(context(row), response, None, others, id=row["example-id"])

    def candidates(self, row: dict, right: Utterances, number: int) -> tuple[list[str], list[Id]]:
        """Return the candidates of an example and their ids, shuffled as in ParlAI.

        A right answer that is not among them is added, as in ParlAI too.
        """
        if not (found := options(row, "options-for-next")):
            raise InputError("options-for-next must not be empty")
        if self.source.none:
            found.append((NONE, "NONE"))
        if next(iter(right), NONE) not in (text for text, _ in found):
            found = [*right.items(), *found]
        random.Random(number).shuffle(found)
        return [text for text, _ in found], [candidate for _, candidate in found]

    def read_answers(self) -> Answers:
        """Read the answers of the test set."""
        return Answers(self.rows(self.file("responses"), lambda line: split_row(line, 2)))

    def read_pool(self) -> Utterances:
        """Read the candidates of every example, in the file's order."""
        pool: Utterances = {}
        for candidate, text, *_ in self.rows(self.file("candidates"), lambda line: split_row(line, 2)):
            pool.setdefault(text, candidate)
        return pool

    def chat_candidates(self):
        return iter(self.read_pool()) if self.source.pool else super().chat_candidates()


def right_answers(row: dict) -> Utterances:
    """Return the right utterances of a training or validation example."""
    return dict(options(row, "options-for-correct-answers"))


def options(row: dict, key: str) -> list[tuple[str, Id]]:
    """Return the utterances that are listed under a key, each with its candidate id. There may be none."""
    found = []
    for option in list_at(row, key) if row.get(key) else ():
        as_id(option["candidate-id"], "candidate-id")
        found.append((valid_text(text_at(option, "utterance")), option["candidate-id"]))
    return found


def context(row: dict) -> list[str]:
    """Return what is known of the student, then every message."""
    return [*profile(row.get("profile")), *map(spoken, list_at(row, "messages-so-far"))]


def spoken(message: dict) -> str:
    """Write a message with its speaker.

    >>> spoken({"speaker": "participant_1", "utterance": "hi"})
    'participant 1: hi'
    """
    return f"{text_at(message, 'speaker').replace('_', ' ')}: {valid_text(text_at(message, 'utterance'))}"


def earlier_answers(row: dict) -> Iterator[Example]:
    """Make an example of every earlier message of the speaker who answers."""
    messages = row["messages-so-far"]
    for place, message in enumerate(messages):
        if place and message["speaker"] != messages[-1]["speaker"]:
            yield Example([*map(spoken, messages[:place])], message["utterance"])


def profile(given: dict[str, Any] | None) -> Iterator[str]:
    """Write what an advisor knows of the student as persona lines."""
    courses = (given or {}).get("Courses", {})
    for name, key in (("courses taken", "Prior"), ("courses to suggest", "Suggested")):
        if names := [course["offering"].split("-")[0] for course in courses.get(key, [])]:
            yield f"partner's persona: {name}: {', '.join(dict.fromkeys(names))}"
    for key in ("Standing", "Term"):
        if value := (given or {}).get(key):
            words = value.values() if isinstance(value, dict) else [value]
            yield f"partner's persona: {key.lower()}: {' '.join(map(str, words))}"


def split_row(line: str, least: int) -> list[str]:
    """Split a line at its tabs into at least so many columns."""
    parts = line.split("\t")
    if len(parts) < least:
        raise InputError(f"at least {least} columns separated by tabs, got {len(parts)}")
    return parts


def objects(path: Path) -> Iterator[dict]:
    """Yield every object of a JSON list, which may be larger than memory."""
    read = json.JSONDecoder().raw_decode
    with open_text(path) as file:
        text, place, count = file.read(CHUNK), 0, 0
        if not text.lstrip().startswith("["):
            raise InputError(f"{path}: a JSON list is expected")
        place = text.index("[") + 1
        while not text.startswith("]", place := BETWEEN.match(text, place).end()):
            try:
                row, place = read(text, place)
            except json.JSONDecodeError as error:
                more = file.read(CHUNK)
                if not more or len(text) - place > LARGEST:
                    raise InputError(f"{path}: after {count} examples: {error}") from error
                text, place = text[place:] + more, 0
                continue
            except RecursionError as error:
                raise InputError(f"{path}: after {count} examples: lists or objects are nested too deeply") from error
            count += 1
            yield row
