"""Find, build, save and load the model of an agent; take the options of model files that ParlAI wrote."""

import json
from pathlib import Path
from typing import Any

import torch
from parlai.core.build_data import modelzoo_path
from parlai.utils import logging

from poly_agents import zoo
from poly_agents.agents.arguments import given_lengths, is_training
from poly_agents.agents.dictionary import TokenizerDictionary
from poly_agents.errors import InputError
from poly_agents.files import atomic, checkpoint, json_files
from poly_agents.learning.schedule import WarmupLinear
from poly_agents.models import building, opening
from poly_agents.models.lengths import Lengths, fit
from poly_agents.models.textranker import TextRanker
from poly_agents.options import flag
from poly_agents.pretrained import parlai_weights
from poly_agents.rankers import agent_of
from poly_agents.scoring.ranker import Ranker
from poly_agents.text.truncation import PERSONA_SHARE, check_share, share_of


def local(path: str, datapath: str | None = None) -> str:
    """Return a path on this disk.

    Args:
        path: a path, `zoo:poly_agents/NAME/model`, or an address of ParlAI's own zoo. Checkpoints are fetched first.
        datapath: where ParlAI keeps its data; None: its default.
    """
    if path.startswith("zoo:") and not path.startswith(zoo.PREFIX):
        try:
            return modelzoo_path(zoo.data_folder(datapath), path)
        except ImportError as error:
            raise InputError(f"there is no checkpoint {path} in ParlAI's zoo; check its name") from error
    return zoo.local(path, datapath)


def take_options(opt, agent: str, start: str | None, is_finetune: bool) -> None:
    """Take what a model file says of its options, where the command line gives no others.

    The share of persona lines is that of the file to start from. Of a model that ParlAI's own rankers saved it is all.

    Args:
        opt: changed in place.
        agent: the name of this agent.
        start: the model file to start from, if there is one.
        is_finetune: whether it was given as `--init-model`.

    Raises:
        ValueError: it is a model of another agent, or would be overwritten by training.
    """
    header = opening.read_header(start) if start else {"persona_share": PERSONA_SHARE}
    if opt.get("persona_share") is None:
        opt["persona_share"] = share_of(header)
    check_share(opt["persona_share"])
    if not start or not parlai_weights.owns(start):
        return
    if header["agent"] != agent:
        raise InputError(f"{start} is a {header['parlai']} of ParlAI: give -m poly_agents/{header['agent']}")
    if not is_finetune and is_training(opt):
        raise InputError(
            f"--model-file {start} is ParlAI's own and stays as it is; to train on, give --init-model {start} "
            "and another --model-file"
        )
    given = opt.get("override", {})
    opt.update({key: value for key, value in checkpoint.settings(header).items() if key not in given})
    opt.update(fp16=False, force_fp16_tokens=False)  # they say how it was trained, not how the encoder is run


def build(kind: type[Ranker], opt, dictionary: TokenizerDictionary, start: str | None, use_cuda: bool) -> Ranker:
    """Build the ranker of an agent: blank, if ParlAI loads a model file next, else over its pretrained backbone.

    Args:
        kind: the class of the ranker.
        opt: ParlAI's options.
        dictionary: of the agent.
        start: the model file that will be loaded, or None.
        use_cuda: whether it will run on a GPU.

    Returns:
        The ranker. In `opt`, lengths that nobody gave are taken down to what its encoder has positions for.

    Raises:
        ValueError: the encoder has too few positions for the lengths that are given, or the options do not suit it.
    """
    options, device = kind.Options.of(opt), "cuda" if use_cuda else "cpu"
    text, label = opt["text_truncate"], opt["label_truncate"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(opt.get("seed") or 0)  # ParlAI sets --seed only after the model is made
        if start:
            saved = opening.read_weights(start).header
            opening.check_tokenizer(dictionary.words, saved, start)
            options = options.fill_open(saved["options"])
            header = saved | {"agent": agent_of(kind), "options": vars(options), "label_truncate": label}
            model = building.blank(header, dictionary.words, device, is_training(opt), start)
        else:
            source = zoo.backbone(options.source)
            model = building.start(agent_of(kind), options, source, dictionary.words, device, label)
    opt.update(fit(model, Lengths(text, label), given_lengths(opt))._asdict())
    logging.info(f"--precision {options.precision}: products in {model.context_encoder.dtype}")
    return model


def fill(ranker: Ranker, saved: checkpoint.Checkpoint, path: str) -> None:
    """Load the weights of a model file into a ranker.

    Raises:
        ValueError: they do not fit. The message names the options that differ, with both values.
    """
    try:
        ranker.load_tensors(saved.weights, path)
    except InputError as error:
        trained = saved.header["options"]
        given = {name: value for name, value in vars(ranker.options).items() if value != trained.get(name, value)}
        wrong = [name for name in given if name not in ("backbone", "precision", "dropout", "freeze_embeddings")]
        if not wrong:
            raise
        options = ", ".join(f"{flag(name)} {trained[name]}, not {given[name]}" for name in wrong)
        raise InputError(f"{path} was trained with {options}; leave out what differs") from error


def save(
    path: str, model: TextRanker, opt, counters: dict[str, Any], scheduler: Any | None, optimizer: dict | None
) -> None:
    """Write a model file with its `.opt` and `.dict`.

    Args:
        path: of the model file.
        model: the model.
        opt: ParlAI's options.
        counters: what the header says of the training so far.
        scheduler: of the learning rate. The state of one of ParlAI's own goes into the header.
        optimizer: what `optimizer.state_dict()` returns, for a checkpoint; else None.
    """
    if scheduler is not None and not isinstance(scheduler, WarmupLinear):
        counters = counters | {
            "lr_scheduler": scheduler.get_state_dict(),
            "lr_scheduler_type": opt["lr_scheduler"],
            "warmup_scheduler": scheduler.get_warmup_state_dict(),
        }
    if optimizer is not None:
        counters = counters | {"optimizer_type": opt["optimizer"]}
    model.tokenizer.save(f"{path}.dict")
    atomic.replace(f"{path}.opt", opt.save)
    checkpoint.write(path, model.header() | counters, model.ranker.tensors(), optimizer)


def restore_trainstats(path: str, header: dict[str, Any], opt) -> None:
    """Make `PATH.trainstats`, from which ParlAI goes on, agree with the model file beside it.

    ParlAI writes its counters after the weights and in place, so a kill can leave old ones, half a file or none. A
    model file has the counters of its own time in its header.

    Args:
        path: of the model file.
        header: of the model file.
        opt: ParlAI's options. Nothing is written unless they train this model.
    """
    if not is_training(opt) or path.removesuffix(".checkpoint") != opt.get("model_file"):
        return
    file = Path(f"{path}.trainstats")
    stats = read_trainstats(file)
    if stats is None:
        logging.warning(f"{file} was cut off by a kill; the counters are taken from {path}")
        stats = read_trainstats(file.with_name(f"{file.name}.previous")) or {}  # earlier versions kept one
    elif not path.endswith(".checkpoint"):
        return  # the run may have gone on after its best model was saved
    updates = header.get("number_training_updates", 0)
    known = header.get("train_stats") or ({} if stats else {"parleys": updates, "train_steps": updates})
    reports = stats.get("valid_reports", [])
    reports = reports + [report for report in known.get("valid_reports", []) if report not in reports]
    atomic.write_text(file, json.dumps(stats | known | {"valid_reports": reports}, indent=4))


def read_trainstats(file: Path) -> dict[str, Any] | None:
    """Read ParlAI's counters. Returns nothing if there is no file, and None if it is damaged."""
    try:
        stats = json_files.read(file) if file.exists() else {}
    except ValueError:
        return None
    return stats if isinstance(stats, dict) else None
