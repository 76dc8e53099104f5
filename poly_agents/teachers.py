"""The teachers behind `-t`, for whoever has to look at the data before or beside ParlAI's own loop."""

import copy
from collections.abc import Iterator

from parlai.core.teachers import Teacher, create_task_agent_from_taskname


def teachers(opt, **changes) -> Iterator[Teacher]:
    """One teacher for every task in `-t`, made from a copy of the options with changes."""
    for task in opt["task"].split(","):
        own = copy.deepcopy(opt)
        own.update(changes, task=task)
        yield from create_task_agent_from_taskname(own)
