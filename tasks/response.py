"""What every task here has in common: a context, its response, perhaps candidates, in an order that can be resumed."""

import copy
import gzip
import json
import random
import string
import sys
from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

from parlai.core.message import Message
from parlai.core.teachers import FixedDialogTeacher
from parlai.utils.data import DatatypeHelper
from parlai.utils.distributed import get_rank, num_workers
from parlai.utils.misc import warn_once

from poly_agents.files import download
from poly_agents.files.checkpoint import examples_seen
from poly_agents.text.turns import Format

CANDIDATES = 20  # of a context in evaluation, where the data set brings none


class Example(NamedTuple):
    context: Sequence[str]  # turns, oldest first
    response: str | None  # a right one; None where the data set keeps it to itself
    candidates: Sequence[str] | None = None
    others: Sequence[str] = ()  # more right ones
    grades: Sequence[float] | None = None  # of each candidate, where judgements are graded
    id: str | int | None = None  # what its leaderboard calls it
    candidate_ids: Sequence[str | int] | None = None  # and each of its candidates


class ResponseTeacher(FixedDialogTeacher, ABC):
    """One example is one episode: turns joined by newlines, one label, the candidates where there are any.

    Training goes through a new shuffle every epoch, made from `--seed` and the epoch's number: the same on every
    machine, and it goes on where a checkpoint stopped. The workers of a distributed run share the examples out, in
    training and in evaluation: of n workers each has every n-th one.

    With `:stream` in the datatype nothing is held but a look-ahead: examples come in the order of the files, or, with
    `--shuffle-buffer`, drawn from so many of them.
    """

    history_turns: int | None = None  # of a context, the newest ones, where --history-turns may say otherwise
    skipped = 0  # bad rows that were left out
    first_skipped = ""

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("data")
        group.add_argument("--data-files", help="where the files of the data set are: a folder, or one file")
        group.add_argument("--skip-bad-rows", type="bool", default=False, help="leave out rows that cannot be read")
        group.add_argument(
            "--shuffle-buffer", type=int, default=0, help="of -dt train:stream: examples to draw from; 0: files' order"
        )
        group.add_argument(
            "--speakers", type="bool", default=False, help="begin turns with who speaks, A or B; then chats do too"
        )
        if cls.history_turns:
            group.add_argument(
                "--history-turns", type=int, default=cls.history_turns, help="turns of context, the newest ones"
            )
        return parser

    def __init__(self, opt, shared=None):
        super().__init__(opt, shared)
        self.id = opt["task"]
        self.split = DatatypeHelper.fold(opt["datatype"])
        self.format = Format(speakers=bool(opt.get("speakers")))
        self.rank, self.workers = (0, 1) if opt.get("undivided") else (get_rank(), num_workers())
        self.stream: Stream | None = None
        self.turns: list[Message] = []  # of the stream's newest example, after the mutators
        self.last = False  # whether that example is the last one of this copy
        self.counted: dict[str, int] = shared["counted"] if shared else {}
        if DatatypeHelper.is_streaming(opt["datatype"]):
            self.stream = shared["stream"] if shared else Stream(self._streamed, self.bsz)
        else:
            self.examples: Sequence[Example] = shared["examples"] if shared else list(self._pass())
            if not self.examples:
                raise ValueError(f"the task {self.id} has no {self.split} examples")
        self.random = self.training and "ordered" not in opt["datatype"] and not self.stream
        resumes = self.cycle and opt.get("load_from_checkpoint") and opt.get("model_file")
        self.start = shared["start"] if shared else examples_seen(opt["model_file"], self.id) if resumes else 0
        self.orders: dict[int, Sequence[int]] = shared["orders"] if shared else {}
        self.reset()

    @abstractmethod
    def read(self, split: str) -> Iterable[Example]:
        """The examples of `train`, `valid` or `test`, in an order that never changes."""

    def count(self, split: str) -> int:
        """How many examples `read` gives. A quicker way may take its place."""
        return sum(1 for _ in copy.copy(self).read(split))  # a copy, whose bad rows are not counted here

    def share(self):
        own = {"stream": self.stream} if self.stream else {"examples": self.examples}
        return super().share() | own | {"start": self.start, "orders": self.orders, "counted": self.counted}

    def reset(self):
        super().reset()
        self.index.value = self.start // self.workers - 1
        self.turns = []
        if self.stream:
            self.stream.restart()

    def next_episode_idx(self, num_eps=None, loop=None):
        if not self.random:
            return super().next_episode_idx(num_eps, loop)
        self.index.value += 1
        epoch, place = divmod(self.index.value * self.workers + self.rank, len(self.examples))
        return self.order(epoch)[place]

    def order(self, epoch: int) -> Sequence[int]:
        """The shuffle of one epoch, the same for the same `--seed`."""
        if epoch not in self.orders:
            shuffled = array("L", range(len(self.examples)))
            self._draw(epoch).shuffle(shuffled)
            self.orders.clear()
            self.orders[epoch] = shuffled
        return self.orders[epoch]

    def _draw(self, epoch: int) -> random.Random:
        return random.Random(f"{self.opt.get('seed') or 0}:{epoch}")

    def positive(self, name: str, default: int | None) -> int:
        """An option that counts from 1."""
        value = self.opt.get(name, default)
        if value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        return value

    # --- streams ------------------------------------------------------------------------------------------------------

    def _pass(self) -> Iterator[Example]:
        """Every example of the split; what was left out is said at the end."""
        self.skipped = 0
        yield from self.read(self.split)
        if self.skipped:
            warn_once(f"{self.id}: {self.skipped:,} bad rows of {self.split} were left out, first {self.first_skipped}")

    def _streamed(self) -> Iterator[Example]:
        """What this worker gets of an endless training, or of one evaluation."""
        begun = self.start // self.workers * self.workers
        epoch, begun = divmod(begun, self.num_examples()) if begun else (0, 0)
        return islice(self._epochs(epoch), begun + self.rank, None, self.workers)

    def _epochs(self, first: int) -> Iterator[Example]:
        buffer = self.opt.get("shuffle_buffer") or 0
        for epoch in count(first):
            read = 0
            examples = self._pass()
            for example in drawn(examples, buffer, self._draw(epoch)) if buffer > 1 and self.cycle else examples:
                yield example
                read += 1
            if not read:
                raise ValueError(f"the task {self.id} has no {self.split} examples")
            if not self.cycle:
                return

    def next_example(self):
        if not self.stream:
            return super().next_example()
        while not self.turns:
            example = self.stream.take()
            if example is None:
                return Message.padding_example(), True
            self.last = self.stream.ends
            episode = [self.message(example)]
            for mutator in self.mutators:
                episode = mutator(episode)
            self.turns = list(episode)  # perhaps none
        return self.turns.pop(0), not self.turns and self.last

    def num_examples(self):
        """Of all workers together. A stream is gone through once to count them, when somebody asks."""
        if not self.stream:
            return len(self.examples)
        if self.split not in self.counted:
            self.counted[self.split] = self.count(self.split)
        return self.counted[self.split]

    def num_episodes(self):
        """Those that ParlAI counts through: in order, this worker's own; in a shuffle or a stream, all."""
        return self.num_examples() if self.random or self.stream else len(self._own())

    def _own(self) -> range:
        """Where this worker's examples are, in order."""
        return range(self.rank, len(self.examples), self.workers)

    def get(self, episode_idx, entry_idx=0):
        return self.message(self.examples[episode_idx if self.random else self._own()[episode_idx]])

    def message(self, example: Example) -> Message:
        """An example as ParlAI passes it around."""
        message = Message(text=self.format.text(example.context), episode_done=True)
        if example.response is not None:
            message["labels"] = [example.response, *example.others]
        if example.candidates is not None:
            message["label_candidates"] = list(example.candidates)
        if example.grades is not None:
            message["grades"] = list(example.grades)
        if example.id is not None:
            message["example_id"] = example.id
        if example.candidate_ids is not None:
            message["candidate_ids"] = example.candidate_ids
        return message

    def only_for_a_submission(self) -> None:
        """Refuse a split whose labels are hidden for anything else: nobody outside can be measured on it."""
        if not self.opt.get("submission"):
            raise ValueError(
                f"the labels of {self.id}'s {self.split} set are hidden: give eval_model --submission FILE, "
                "which needs none, or another split"
            )

    # --- files --------------------------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """Where a file of the data set is: under `--data-files`, a folder, or itself that file; else downloaded.

        What to download from where is `FILES` of the module of the task; it goes to `--datapath`. `WHERE` says how to
        come by the others.
        """
        given = self.opt.get("data_files")
        if not given:
            return self._downloaded(name)
        path = Path(given) if Path(given).is_file() else Path(given) / name
        if path.is_file():
            return path
        if path.with_name(f"{path.name}.gz").is_file():
            return path.with_name(f"{path.name}.gz")
        raise ValueError(f"--data-files {given}: there is no {name} (or {name}.gz) in it")

    def _downloaded(self, name: str) -> Path:
        module = sys.modules[type(self).__module__]
        files, where = getattr(module, "FILES", ()), getattr(module, "WHERE", None)
        task = module.__name__.rpartition(".")[2]
        try:
            if files and self.opt.get("datapath"):
                return download.find(files, name, Path(self.opt["datapath"], "poly_agents", task))
            raise ValueError(f"the task {self.opt['task']} needs --data-files: the folder that holds {name}")
        except ValueError as error:
            raise ValueError(f"{error}; {where}" if where else str(error)) from error

    def rows(self, path: Path, parse: Callable[[str], Any]) -> Iterator[Any]:
        """`parse` of every line of a UTF-8 file, gzipped or not. What it refuses is named with file and line."""
        return rows(path, parse, self.bad)

    def bad(self, place: str, error: Exception) -> None:
        """A row that is not what it should be: an error, or with --skip-bad-rows counted, and told of at the end."""
        what = told(place, error)
        if not self.opt.get("skip_bad_rows"):
            raise ValueError(f"{what}; --skip-bad-rows true leaves such rows out") from error
        if not self.skipped:
            self.first_skipped = what
        self.skipped += 1

    def chat_candidates(self) -> Iterator[str]:
        """Responses to chat with: every one of this split, on one line."""
        examples = self._pass() if self.stream else self.examples
        return (" ".join(example.response.split()) for example in examples if example.response is not None)


def refuse(place: str, error: Exception) -> None:
    """A row that is not what it should be."""
    raise ValueError(told(place, error)) from error


def told(place: str, error: Exception) -> str:
    return f"{place}: " + (f"there is no {error}" if isinstance(error, KeyError) else str(error))


def rows(path: Path, parse: Callable[[str], Any], bad: Callable[[str, Exception], None] = refuse) -> Iterator[Any]:
    """`parse` of every line of a UTF-8 file, gzipped or not, that has a word; `bad` is told what it refuses."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                if line.strip():
                    yield parse(line.decode("utf-8").rstrip("\r\n"))
            except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
                bad(f"{path}:{number}", error)


def columns(line: str, count: int) -> list[str]:
    """The texts of a row."""
    found = line.split("\t")
    if len(found) != count:
        raise ValueError(f"a row has {count} columns parted by tabs, got {len(found)}")
    return found


def json_object(line: str) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"a line is one JSON object, got {type(row).__name__}")
    return row


def replies(turns: Sequence[str], history: int) -> list[Example]:
    """Every turn of a dialogue but the first, as the response to the newest ones before it."""
    return [Example(turns[max(0, place - history) : place], turns[place]) for place in range(1, len(turns))]


class Stream:
    """Examples read when they are asked for, by all copies of a teacher together."""

    def __init__(self, read: Callable[[], Iterator[Example]], ahead: int):
        self.read = read
        self.ahead = max(1, ahead)  # the copies of a batch end together: who sees fewer left than that is the last
        self.restart()

    def restart(self) -> None:
        """Begin anew with the next example."""
        self.examples: Iterator[Example] | None = None
        self.waiting: deque[Example] = deque()

    def take(self) -> Example | None:
        """The next example, or None after the last one."""
        if self.examples is None:
            self.examples = self.read()
        self.waiting.extend(islice(self.examples, self.ahead + 1 - len(self.waiting)))
        return self.waiting.popleft() if self.waiting else None

    @property
    def ends(self) -> bool:
        """Whether the example just taken is the last one of its copy in a batch."""
        return len(self.waiting) < self.ahead


def drawn(examples: Iterable[Example], size: int, draw: random.Random) -> Iterator[Example]:
    """Every example once, each drawn from the `size` that are held.

    >>> sorted(drawn("abcdef", 3, random.Random(1)))
    ['a', 'b', 'c', 'd', 'e', 'f']
    """
    rest = iter(examples)
    held = list(islice(rest, size))
    for example in rest:
        place = draw.randrange(size)
        yield held[place]
        held[place] = example
    draw.shuffle(held)
    yield from held


def draw_candidates(examples: Sequence[Example], seed: str, count: int = CANDIDATES) -> list[Example]:
    """Give each example its response and `count` - 1 others of the same list, none alike, in a drawn order."""
    pool = list({normal(example.response): example.response for example in examples}.items())
    if len(pool) < count:
        raise ValueError(f"{count} candidates need as many different responses, there are {len(pool)}")
    draw = random.Random(seed)
    drawn = []
    for example in examples:
        own = normal(example.response)
        others = [text for key, text in draw.sample(pool, count) if key != own][: count - 1]
        candidates = [example.response, *others]
        draw.shuffle(candidates)
        drawn.append(example._replace(candidates=candidates))
    return drawn


def normal(text: str) -> str:
    """What makes two responses alike: letters and digits, whatever the case. ParlAI's hits@k cannot tell them apart."""
    return " ".join(text.lower().translate(PUNCTUATION).split()) or text.strip()


PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))
