"""What every task here has in common: a context, its response, perhaps candidates, in an order that can be resumed."""

import random
import string
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from parlai.core.message import Message
from parlai.core.teachers import FixedDialogTeacher
from parlai.utils.data import DatatypeHelper
from parlai.utils.distributed import get_rank, num_workers

from poly_agents.checkpoint import examples_seen

CANDIDATES = 20  # of a context in evaluation, where the data set brings none


class Example(NamedTuple):
    context: Sequence[str]  # turns, oldest first
    response: str
    candidates: Sequence[str] | None = None


class ResponseTeacher(FixedDialogTeacher, ABC):
    """One example is one episode: turns joined by newlines, one label, the candidates where there are any.

    Training goes through a new shuffle every epoch, made from `--seed` and the epoch's number: the same on every
    machine, different parts of it for the workers of a distributed run, and it goes on where a checkpoint stopped.
    """

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
        message = Message(text="\n".join(example.context), labels=[example.response], episode_done=True)
        if example.candidates is not None:
            message["label_candidates"] = list(example.candidates)
        return message

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
