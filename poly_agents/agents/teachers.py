"""The teachers behind `-t`, for whoever has to look at the data before or beside ParlAI's own loop."""

import copy
from collections.abc import Iterator
from typing import NamedTuple

from parlai.core.teachers import Teacher, create_task_agent_from_taskname


class Turn(NamedTuple):
    """One example, as an agent with the whole history sees it."""

    context: str  # turns parted by newlines
    response: str
    candidates: list[str] | None


def teachers(opt, **changes) -> Iterator[Teacher]:
    """One teacher for every task in `-t`, made from a copy of the options with changes.

    In a distributed run those of this package bring all their examples to every process that asks.
    """
    for task in opt["task"].split(","):
        own = copy.deepcopy(opt)
        own.update(changes, task=task, undivided=True)
        yield from create_task_agent_from_taskname(own)


def turns(opt, split: str) -> Iterator[Turn]:
    """Every example of `train`, `valid` or `test` once, in its order."""
    datatype = "train:evalmode" if split == "train" else split
    for teacher in teachers(opt, datatype=datatype, batchsize=1, interactive_task=False):
        history: list[str] = []
        while not teacher.epoch_done():
            message = teacher.act()
            labels = message.get("labels") or message.get("eval_labels")
            if "text" in message:
                history.append(message["text"])
            if labels:
                yield Turn("\n".join(history), labels[0], list(message.get("label_candidates") or ()) or None)
                history.append(labels[0])
            if message.get("episode_done"):
                history.clear()
