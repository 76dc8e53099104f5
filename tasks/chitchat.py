"""Chit-chat: 7,168 conversations between university students, 138,737 turns.

Source   package chitchat-dataset 0.9.0 (BYU Perception, Control and Cognition lab, the Chit-Chat Challenge of 2018)
Licence  MIT
Split    by conversation, with a fixed seed: 90% train, 5% valid, 5% test
Eval     20 candidates: the response and 19 responses of the same split
"""

import importlib.util
import json
import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from poly_agents.agents.teachers.examples import Example, draw_candidates, replies
from poly_agents.agents.teachers.response import ResponseTeacher
from poly_agents.errors import MissingPackageError

SEED = "chitchat-1"  # another seed makes another data set
CHAT_CANDIDATES = 5000
CHAT_WORDS = range(3, 26)


@lru_cache(maxsize=1)
def conversations() -> list[list[str]]:
    """Read every conversation as its turns, sorted by the conversation's id.

    Consecutive messages of one speaker are joined to one turn.
    """
    spec = importlib.util.find_spec("chitchat_dataset")
    if spec is None or spec.origin is None:
        raise MissingPackageError("the task chitchat needs chitchat-dataset: pip install 'poly_agents[embedded]'")
    data = json.loads(Path(spec.origin).with_name("dataset.json").read_text(encoding="utf-8"))
    return [[*_turns(data[name]["messages"])] for name in sorted(data)]


def _turns(messages) -> Iterator[str]:
    for block in messages:
        text = " ".join(" ".join(message["text"].split()) for message in block).strip()
        if text:
            yield text


def examples(split: str, history_turns: int) -> list[Example]:
    """Make the examples of a split: every turn but the first is the response to up to `history_turns` before it."""
    order = list(range(len(conversations())))
    random.Random(SEED).shuffle(order)
    twentieth = len(order) // 20
    part = {
        "valid": order[:twentieth],
        "test": order[twentieth : 2 * twentieth],
        "train": order[2 * twentieth :],
    }[split]
    found = [example for number in sorted(part) for example in replies(conversations()[number], history_turns)]
    return found if split == "train" else draw_candidates(found, f"{SEED}:{split}")


class ChitchatTeacher(ResponseTeacher):
    """`-t poly_agents:chitchat`"""

    history_turns = 4

    def read(self, split):
        return examples(split, self.positive("history_turns", self.history_turns))

    def chat_candidates(self):
        """Yield the first different responses of the split that are neither very short nor very long."""
        texts = dict.fromkeys(t for t in super().chat_candidates() if len(t.split()) in CHAT_WORDS)
        return list(texts)[:CHAT_CANDIDATES]
