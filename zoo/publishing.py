"""Folders that are ready to be pushed to HuggingFace's hub: model, dictionary, options, card and digests."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from poly_agents.errors import InputError
from poly_agents.files import checkpoint
from poly_agents.files.atomic import sha256, write_text
from poly_agents.models import opening
from poly_agents.zoo.cards import card, portable
from poly_agents.zoo.checks import MODEL_FILES, SUMS

CARD = "README.md"
HEADER = ("agent", "backbone", *checkpoint.LENGTHS, opening.TOKENIZER, "number_training_updates", "examples_seen")


def write_card(model_file: str, reports: Sequence[str], licence: str | None, language: str | None) -> str:
    """Write the card of a model beside it, as MODEL.README.md, since its folder may hold other models.

    Args are those of `cards.card`. Returns the path of the card.
    """
    path = f"{model_file}.{CARD}"
    write_text(path, card(model_file, Path(model_file).absolute().parent.name, model_file, reports, licence, language))
    return path


def prepare_folder(
    folder: str,
    model_file: str,
    reports: Sequence[str],
    licence: str | None,
    language: str | None,
    name: str | None = None,
) -> str:
    """Fill a folder with model, dictionary, options, card and digests, without any path of this machine.

    Args:
        folder: to be made; it may hold what an earlier run wrote.
        model_file: of the trained model.
        reports: of evaluations, for the card.
        licence: of the weights, by the hub's names, as `mit`.
        language: of the data, as `en`.
        name: ORG/NAME on the hub, if the folder is to be pushed.

    Returns:
        A text that lists the files and their digests.

    Raises:
        ValueError: there is no licence, or the folder holds other files.
    """
    if not licence:
        raise InputError("publish needs --license: what others may do with the weights, as mit or apache-2.0")
    target = Path(folder)
    refuse_other_files(target)
    header = write_model(target, model_file)
    opt = {"model": f"poly_agents/{header['agent']}"} | checkpoint.settings(header)
    write_text(target / "model.opt", json.dumps(opt, indent=1))
    address = f"zoo:poly_agents/hub/{name}/model" if name else f"{target.name}/model"
    title = name.partition("/")[2] if name else target.name
    write_text(target / CARD, card(model_file, title, address, reports, licence, language))
    digests = [f"{sha256(target / file)}  {file}" for file in (*MODEL_FILES, CARD)]
    write_text(target / SUMS, "\n".join(digests) + "\n")
    return "\n".join([f"{folder} is ready to be pushed:", *digests])


def refuse_other_files(folder: Path) -> None:
    """Raise ValueError if a folder holds files that do not belong to a published model."""
    known = (*MODEL_FILES, CARD, SUMS)
    others = sorted(path.name for path in folder.iterdir() if path.name not in known) if folder.is_dir() else []
    if others:
        raise InputError(f"{folder} holds {', '.join(others[:3])} already; give a folder of its own")


def write_model(folder: Path, model_file: str) -> dict:
    """Write weights and dictionary to a folder, with a header that has no paths. Returns the header."""
    saved = opening.read_weights(model_file)
    options = {key: portable(value) for key, value in saved.header["options"].items()}
    header = {key: saved.header[key] for key in HEADER if key in saved.header} | {"options": options}
    checkpoint.write(str(folder / "model"), header, saved.weights)
    shutil.copyfile(f"{model_file}.dict", folder / "model.dict")
    return header


def push(folder: str, repo: str, token: str | None = None) -> str:
    """Push a prepared folder to ORG/NAME of HuggingFace's hub, or of the one that `HF_ENDPOINT` names.

    Returns a text that says how to load the model from there.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo, exist_ok=True)
    api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Model of poly_agents")
    return f"pushed; load it with -mf zoo:poly_agents/hub/{repo}/model"
