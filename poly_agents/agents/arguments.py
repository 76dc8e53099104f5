"""The command line of the agents: defaults, shared flags, and options that cannot work together."""

import argparse
import math
from pathlib import Path

from poly_agents.agents.report import EvaluationOptions
from poly_agents.agents.teachers.drawn import check_validation
from poly_agents.candidates import milvus
from poly_agents.candidates.manifest import HEADER
from poly_agents.candidates.search import SearchOptions
from poly_agents.errors import InputError
from poly_agents.learning.training import TrainingOptions
from poly_agents.models.lengths import USUAL, Lengths
from poly_agents.options import flag
from poly_agents.scoring.ranker import Ranker
from poly_agents.text.truncation import PERSONA_SHARE

DEFAULTS = {
    "candidates": "batch",
    "eval_candidates": "inline",
    "optimizer": "adamw",
    "learningrate": 1e-4,
    "weight_decay": 0.01,
    "gradient_clip": 1.0,
    "lr_scheduler": "linear",
    **USUAL._asdict(),
    "validation_metric": "hits@1",
    "validation_metric_mode": "max",
    "validation_every_n_epochs": 0.5,
    "save_every_n_secs": 120,
    "log_every_n_secs": 10,
}

# ParlAI's own numbers: (the smallest, whether -1 is allowed too, for "no limit", "never" or "all")
NUMBERS = {
    **dict.fromkeys(("text_truncate", "label_truncate", "batchsize", "eval_batchsize", "update_freq"), (1, False)),
    **dict.fromkeys(("cap_num_predictions", "topk"), (1, False)),
    **dict.fromkeys(("truncate", "history_size", "num_examples"), (1, True)),
    **dict.fromkeys(("learningrate", "weight_decay", "momentum", "show_candidates", "num_workers"), (0, False)),
    **dict.fromkeys(("gradient_clip", "warmup_updates", "rank_top_k", "validation_max_exs"), (0, True)),
    **dict.fromkeys(("validation_every_n_secs", "validation_every_n_steps", "validation_every_n_epochs"), (0, True)),
    **dict.fromkeys(("log_every_n_secs", "log_every_n_steps", "save_every_n_secs"), (0, True)),
}
ENDS = ("num_epochs", "max_train_steps", "max_train_time")  # each ends a training run; -1, the default: it does not


class ShowCandidates(argparse._StoreAction):
    """Store `--show-candidates N`, and have `parlai display_model` show the field that the ranking is in."""

    @classmethod
    def add_to(cls, parser) -> None:
        parser.add_argument(
            "--show-candidates",
            type=int,
            default=0,
            action=cls,
            help="in interactive, interactive_web and display_model: show the best N candidates with their scores",
        )

    def __call__(self, parser, namespace, value, option_string=None):
        namespace.show_candidates = value
        namespace.display_add_fields = ",".join(filter(None, [getattr(namespace, "display_add_fields", ""), "ranking"]))


def add_chat_arguments(parser) -> None:
    """Declare the flags of chats."""
    ShowCandidates.add_to(parser)
    parser.add_argument(
        "--repeat-blocking",
        type="bool",
        help="leave out near copies of what was said in the dialogue; default: true in chats, false elsewhere",
    )


def add_ranker_arguments(parser, name: str, ranker: type[Ranker], partial_opt: dict | None) -> None:
    """Declare the flags of a ranker's agent, and set the defaults of ParlAI's own flags.

    Args:
        parser: ParlAI's.
        name: of the agent, for `--help`.
        ranker: its class.
        partial_opt: what ParlAI has parsed so far.
    """
    group = parser.add_argument_group(f"{name} of poly_agents")
    for options in (ranker.Options, TrainingOptions, SearchOptions, EvaluationOptions):
        options.add_to(group)
    add_chat_arguments(group)
    group.add_argument(
        "--add-label-to-fixed-candidates",
        type="bool",
        default=False,
        help="-ecands fixed: where the pool lacks the label of an example, rank the pool and the label",
    )
    group.add_argument(
        "--persona-share",
        type=float,
        help="of the tokens of --text-truncate, what persona lines may take at most while turns are cut; 0: they are "
        f"cut first; default: as the model file says, or else {PERSONA_SHARE}",
    )
    parser.set_defaults(**DEFAULTS | ranker.defaults)
    if partial_opt and ("num_epochs" in partial_opt or "report_filename" in partial_opt):
        parser.set_defaults(batchsize=64)  # for train_model and eval_model; a chat has one dialogue at a time


def is_training(opt) -> bool:
    """Tell whether weights are trained under these options."""
    datatype = opt.get("datatype", "")
    return "train" in datatype and "evalmode" not in datatype and not opt.get("interactive_mode")


def given_lengths(opt) -> set[str]:
    """Return which of `text_truncate` and `label_truncate` the user gave, and not a default or a model file."""
    given = opt.get("override", {})
    return set(Lengths._fields) if "truncate" in given else {name for name in Lengths._fields if name in given}


def apply_truncate(opt) -> None:
    """Apply ParlAI's `--truncate` to the lengths of contexts and candidates."""
    if opt.get("truncate", -1) > 0:
        for name in Lengths._fields:
            opt[name] = min(opt[name], opt["truncate"])


def check(opt, ranker: type[Ranker]) -> None:
    """Refuse options that cannot work, before anything is loaded. Raises ValueError, naming the flag."""
    check_numbers(opt)
    if opt.get("add_label_to_fixed_candidates") and opt.get("submission"):
        raise InputError("--submission names candidates by their ids, and --add-label-to-fixed-candidates gives no id")
    if opt.get("fp16"):
        raise InputError("--fp16 is ParlAI's own; give --precision bfloat16 or float16")
    can_cache = ranker.can_cache(ranker.Options.of(opt))
    if "vocab" in (opt["eval_candidates"], opt.get("interactive_candidates")) and not can_cache:
        raise InputError(f"{opt['model']} runs once per candidate: a whole vocabulary is too much, give -ecands fixed")
    path = opt.get("fixed_candidates_path")
    if path:
        check_candidates_path(path)
        if milvus.is_address(path) and (is_training(opt) or not can_cache):
            raise InputError(
                f"--fixed-candidates-path {path}: a collection in Milvus is for evaluation and chats, with a trained "
                "bi, poly or early"
            )
    if is_training(opt):
        check_training(opt)


def check_numbers(opt) -> None:
    """Refuse numbers of ParlAI's own options that are out of range. Raises ValueError, naming the flag."""
    for name, value in opt.items():
        if isinstance(value, float) and not math.isfinite(value) and name != "validation_cutoff":
            raise InputError(f"{flag(name)} must be a finite number, got {value}")
    for name, (smallest, or_minus_one) in NUMBERS.items():
        value = opt.get(name)
        if isinstance(value, int | float) and value < smallest and not (or_minus_one and value == -1):
            more = ", or -1" if or_minus_one else ""
            raise InputError(f"{flag(name)} must be at least {smallest}{more}, got {value}")
    ends = {name: opt.get(name) or 0 for name in ENDS if name in opt}
    typed = {name: ends[name] for name in ends if name in opt.get("override", {})}
    for name, value in typed.items():
        if value <= 0 and (value != -1 or max(ends.values()) <= 0):
            raise InputError(f"{flag(name)} must be above 0, got {value}; leave it out if it shall not end the run")


def check_training(opt) -> None:
    """Refuse options that are for evaluation or inference. Raises ValueError, naming the flag."""
    for name in ("ranks_file", "submission"):
        if opt.get(name):
            raise InputError(f"{flag(name)} is for evaluation: give it to eval_model")
    if opt.get("precision") == "float16":
        raise InputError("--precision float16 is for inference; train with bfloat16 or float32")
    if "validation_max_exs" in opt:  # the options are those of train_model
        EvaluationOptions.of(opt)  # refuses what is wrong there before any data is read
        check_validation(opt)


def check_candidates_path(path: str) -> None:
    """Refuse a path that holds no candidates. Raises ValueError."""
    if not (milvus.is_address(path) or Path(path).is_file() or Path(path, HEADER).is_file()):
        raise InputError(
            f"--fixed-candidates-path {path}: there is no such file, and no candidate store; give a file with one "
            "candidate per line, or the folder that parlai poly_index made"
        )
