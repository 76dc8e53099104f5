"""Cards of trained models, and folders that are ready to be pushed to HuggingFace's hub."""

import importlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from poly_agents.files import checkpoint
from poly_agents.files.atomic import sha256, write_text
from poly_agents.models import opening
from poly_agents.zoo.catalogue import BACKBONES
from poly_agents.zoo.sources import OURS, SUMS

CARD = "README.md"
METRICS = ("hits@1", "hits@5", "hits@10", "mrr", "map", "ndcg@10")
TRAINING = ("task", "batchsize", "negatives", "learningrate", "optimizer", "lr_scheduler", "warmup_updates", "seed")


class Evaluated(NamedTuple):
    task: str
    split: str
    report: dict[str, float]

    @property
    def metrics(self) -> list[str]:
        return [name for name in METRICS if name in self.report]

    def interval(self, name: str) -> list[float] | None:
        """The 95% interval, where the evaluation was run with --confidence true."""
        name = name.replace("hits@", "recall_any@")  # ours; hits@k is ParlAI's name for it
        ends = [self.report.get(f"{name}_{end}") for end in ("low", "high")]
        return None if None in ends else ends


def evaluations(model_file: str, reports: Sequence[str]) -> list[Evaluated]:
    """What `eval_model --report-filename` wrote; without any, what `train_model` wrote beside the model."""
    found = []
    for path in reports:
        try:
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
            opt, report = saved["opt"], saved["report"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not what `eval_model --report-filename` writes ({error!r})") from error
        found.append(Evaluated(opt["task"], opt["datatype"].partition(":")[0], report))
    stats = Path(f"{model_file}.trainstats")
    if not reports and stats.is_file():
        opt, saved = _opt(model_file), json.loads(stats.read_text(encoding="utf-8"))
        for split in ("test", "valid"):
            if report := saved.get(f"final_{split}_report"):
                found.append(Evaluated(opt.get("evaltask") or opt["task"], split, report))
    return found


def _opt(model_file: str) -> dict[str, Any]:
    return json.loads(Path(f"{model_file}.opt").read_text(encoding="utf-8"))


def portable(value: Any) -> Any:
    """A value without the place it had on this machine: of a path its last part, of a checkpoint's name all."""
    if isinstance(value, str) and (re.match(r"[/~.]|[A-Za-z]:[\\/]", value) or value.count("/") > 1):
        return value if value.startswith("zoo:") else Path(value).name
    return value


def card(
    model_file: str, name: str, address: str, reports: Sequence[str], licence: str | None, language: str | None
) -> str:
    """The card of a model file: YAML for the hub, then what it is, how good, how to load it from `address`."""
    from huggingface_hub import EvalResult, ModelCardData

    header, opt, evaluated = opening.read_header(model_file), _opt(model_file), evaluations(model_file, reports)
    agent, options = header["agent"], {key: portable(value) for key, value in header["options"].items()}
    base = options["backbone"]
    base = BACKBONES[base].repo if base in BACKBONES else base
    tasks = list(dict.fromkeys([*header.get("examples_seen", {}), *(each.task for each in evaluated)]))
    data = ModelCardData(
        language=language,
        license=licence,
        library_name="poly_agents",
        pipeline_tag="text-ranking",
        base_model=base if re.fullmatch(r"[\w.-]+/[\w.-]+", base) else None,
        datasets=[task.removeprefix("poly_agents:") for task in tasks] or None,
        tags=["parlai", "response-selection", f"{agent}-ranker"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="text-ranking",
                dataset_type=each.task,
                dataset_name=each.task.removeprefix("poly_agents:"),
                dataset_split=each.split,
                metric_type=metric,
                metric_value=each.report[metric],
                metric_args={"interval_95": ends} if (ends := each.interval(metric)) else None,
            )
            for each in evaluated
            for metric in each.metrics
        ]
        or None,
    )
    system = (importlib.import_module(f"poly_agents.rankers.{agent}").__doc__ or agent).partition("\n")[0].rstrip(".:")
    seen = sum(header.get("examples_seen", {}).values())
    updates = header.get("number_training_updates", 0)
    trained = f"{updates:,} updates, {seen:,} examples" if updates else "not trained further"
    training = {key: portable(opt[key]) for key in TRAINING if updates and opt.get(key) not in (None, "")}
    return f"""---
{data.to_yaml()}
---

# {name}

`-m poly_agents/{agent}`: {system}. It ranks candidate responses to a dialogue's context; turns are parted by newlines.

## Metrics

{_metrics(evaluated)}

## Load it

```
parlai eval_model -mf {address} -t TASK
parlai interactive -mf {address} -fcp FILE
parlai train_model -m poly_agents/{agent} --init-model {address} -t TASK -mf MODEL
```

```python
import poly_agents

model = poly_agents.load("{address}")
model.rank("hi, how are you?", ["fine, and you?", "it is blue"])
```

## Training

From `{base}`; {trained}.

{_table(training) if training else ""}

## Options

{_table(checkpoint.settings(header | {"options": options}))}
""".replace("\n\n\n", "\n")


def _metrics(evaluated: Sequence[Evaluated]) -> str:
    if not evaluated:
        return "Not evaluated."
    names = [name for name in METRICS if any(name in each.metrics for each in evaluated)]
    lines = ["| data | contexts | " + " | ".join(names) + " |", "| --- | ---: |" + " ---: |" * len(names)]
    for each in evaluated:
        cells = [f"{each.task}, {each.split}", f"{each.report['exs']:,.0f}"]
        for name in names:
            ends = each.interval(name)
            cell = f"{each.report[name]:.3f}" if name in each.report else ""
            cells.append(cell + (" [{:.3f}, {:.3f}]".format(*ends) if ends else ""))
        lines.append("| " + " | ".join(cells) + " |")
    if any(each.interval(name) for each in evaluated for name in names):
        lines += ["", "In brackets: 95% bootstrap intervals over the contexts. Ties count against the model."]
    return "\n".join(lines)


def _table(values: dict[str, Any]) -> str:
    lines = [f"| `--{key.replace('_', '-')}` | {json.dumps(value)} |" for key, value in values.items()]
    return "\n".join(["| option | value |", "| --- | --- |", *lines])


def write_card(model_file: str, reports: Sequence[str], licence: str | None, language: str | None) -> str:
    """The card beside a model file, MODEL.README.md (its folder may hold other models); where it is."""
    path = f"{model_file}.{CARD}"
    write_text(path, card(model_file, Path(model_file).absolute().parent.name, model_file, reports, licence, language))
    return path


def prepare(
    folder: str,
    model_file: str,
    reports: Sequence[str],
    licence: str | None,
    language: str | None,
    name: str | None = None,
) -> str:
    """Fill a folder with model, dictionary, options, card and digests, nothing of this machine in them; what is there.

    `name` is ORG/NAME of the hub. Raises ValueError without a licence, and where the folder holds anything else.
    """
    if not licence:
        raise ValueError("publish needs --license: what others may do with the weights, as mit or apache-2.0")
    target, files = Path(folder), (*OURS, CARD, SUMS)
    others = [path.name for path in target.iterdir() if path.name not in files] if target.is_dir() else []
    if others:
        raise ValueError(f"{folder} holds {', '.join(sorted(others)[:3])} already; give a folder of its own")
    saved = opening.read_weights(model_file)
    options = {key: portable(value) for key, value in saved.header["options"].items()}
    kept = ("agent", "backbone", "text_truncate", "label_truncate", "number_training_updates", "examples_seen")
    header = {key: saved.header[key] for key in kept if key in saved.header} | {"options": options}
    checkpoint.write(str(target / "model"), header, saved.weights)
    shutil.copyfile(f"{model_file}.dict", target / "model.dict")
    opt = {"model": f"poly_agents/{header['agent']}"} | checkpoint.settings(header)
    write_text(target / "model.opt", json.dumps(opt, indent=1))
    address = f"zoo:poly_agents/hub/{name}/model" if name else f"{target.name}/model"
    title = name.partition("/")[2] if name else target.name
    write_text(target / CARD, card(model_file, title, address, reports, licence, language))
    digests = [f"{sha256(target / file)}  {file}" for file in (*OURS, CARD)]
    write_text(target / SUMS, "\n".join(digests) + "\n")
    return "\n".join([f"{folder} is ready to be pushed:", *digests])


def push(folder: str, repo: str, token: str | None = None) -> str:
    """Push a prepared folder to ORG/NAME of HuggingFace's hub (`HF_ENDPOINT`); how to load it from there."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo, exist_ok=True)
    api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Model of poly_agents")
    return f"pushed; load it with -mf zoo:poly_agents/hub/{repo}/model"
