"""Draw candidates for the evaluation of data that brings none, as most of ParlAI's own tasks do.

Every example is ranked among its response and `--eval-negatives` responses of other examples of the same split. They
depend on the example and the responses of the split alone: not on the batch size, the order or the run.
"""

import copy
import random
from functools import cached_property

from parlai.core.message import Message
from parlai.core.teachers import FixedDialogTeacher, create_task_agent_from_taskname
from parlai.utils import logging

from poly_agents.agents.teachers.examples import normalized
from poly_agents.errors import InputError


class Drawn:
    """The candidates that are drawn for the examples of one teacher and its clones."""

    def __init__(self, opt):
        self.opt = opt
        ranks_inline = opt.get("eval_candidates", "inline") == "inline"
        has_pool = "eval_candidates" not in opt and opt.get("fixed_candidates_path")
        self.is_wanted = bool(opt.get("eval_negatives")) and ranks_inline and not has_pool

    @cached_property
    def responses(self) -> list[tuple[str, str]]:
        """Read the different responses of the split, each after its normalized text."""
        own = copy.deepcopy(self.opt)
        own.update(eval_negatives=0, batchsize=1, undivided=True)
        found: dict[str, str] = {}
        for teacher in create_task_agent_from_taskname(own):
            while not teacher.epoch_done():
                for label in (teacher.act().get("eval_labels") or ())[:1]:
                    found.setdefault(normalized(label), label)
        split, count = self.opt["datatype"].split(":")[0], min(self.opt["eval_negatives"], len(found) - 1)
        if count < 1:
            raise InputError(f"the {split} split of {self.opt['task']} has one response alone: nothing can be ranked")
        logging.info(
            f"the {split} examples of {self.opt['task']} bring no candidates: each is ranked among its response and "
            f"{count} others of the split, always the same (--eval-negatives)"
        )
        return sorted(found.items())

    def add_to(self, message: Message) -> None:
        """Add candidates to an example of an evaluation that has a response and no candidates."""
        labels = message.get("eval_labels")
        if not self.is_wanted or not labels or message.get("label_candidates"):
            return
        own, count = {normalized(label) for label in labels}, self.opt["eval_negatives"]
        draw = random.Random(f"{message.get('text')}:{labels[0]}")
        found = draw.sample(self.responses, min(count + len(own), len(self.responses)))
        candidates = [labels[0], *[text for key, text in found if key not in own][:count]]
        draw.shuffle(candidates)
        message.force_set("label_candidates", candidates)


def draw_for_all_teachers() -> None:
    """Let every teacher of ParlAI draw candidates where the agent has the option `--eval-negatives`.

    ParlAI has no such option. The teacher is the only one that knows the split, so this is done there. It is not in
    `patches/`, because it adds something and repairs nothing, and needs what is above that folder.
    """
    init, share, process = FixedDialogTeacher.__init__, FixedDialogTeacher.share, FixedDialogTeacher.process_action

    def __init__(self, opt, shared=None):
        self.drawn = (shared or {}).get("drawn") or Drawn(opt)
        init(self, opt, shared)

    def process_action(self, action):
        message = process(self, action)
        if self.draws_candidates:
            self.drawn.add_to(message)
        return message

    FixedDialogTeacher.__init__ = __init__
    FixedDialogTeacher.share = lambda self: share(self) | {"drawn": self.drawn}
    FixedDialogTeacher.process_action = process_action
    FixedDialogTeacher.draws_candidates = True


def check_validation(opt) -> None:
    """Refuse a training run that its validation would end. Raises ValueError if no valid example can be read."""
    own = copy.deepcopy(opt)
    for task in (opt.get("evaltask") or opt["task"]).split(","):
        own.update(task=task, datatype="valid:stream" if "stream" in opt["datatype"] else "valid", batchsize=1)
        try:
            message = create_task_agent_from_taskname(own)[0].act()
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"training is validated on the valid split of {task}, which cannot be read: {error}; if there is "
                "no such split, give --evaltask another task"
            ) from error
        if opt["eval_candidates"] == "inline" and not message.get("label_candidates"):
            raise InputError(
                f"training is validated on the valid split of {task}, whose examples bring no candidates: give "
                "--eval-candidates batch, or --eval-negatives 19"
            )
