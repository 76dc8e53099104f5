"""What every task here has in common: a context, its response, perhaps candidates, in an order that can be resumed."""

import gzip
import random
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from parlai.core.message import Message
from parlai.core.teachers import FixedDialogTeacher
from parlai.utils.data import DatatypeHelper
from parlai.utils.distributed import get_rank, num_workers

from poly_agents.checkpoint import examples_seen

CANDIDATES = 20  # of a context in evaluation, where the data set brings none


class Example(NamedTuple):
    context: Sequence[str]  # turns, oldest first
    response: str  # a right one
    candidates: Sequence[str] | None = None
    others: Sequence[str] = ()  # more right ones
    grades: Sequence[float] | None = None  # of each candidate, where judgements are graded


class ResponseTeacher(FixedDialogTeacher, ABC):
    """One example is one episode: turns joined by newlines, one label, the candidates where there are any.

    Training goes through a new shuffle every epoch, made from `--seed` and the epoch's number: the same on every
    machine, different parts of it for the workers of a distributed run, and it goes on where a checkpoint stopped.
    """

    skipped = 0  # bad rows that were left out

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("data")
        group.add_argument("--data-files", help="where the files of the data set are: a folder, or one file")
        group.add_argument("--skip-bad-rows", type="bool", default=False, help="leave out rows that cannot be read")
        return parser

    def __init__(self, opt, shared=None):
        super().__init__(opt, shared)
        self.id = opt["task"]
        self.split = DatatypeHelper.fold(opt["datatype"])
        self.examples: Sequence[Example] = shared["examples"] if shared else list(self.read(self.split))
        if not self.examples:
            raise ValueError(f"the task {self.id} has no {self.split} examples")
        self.random = self.training and "ordered" not in opt["datatype"]
        resumes = self.random and opt.get("load_from_checkpoint") and opt.get("model_file")
        self.start = shared["start"] if shared else examples_seen(opt["model_file"], self.id) if resumes else 0
        self.orders: dict[int, list[int]] = shared["orders"] if shared else {}
        self.reset()

    @abstractmethod
    def read(self, split: str) -> Iterable[Example]:
        """The examples of `train`, `valid` or `test`, in an order that never changes."""

    def share(self):
        return super().share() | {"examples": self.examples, "start": self.start, "orders": self.orders}

    def reset(self):
        super().reset()
        self.index.value = self.start // num_workers() - 1

    def next_episode_idx(self, num_eps=None, loop=None):
        if not self.random:
            return super().next_episode_idx(num_eps, loop)
        self.index.value += 1
        epoch, place = divmod(self.index.value * num_workers() + get_rank(), len(self.examples))
        return self.order(epoch)[place]

    def order(self, epoch: int) -> list[int]:
        """The shuffle of one epoch, the same for the same `--seed`."""
        if epoch not in self.orders:
            shuffled = list(range(len(self.examples)))
            random.Random(f"{self.opt.get('seed') or 0}:{epoch}").shuffle(shuffled)
            self.orders.clear()
            self.orders[epoch] = shuffled
        return self.orders[epoch]

    def num_examples(self):
        return len(self.examples)

    num_episodes = num_examples

    def get(self, episode_idx, entry_idx=0):
        example = self.examples[episode_idx]
        labels = [example.response, *example.others]
        message = Message(text="\n".join(example.context), labels=labels, episode_done=True)
        if example.candidates is not None:
            message["label_candidates"] = list(example.candidates)
        if example.grades is not None:
            message["grades"] = list(example.grades)
        return message

    # --- files --------------------------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """Where a file of the data set is: under `--data-files`, a folder, or itself that file."""
        given = self.opt.get("data_files")
        if not given:
            raise ValueError(f"the task {self.opt['task']} needs --data-files: the folder that holds {name}")
        path = Path(given) if Path(given).is_file() else Path(given) / name
        if path.is_file():
            return path
        if path.with_name(f"{path.name}.gz").is_file():
            return path.with_name(f"{path.name}.gz")
        raise ValueError(f"--data-files {given}: there is no {name} (or {name}.gz) in it")

    def rows(self, path: Path, parse: Callable[[str], Any]) -> Iterator[Any]:
        """`parse` of every line of a UTF-8 file, gzipped or not. What it refuses is named with file and line."""
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    if line.strip():
                        yield parse(line.decode("utf-8").rstrip("\r\n"))
                except (ValueError, KeyError, IndexError, TypeError) as error:
                    self.bad(f"{path}:{number}", error)

    def bad(self, place: str, error: Exception) -> None:
        """A row that is not what it should be: an error, or with --skip-bad-rows counted."""
        if not self.opt.get("skip_bad_rows"):
            reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{place}: {reason}; --skip-bad-rows true leaves such rows out") from error
        self.skipped += 1

    def chat_candidates(self) -> Iterator[str]:
        """Responses to chat with: every one of this split, on one line."""
        return (" ".join(example.response.split()) for example in self.examples)


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
