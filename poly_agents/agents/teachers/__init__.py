"""The teachers behind `-t`, for code that looks at the data before or beside ParlAI's own loop."""

import copy
from collections.abc import Iterator

from parlai.core.teachers import Teacher, create_task_agent_from_taskname

from poly_agents.agents.teachers.drawn import draw_for_all_teachers
from poly_agents.text.turns import ResponseExample

draw_for_all_teachers()


def teachers(opt, **changes) -> Iterator[Teacher]:
    """Make one teacher for each task in `-t`, from a copy of the options with changes.

    In a distributed run the teachers of this package then give all their examples to every process.
    """
    for task in opt["task"].split(","):
        own = copy.deepcopy(opt)
        own.update(changes, task=task, undivided=True)
        yield from create_task_agent_from_taskname(own)


def response_examples(opt, split: str) -> Iterator[ResponseExample]:
    """Yield every example of `train`, `valid` or `test` once, in its order, with the whole history as context."""
    datatype = "train:evalmode" if split == "train" else split
    for teacher in teachers(opt, datatype=datatype, batchsize=1, interactive_task=False):
        history: list[str] = []
        while not teacher.epoch_done():
            message = teacher.act()
            labels = message.get("labels") or message.get("eval_labels")
            if "text" in message:
                history.append(message["text"])
            if labels:
                candidates = list(message.get("label_candidates") or ()) or None
                yield ResponseExample("\n".join(history), labels[0], candidates, labels[1:])
                history.append(labels[0])
            if message.get("episode_done"):
                history.clear()


def chat_responses(teacher: Teacher) -> Iterator[str]:
    """Yield the responses that a teacher picks for a chat, or else every first label of its split, in order."""
    if hasattr(teacher, "chat_candidates"):
        yield from teacher.chat_candidates()
        return
    while not teacher.epoch_done():
        message = teacher.act()
        for label in (message.get("labels") or message.get("eval_labels") or ())[:1]:
            yield " ".join(label.split())
