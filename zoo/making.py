"""Make model files of this project from what others published."""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poly_agents.errors import InputError
from poly_agents.files import checkpoint, option_files
from poly_agents.files.atomic import write_text

ENCODERS = ("context_encoder.", "candidate_encoder.")  # they are never filled with random numbers


def build(agent: str, options: Mapping[str, Any], source: str, name: str, folder: Path) -> None:
    """Write `model`, `model.dict` and `model.opt` from a HuggingFace folder.

    Args:
        agent: the name of the ranker, as in `-m poly_agents/AGENT`.
        options: of the ranker.
        source: the HuggingFace folder.
        name: the name of the weights, which is the same on every machine; it goes into the model file.
        folder: where to write.

    Raises:
        ValueError: a weight outside the encoders would be left random.
    """
    from poly_agents.models.textranker import TextRanker

    model = TextRanker.start(agent, source, **options, backbone=source, precision="float32")
    ranker = model.ranker
    given = type(ranker).Options.of({**options, "backbone": source})
    pretrained = ranker.read_pretrained(given, source, model.tokenizer).weights
    random = [key for key in ranker.tensors() if not key.startswith(ENCODERS) and key not in pretrained]
    if random:
        raise InputError(
            f"{name} has no weights for {', '.join(random)} of -m poly_agents/{agent}; it is one to start from: "
            f"train_model -m poly_agents/{agent} --backbone {name}"
        )
    ranker.options = dataclasses.replace(ranker.options, backbone=name, precision="auto")
    model.save(str(folder / "model"))


def convert(folder: Path, name: str) -> None:
    """Replace the links to a ParlAI model in a folder by a model file of this project.

    The ParlAI model itself stays where the links lead.
    """
    from poly_agents.models.textranker import TextRanker

    links = list(folder.iterdir())
    TextRanker.convert(str(folder / "model"), str(folder / "converted"), name)
    for path in links:
        path.unlink()
    for path in folder.iterdir():
        path.rename(path.with_name(path.name.replace("converted", "model", 1)))


CHAT_OPTIONS = ("speakers", "history_size", "person_tokens")  # how a model was trained to see a dialogue


def rewrite_options(folder: Path) -> None:
    """Write `model.opt` again, from the header of `model`. Of the file that was fetched only plain settings stay.

    Raises:
        ValueError: `model` is not a model file of this project, or `model.opt` holds no options.
    """
    from poly_agents.models.headers import check_types

    header = checkpoint.read_header(str(folder / "model"))
    check_types(header, str(folder / "model"))
    fetched = option_files.read(folder / "model.opt")
    kept = {name: fetched[name] for name in CHAT_OPTIONS if isinstance(fetched.get(name), bool | int)}
    options = {"model": f"poly_agents/{header['agent']}"} | kept | checkpoint.settings(header)
    write_text(folder / "model.opt", json.dumps(option_files.checked(options, str(folder / "model")), indent=1))


def link(path: Path, to: Path) -> None:
    """Give a file a second name, or copy it if the disk has no hard links."""
    to.unlink(missing_ok=True)  # left by an attempt that failed
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)
