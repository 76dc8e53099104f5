"""The teacher that every data set of `tasks/` extends: examples of response selection, in an order that can be resumed.

The data sets do not import ParlAI. They take what they need of it from here.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

from parlai.core.message import Message
from parlai.core.teachers import FixedDialogTeacher
from parlai.utils import logging
from parlai.utils.data import DatatypeHelper
from parlai.utils.distributed import get_rank, num_workers
from parlai.utils.misc import warn_once
from parlai.utils.strings import normalize_reply

from poly_agents.agents.teachers.examples import Example
from poly_agents.agents.teachers.order import Shuffles, Stream, epoch_random, shuffle_buffer
from poly_agents.agents.teachers.reading import describe, find_downloaded, find_given, rows
from poly_agents.errors import DownloadError, InputError
from poly_agents.files.checkpoint import examples_seen
from poly_agents.files.download import Download, Elsewhere
from poly_agents.options import flag
from poly_agents.text.turns import TurnFormat

__all__ = ["ResponseTeacher", "logging", "normalize_reply", "variant", "warn_once"]


class ResponseTeacher(FixedDialogTeacher, ABC):
    """One example is one episode: the context as text, its right responses, and candidates if there are any.

    Training shuffles the examples again every epoch. The shuffle depends on `--seed` and the epoch alone, so it is the
    same on every machine, and training resumes where a checkpoint stopped. In a distributed run of n workers each
    worker gets every n-th example, in training and in evaluation.

    With `:stream` in the datatype the examples are not held in memory but read in the order of the files, or drawn
    from a buffer of `--shuffle-buffer` examples.
    """

    FILES: Sequence[Download | Elsewhere] = ()  # the files that can be downloaded
    WHERE = ""  # how to get the other ones
    SUBMISSIONS: Sequence[str] = ()  # the formats that the task's leaderboard takes, best first
    history_turns: int | None = None  # the default of --history-turns; None: the task has no such option
    skipped = 0  # bad rows that --skip-bad-rows left out
    first_skipped = ""

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("data")
        group.add_argument("--data-files", help="the folder that holds the files of the data set, or one file")
        group.add_argument(
            "--skip-bad-rows", type="bool", default=False, help="leave out rows that cannot be read instead of stopping"
        )
        group.add_argument(
            "--shuffle-buffer",
            type=int,
            default=0,
            help="number of examples that -dt train:stream draws from; 0 keeps the order of the files",
        )
        group.add_argument(
            "--speakers", type="bool", default=False, help="start each turn with its speaker, A or B, in chats too"
        )
        if cls.history_turns:
            group.add_argument(
                "--history-turns", type=int, default=cls.history_turns, help="how many turns before a response are kept"
            )
        return parser

    def __init__(self, opt, shared=None):
        super().__init__(opt, shared)
        self.id = opt["task"]
        self.split = DatatypeHelper.fold(opt["datatype"])
        self.format = TurnFormat(speakers=bool(opt.get("speakers")))
        self.rank, self.workers = (0, 1) if opt.get("undivided") else (get_rank(), num_workers())
        self.stream: Stream | None = None
        self.examples: Sequence[Example] = ()
        self.turns: list[Message] = []  # what is left of the stream's newest example, after the mutators
        self.last = False  # that example is the last one of this teacher
        self.counted: dict[str, int] = shared["counted"] if shared else {}
        if DatatypeHelper.is_streaming(opt["datatype"]):
            self.stream = shared["stream"] if shared else Stream(self._stream_examples, self.bsz)
        else:
            self.examples = shared["examples"] if shared else list(self._read_split())
            if not self.examples:
                raise InputError(f"the task {self.id} has no {self.split} examples")
        self.random = self.training and "ordered" not in opt["datatype"] and not self.stream
        self.shuffles = shared["shuffles"] if shared else Shuffles(len(self.examples), opt.get("seed"))
        resumes = self.cycle and opt.get("load_from_checkpoint") and opt.get("model_file")
        self.start = shared["start"] if shared else examples_seen(opt["model_file"], self.id) if resumes else 0
        self.reset()

    @abstractmethod
    def read(self, split: str) -> Iterable[Example]:
        """Read the examples of `train`, `valid` or `test`, always in the same order."""

    def count(self, split: str) -> int:
        """Count the examples of a split. A task that can do it without `read` overrides this."""
        return sum(1 for _ in copy.copy(self).read(split))  # the copy's bad rows are not added to this teacher's

    # --- ParlAI's teacher ---------------------------------------------------------------------------------------------

    def share(self):
        own = {name: getattr(self, name) for name in ("stream", "examples", "shuffles", "start", "counted")}
        return super().share() | own

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
        return self.shuffles.of(epoch)[place]

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
            self.turns = list(episode)  # a mutator may leave none
        return self.turns.pop(0), not self.turns and self.last

    def num_examples(self):
        """Count the examples of all workers together. A stream is read once for it, when somebody asks."""
        if not self.stream:
            return len(self.examples)
        if self.split not in self.counted:
            self.counted[self.split] = self.count(self.split)
        return self.counted[self.split]

    def num_episodes(self):
        """Count what ParlAI iterates over: this worker's examples in order, or all of a shuffle or a stream."""
        return self.num_examples() if self.random or self.stream else len(self._places())

    def get(self, episode_idx, entry_idx=0):
        return self.message(self.examples[episode_idx if self.random else self._places()[episode_idx]])

    def message(self, example: Example) -> Message:
        """Turn an example into a ParlAI message."""
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
        if example.label_grades:
            message["label_grades"] = list(example.label_grades)
        if example.missed:
            message["missed"] = list(example.missed)
        return message

    def chat_candidates(self) -> Iterator[str]:
        """Yield the responses that a chat can choose from: every response of this split, on one line each."""
        examples = self._read_split() if self.stream else self.examples
        return (" ".join(example.response.split()) for example in examples if example.response is not None)

    # --- the examples of a worker -------------------------------------------------------------------------------------

    def _places(self) -> range:
        """Return the places of this worker's examples when they are read in order."""
        return range(self.rank, len(self.examples), self.workers)

    def _read_split(self) -> Iterator[Example]:
        """Read every example of the split, then warn of the bad rows that were left out."""
        self.skipped = 0
        yield from self.read(self.split)
        if self.skipped:
            warn_once(f"{self.id}: {self.skipped:,} bad rows of {self.split} were left out, first {self.first_skipped}")

    def _stream_examples(self) -> Iterator[Example]:
        """Yield this worker's examples of an endless training, or of one evaluation."""
        start = self.start // self.workers * self.workers
        epoch, start = divmod(start, self.num_examples()) if start else (0, 0)
        return islice(self._epochs(epoch), start + self.rank, None, self.workers)

    def _epochs(self, first: int) -> Iterator[Example]:
        """Yield the examples of all workers, epoch after epoch in training and once in evaluation."""
        buffer = self.opt.get("shuffle_buffer") or 0
        for epoch in count(first):
            examples, empty = self._read_split(), True
            if buffer > 1 and self.cycle:
                examples = shuffle_buffer(examples, buffer, epoch_random(self.opt.get("seed"), epoch))
            for example in examples:
                empty = False
                yield example
            if empty:
                raise InputError(f"the task {self.id} has no {self.split} examples")
            if not self.cycle:
                return

    # --- what `read` uses ---------------------------------------------------------------------------------------------

    def path(self, *names: str) -> Path:
        """Find the first of these files: under `--data-files` if that is given, else downloaded to `--datapath`.

        Each may also be there as `NAME.gz`. `FILES` says what is downloaded from where, `WHERE` how to get the rest.
        """
        if self.opt.get("data_files"):
            return find_given(self.opt["data_files"], names)
        task = type(self).__module__.rpartition(".")[2]
        try:
            if self.FILES and self.opt.get("datapath"):
                return find_downloaded(self.FILES, names, Path(self.opt["datapath"], "poly_agents", task))
            raise InputError(f"the task {self.id} needs --data-files: the folder that holds {' or '.join(names)}")
        except (InputError, DownloadError) as error:
            if not self.WHERE:
                raise
            raise type(error)(f"{error}; {self.WHERE}") from error

    def rows(self, path: Path, parse: Callable[[str], Any]) -> Iterator[Any]:
        """Parse every line of a UTF-8 file, plain or compressed. `bad` deals with the lines that `parse` refuses."""
        return rows(path, parse, self.bad)

    def bad(self, place: str, error: Exception) -> None:
        """Raise an error for a bad row, or count it with `--skip-bad-rows` and warn at the end."""
        problem = describe(place, error)
        if not self.opt.get("skip_bad_rows"):
            raise InputError(f"{problem}; --skip-bad-rows true leaves such rows out") from error
        if not self.skipped:
            self.first_skipped = problem
        self.skipped += 1

    def positive(self, name: str, default: int | None) -> int:
        """Return an option that must be at least 1."""
        value = self.opt.get(name, default)
        if value < 1:
            raise InputError(f"{flag(name)} must be at least 1, got {value}")
        return value

    def only_for_a_submission(self) -> None:
        """Refuse a split whose labels are hidden, unless it is ranked for a submission."""
        if not self.opt.get("submission"):
            raise InputError(
                f"the labels of {self.id}'s {self.split} set are hidden: give eval_model --submission FILE, "
                "which needs none, or another split"
            )


def variant(task: str, known: Collection[str] | None = None) -> str:
    """Return VARIANT of `poly_agents:NAME:VARIANT`, empty if there is none. Raises ValueError if it is not `known`.

    >>> variant("poly_agents:mutual:plus", ["", "plus"])
    'plus'
    """
    given = ":".join(task.split(":")[2:])
    if known is not None and given not in known:
        raise InputError(f"the task {task}: there is no variant {given!r}; known: {', '.join(filter(None, known))}")
    return given
