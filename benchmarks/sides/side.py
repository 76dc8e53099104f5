"""A side: one program that does the jobs of `peers.py`."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from parlai.core.agents import create_agent
from parlai.core.params import ParlaiParser
from parlai.core.worlds import create_task

CODES = 64
CONTEXT, CANDIDATE = 96, 32  # tokens of a text in training and evaluation, without special tokens
LONG = 126  # tokens of a long text: 128 with special tokens
Run = Callable[[int], int]  # takes the number of the turn, returns the units of work done


class Side:
    """A program under test. Each job is a method that prepares it and returns the function to time.

    Args:
        folder: texts and vectors written by `preparation.prepare`.
        quick: small jobs, to see that all of them run.
    """

    def __init__(self, folder: Path, quick: bool):
        self.folder = folder
        self.quick = quick
        self.data = json.loads((folder / "data.json").read_text()) if (folder / "data.json").exists() else {}

    def texts(self, length: str, turn: int) -> list[str]:
        """Return texts to encode, other ones every turn."""
        texts, size = self.data[length], (32 if self.quick else {"short": 512, "long": 128}[length])
        first = turn * size % (len(texts) - size)
        return texts[first : first + size]

    def context(self, turn: int) -> str:
        """Return the context of a turn."""
        return self.data["contexts"][turn % len(self.data["contexts"])]

    def candidates(self, turn: int) -> list[str]:
        """Return the 100 candidates of a turn."""
        pool = self.data["pairs"]
        return [pool[(100 * turn + number) % len(pool)] for number in range(100)]


class ParlaiLoop(Side, ABC):
    """Jobs that run in ParlAI's own loops, with its agents or with those of poly_agents."""

    @abstractmethod
    def flags(self, kind: str, text: int, label: int) -> str:
        """Return the command-line options of an agent. Both lengths are without special tokens."""

    def agent(self, kind: str, more: str, text: int = CONTEXT, label: int = CANDIDATE):
        """Create an agent as ParlAI's commands do."""
        opt = ParlaiParser(True, True).parse_args([*self.flags(kind, text, label).split(), *more.split()])
        opt["tokenizer_source"] = "minilm"
        return create_agent(opt)

    def train(self, kind: str) -> Run:
        """Train on one batch a turn."""
        size = {"cross": 16}.get(kind, 8 if self.quick else 64)
        task = "poly_agents:chitchat -cands batch"
        if kind == "cross":
            task = f"poly_agents:jsonl --jsonl-path {self.folder / 'train.jsonl'} -cands inline"
        return self.world(kind, f"-t {task} -dt train -bs {size} -opt adamw -lr 1e-4", size)

    def evaluate(self, kind: str) -> Run:
        """Evaluate one batch a turn."""
        size = {"cross": 8}.get(kind, 8 if self.quick else 64)
        return self.world(kind, f"-t poly_agents:chitchat -dt valid -bs {size} -ecands inline", size)

    def world(self, kind: str, more: str, size: int) -> Run:
        """Run the loop of train_model and eval_model, one batch a turn."""
        agent = self.agent(kind, more)
        world = create_task(agent.opt, agent)

        def parley(turn: int) -> int:
            if world.epoch_done():
                world.reset()
            world.parley()
            return size

        return parley

    def chat(self, kind: str) -> Run:
        """Reply to one context a turn, with the best candidate of the pool."""
        agent = self.agent(kind, f"-dt valid -ecands fixed -fcp {self.folder / 'pool.txt'} {self.stored(kind)}", LONG)

        def reply(turn: int) -> int:
            agent.observe({"id": "user", "text": self.context(turn), "episode_done": True})
            assert agent.act()["text"]
            return 1

        return reply

    def stored(self, kind: str) -> str:
        """Return the options by which an agent finds the encoded pool."""
        return ""

    def pairs(self, kind: str) -> Run:
        """Score one context with 100 candidates a turn."""
        agent = self.agent(kind, "-dt valid -ecands inline", LONG)

        def reply(turn: int) -> int:
            given = {"label_candidates": self.candidates(turn), "episode_done": True}
            agent.observe({"id": "user", "text": self.context(turn)} | given)
            assert len(agent.act()["text_candidates"]) == 100
            return 100

        return reply


def with_separators(context: str) -> str:
    """Put the separator of BERT's tokenizer between turns."""
    return context.replace("\n", " [SEP] ")
