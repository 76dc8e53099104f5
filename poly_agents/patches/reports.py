"""Patches of the report of an evaluation that ParlAI prints: each measure once, in a short table."""

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

# Measures that are the same as another one wherever a context has one right response. The report keeps all of them.
SAME = {"accuracy": "hits@1", "p@1": "hits@1", "ndcg@1": "hits@1", "map": "mrr"}
SAME_AT_K = {"recall_any": "hits", "recall_share": "hits"}
OF_WORDS = {"bleu-4", "f1", "precision", "recall"}  # ParlAI's, of the words that the best candidate and the label share
OF_SPEED = {"clen", "ctrunclen", "llen", "ltrunclen", "exps", "gpu_mem", "lr", "total_train_updates"}
OF_SPEED |= {"ctpb", "ctps", "ltpb", "ltps", "tpb", "tps"}
ENDS = ("_low", "_high")
FIRST = ("hits", "recall_any", "recall_share", "mrr", "map", "ndcg", "rank", "loss")  # the others follow by their names

Values = dict[str, float]


def patch_evaluation(script) -> None:
    """Print the report of `parlai eval_model` once, and ask for a task that was not given.

    ParlAI prints the report for each task, and then for all of them. The table at the end has a column for each task.
    This patch can go when ParlAI prints it alone, and names the flag that is missing.
    """
    script.logging = SimpleNamespace(**vars(script.logging) | {"report": lambda message: None})
    evaluate = script.eval_model

    def eval_model(opt):
        if not opt.get("task") and not opt.get("evaltask"):
            from poly_agents.errors import InputError

            raise InputError("there is no task to evaluate on; give one: -t poly_agents:chitchat")
        return evaluate(opt)

    script.eval_model = eval_model


def short(of_parlai: Callable[[Mapping[str, Any]], str]) -> Callable[[Mapping[str, Any]], str]:
    """Return a function that formats the report of a ranking as a short table, and any other one as ParlAI does."""

    def nice_report(report: Mapping[str, Any]) -> str:
        is_ranking = any(name.rpartition("/")[2].startswith("recall_any@") for name in report)
        return table({name: float(value) for name, value in report.items()}) if is_ranking else of_parlai(report)

    return nice_report


def table(report: Values) -> str:
    """Format measures as a table: a line for each, a column for each task.

    Args:
        report: measures by name. Those of one task of several are called TASK/NAME, and NAME is of all of them.

    >>> print(table({"exs": 8, "hits@1": 0.5, "accuracy": 0.5, "recall_any@1": 0.5, "mrr": 0.625, "map": 0.625}))
       hits@1  0.5000
       mrr     0.6250
       exs     8
    """
    tasks: dict[str, Values] = {"all": {}}
    for name, value in report.items():
        task, _, measure = name.rpartition("/")
        tasks.setdefault(task or "all", {})[measure] = value
    names = [name for name in dict.fromkeys(name for one in tasks.values() for name in one) if is_shown(name, tasks)]
    names.sort(key=place)
    lines = [[name, *(cell(name, values) for values in tasks.values())] for name in names]
    if len(tasks) > 1:
        lines.insert(0, ["", *tasks])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(f"   {line}".rstrip() for line in padded)


def is_shown(name: str, tasks: Mapping[str, Values]) -> bool:
    """Tell whether a measure is in the table: it says of some task what no other one says."""
    measure, _, k = name.partition("@")
    if name in OF_WORDS | OF_SPEED or name.endswith(ENDS):
        return False
    if measure == "hits":
        return any(f"recall_any@{k}" in values for values in tasks.values())  # those that were asked for
    if name in ("ctrunc", "ltrunc"):
        return any(values.get(name) for values in tasks.values())
    twin = f"{SAME_AT_K[measure]}@{k}" if measure in SAME_AT_K else SAME.get(name)
    return not twin or any(name in values and not equal(values[name], values.get(twin)) for values in tasks.values())


def equal(value: float, other: float | None) -> bool:
    return other is not None and (math.isclose(value, other, abs_tol=1e-6) or (math.isnan(value) and math.isnan(other)))


def place(name: str) -> tuple[int, int, str]:
    """Return where a measure stands in the table, as a key to sort by."""
    measure, _, k = name.partition("@")
    kind = FIRST.index(measure) if measure in FIRST else len(FIRST) + (name == "exs")
    return kind, int(k) if k.isdecimal() else 0, name


def cell(name: str, values: Values) -> str:
    """Format a value, and its interval if there is one.

    >>> cell("mrr", {"mrr": 0.625, "mrr_low": 0.5, "mrr_high": 0.75}), cell("exs", {"exs": 12000})
    ('0.6250 [0.5000, 0.7500]', '12000')
    """
    if name not in values:
        return ""
    if name == "exs":
        return f"{values[name]:.0f}"
    twin = name if f"{name}_low" in values else name.replace("hits@", "recall_any@")  # ParlAI's own hits@k have none
    interval = [f"{values[twin + end]:.4f}" for end in ENDS if twin + end in values]
    return f"{values[name]:.4f}" + (f" [{', '.join(interval)}]" if interval else "")
