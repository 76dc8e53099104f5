"""Cards of trained models: the README that HuggingFace's hub shows, with the metrics and how to load the model."""

import importlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from poly_agents.errors import InputError
from poly_agents.files import checkpoint, json_files
from poly_agents.models import opening
from poly_agents.options import flag
from poly_agents.rankers import ranker_class
from poly_agents.zoo.catalogue import BACKBONES

METRICS = ("hits@1", "hits@5", "hits@10", "mrr", "map", "ndcg@10")
TRAINING = ("task", "batchsize", "negatives", "learningrate", "optimizer", "lr_scheduler", "warmup_updates", "seed")


class Evaluated(NamedTuple):
    """The report of an evaluation."""

    task: str
    split: str
    report: dict[str, float]

    @property
    def metrics(self) -> list[str]:
        """List the metrics of the report that a card shows."""
        return [name for name in METRICS if name in self.report]

    def interval(self, name: str) -> list[float] | None:
        """Return the 95% interval of a metric, or None if the evaluation ran without --confidence true."""
        name = name.replace("hits@", "recall_any@")  # hits@k is ParlAI's name for it
        ends = [self.report.get(f"{name}_{end}") for end in ("low", "high")]
        return None if None in ends else ends


class Model(NamedTuple):
    """The facts of a model that its card states, read from its files."""

    name: str
    agent: str
    base: str  # the weights it started from
    options: dict[str, Any]
    training: dict[str, Any]  # options of the training; empty if there was none
    updates: int
    seen: dict[str, int]  # task -> examples
    settings: dict[str, Any]  # every option, truncation included

    @classmethod
    def read(cls, model_file: str, name: str) -> "Model":
        """Read a model file and its `.opt`, without paths of this machine."""
        header, opt = opening.read_header(model_file), read_opt(model_file)
        options = {key: portable(value) for key, value in header["options"].items()}
        base, updates = options["backbone"], header.get("number_training_updates", 0)
        training = {key: portable(opt[key]) for key in TRAINING if opt.get(key) not in (None, "")}
        return cls(
            name,
            header["agent"],
            BACKBONES[base].repo if base in BACKBONES else base,
            options,
            training if updates else {},
            updates,
            header.get("examples_seen", {}),
            checkpoint.settings(header | {"options": options}),
        )


def read_opt(model_file: str) -> dict[str, Any]:
    """Read the options that ParlAI saved beside a model."""
    return json_files.read(f"{model_file}.opt")


def portable(value: Any) -> Any:
    """Reduce a path to its last part, so that it says nothing about this machine. `zoo:` addresses stay.

    >>> portable("/home/me/models/bert"), portable("zoo:poly_agents/minilm/model"), portable("org/model")
    ('bert', 'zoo:poly_agents/minilm/model', 'org/model')
    """
    if isinstance(value, str) and (re.match(r"[/~.]|[A-Za-z]:[\\/]", value) or value.count("/") > 1):
        return value if value.startswith("zoo:") else Path(value).name
    return value


def evaluations(model_file: str, reports: Sequence[str]) -> list[Evaluated]:
    """Read the reports of `eval_model --report-filename`, or without any, those that `train_model` wrote at its end.

    Raises ValueError for a file that is no such report.
    """
    if reports:
        return [read_report(path) for path in reports]
    stats = Path(f"{model_file}.trainstats")
    if not stats.is_file():
        return []
    opt, saved = read_opt(model_file), json_files.read(stats)
    found = {split: saved.get(f"final_{split}_report") for split in ("test", "valid")}
    return [Evaluated(opt.get("evaltask") or opt["task"], split, report) for split, report in found.items() if report]


def read_report(path: str) -> Evaluated:
    """Read a report. Raises ValueError if the file is none."""
    try:
        saved = json_files.read(path)
        opt, report = saved["opt"], saved["report"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not what `eval_model --report-filename` writes ({error!r})") from error
    return Evaluated(opt["task"], opt["datatype"].partition(":")[0], report)


def card(
    model_file: str, name: str, address: str, reports: Sequence[str], licence: str | None, language: str | None
) -> str:
    """Write the card of a model file.

    Args:
        model_file: of the model.
        name: the model's name, which is the card's title.
        address: what loads the model, as `zoo:poly_agents/hub/ORG/NAME/model`.
        reports: of evaluations; see `evaluations`.
        licence: of the weights, by the hub's names, as `mit`.
        language: of the data, as `en`.
    """
    model, evaluated = Model.read(model_file, name), evaluations(model_file, reports)
    system = (importlib.import_module(ranker_class(model.agent).__module__).__doc__ or model.agent).partition("\n")[0]
    sections = [
        f"---\n{header(model, evaluated, licence, language)}\n---",
        f"# {name}",
        f"`-m poly_agents/{model.agent}`: {system.rstrip('.:')}. It ranks candidate responses to a dialogue's context; "
        "turns are separated by newlines.",
        "## Metrics",
        metrics_table(evaluated),
        "## Load it",
        usage(model.agent, address),
        "## Training",
        training_summary(model),
    ]
    if model.training:
        sections.append(option_table(model.training))
    return "\n\n".join([*sections, "## Options", option_table(model.settings)]) + "\n"


def header(model: Model, evaluated: Sequence[Evaluated], licence: str | None, language: str | None) -> str:
    """Write the YAML that the hub reads."""
    from huggingface_hub import ModelCardData

    tasks = dict.fromkeys([*model.seen, *(each.task for each in evaluated)])
    data = ModelCardData(
        language=language,
        license=licence,
        library_name="poly_agents",
        pipeline_tag="text-ranking",
        base_model=model.base if re.fullmatch(r"[\w.-]+/[\w.-]+", model.base) else None,
        datasets=[task.removeprefix("poly_agents:") for task in tasks] or None,
        tags=["parlai", "response-selection", f"{model.agent}-ranker"],
        model_name=model.name,
        eval_results=[result(each, metric) for each in evaluated for metric in each.metrics] or None,
    )
    return data.to_yaml()


def result(evaluated: Evaluated, metric: str):
    """Describe one metric as the hub wants it."""
    from huggingface_hub import EvalResult

    interval = evaluated.interval(metric)
    return EvalResult(
        task_type="text-ranking",
        dataset_type=evaluated.task,
        dataset_name=evaluated.task.removeprefix("poly_agents:"),
        dataset_split=evaluated.split,
        metric_type=metric,
        metric_value=evaluated.report[metric],
        metric_args=None if interval is None else {"interval_95": interval},
    )


def metrics_table(evaluated: Sequence[Evaluated]) -> str:
    """Write a table with a line for each evaluation."""
    if not evaluated:
        return "Not evaluated."
    names = [name for name in METRICS if any(name in each.metrics for each in evaluated)]
    lines = ["| data | contexts | " + " | ".join(names) + " |", "| --- | ---: |" + " ---: |" * len(names)]
    for each in evaluated:
        cells = [f"{each.task}, {each.split}", f"{each.report['exs']:,.0f}", *(cell(each, name) for name in names)]
        lines.append("| " + " | ".join(cells) + " |")
    if any(each.interval(name) for each in evaluated for name in names):
        lines += ["", "In brackets: 95% bootstrap intervals over the contexts. Ties count against the model."]
    return "\n".join(lines)


def cell(evaluated: Evaluated, name: str) -> str:
    """Write a metric with its interval, or nothing if the report lacks it."""
    if name not in evaluated.report:
        return ""
    interval = evaluated.interval(name)
    value = f"{evaluated.report[name]:.3f}"
    return value if interval is None else f"{value} [{interval[0]:.3f}, {interval[1]:.3f}]"


def usage(agent: str, address: str) -> str:
    """Show how a model is loaded from its address."""
    return f"""```
parlai eval_model -mf {address} -t TASK
parlai interactive -mf {address} -fcp FILE
parlai train_model -m poly_agents/{agent} --init-model {address} -t TASK -mf MODEL
```

```python
import poly_agents

model = poly_agents.load("{address}")
model.rank("hi, how are you?", ["fine, and you?", "it is blue"])
```"""


def training_summary(model: Model) -> str:
    """Say from which weights training started, and how long it was."""
    if not model.updates:
        return f"From `{model.base}`; not trained further."
    return f"From `{model.base}`; {model.updates:,} updates, {sum(model.seen.values()):,} examples."


def option_table(values: dict[str, Any]) -> str:
    """Write a table of options and their values."""
    lines = [f"| `{flag(key)}` | {json.dumps(value)} |" for key, value in values.items()]
    return "\n".join(["| option | value |", "| --- | --- |", *lines])
