"""Open a model file, whoever wrote it: this project, or one of ParlAI's own rankers.

    open_model(path) -> Opened(header, weights, tokenizer, optimizer)

The format is read off the first bytes of the file and off the `.opt` beside it. Nothing is executed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from poly_agents.errors import InputError, MissingFileError
from poly_agents.files import checkpoint
from poly_agents.files.checkpoint import Checkpoint, Weights
from poly_agents.files.regular import check_regular
from poly_agents.models.headers import check_header, check_types
from poly_agents.pretrained import classifiers, hub_files, parlai_tokenizer, parlai_weights
from poly_agents.text.tokenizer import Tokenizer, read_saved

TOKENIZER = "tokenizer"  # the entry of a header with the digest of the tokenizer
ZIP, OLD_TORCH = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # first bytes since torch 1.6, and before it


class Opened(NamedTuple):
    """Everything a model file and the `.dict` beside it hold."""

    header: dict[str, Any]  # agent, options, backbone, text_truncate, label_truncate
    weights: Weights
    tokenizer: Tokenizer
    path: str = "the model file"  # for errors


def open_model(path: str) -> Opened:
    """Open a model file and its tokenizer.

    Args:
        path: a file on this disk, with `path.dict` beside it, and `path.opt` where ParlAI wrote it.

    Raises:
        ValueError: a file is missing, damaged, or in another format. The message names the file.
    """
    saved = read_weights(path)
    tokenizer = read_tokenizer(f"{path}.dict")
    check_tokenizer(tokenizer, saved.header, path)
    return Opened(saved.header, saved.weights, tokenizer, path)


def read_weights(path: str) -> Checkpoint:
    """Read header and weights of a model file, without its tokenizer. Raises ValueError as `open_model` does."""
    check_model_file(path)
    saved = parlai_weights.read(path) if written_by_torch(path) else checkpoint.read(path)
    check_header(saved.header, saved.weights, path)
    return saved


def read_header(path: str) -> dict[str, Any]:
    """Read the header alone, which is fast for a file of any size. Raises ValueError as `open_model` does."""
    check_model_file(path)
    header = parlai_weights.read_header(path) if written_by_torch(path) else checkpoint.read_header(path)
    check_types(header, path)
    return header


def check_model_file(path: str) -> None:
    """Raise ValueError unless a path is a file. The message for a folder says how to give what is in it."""
    folder = Path(path)
    if path and (folder / "model").is_file():
        raise InputError(f"{path} is a folder; give the model file in it, {folder / 'model'}")
    if path and (folder / "config.json").is_file():
        config = (folder / "config.json").read_text(encoding="utf-8", errors="replace")
        agent = "cross" if "ForSequenceClassification" in config else "bi"
        raise InputError(
            f"{path} is a folder of HuggingFace's format, not a model file; make a ranker of it: "
            f"poly_agents.start({agent!r}, backbone={path!r}), or -m poly_agents/{agent} --backbone {path}"
        )
    check_regular(path, "model file")


def read_tokenizer(path: str) -> Tokenizer:
    """Read a `.dict` file: one that `Tokenizer.save` wrote, or the dictionary of a model of ParlAI's own.

    Raises:
        ValueError: it is neither.
    """
    if parlai_weights.owns(path.removesuffix(".dict")):
        return parlai_tokenizer.convert(path)
    saved = read_saved(path)
    kind = parlai_tokenizer.ParlaiTokenizer if "parlai" in saved else Tokenizer
    tokenizer = kind.from_saved(saved, path)
    tokenizer.read_digest = saved.get("digest", "")
    return tokenizer


def check_tokenizer(tokenizer: Tokenizer, header: Mapping[str, Any], path: str) -> None:
    """Raise ValueError unless a tokenizer is the one that a model was saved with. Older model files do not say."""
    wanted = header.get(TOKENIZER)
    if wanted not in (None, tokenizer.read_digest) and wanted != tokenizer.digest:
        raise InputError(
            f"{path} was saved with another tokenizer than the one it is given now; put its own .dict beside it"
        )


def pretrained_tokenizer(source: str) -> Tokenizer:
    """Return the tokenizer of a backbone: a HuggingFace name or folder, or a model file."""
    if Path(source).is_file():
        return read_tokenizer(f"{source}.dict")
    if not Path(source).exists() and (source.startswith(("/", ".", "~")) or source.count("/") > 1):
        raise MissingFileError(f"there is no backbone {source}, neither a folder nor a model file; give another path")
    hub_files.check_files(source)
    tokenizer = Tokenizer.pretrained(source)
    if not tokenizer.frame.pair[1].ids and not classifiers.has_decoder_head(source):
        tokenizer.separate_pairs()
    return tokenizer


def written_by_torch(path: str) -> bool:
    """Tell whether torch wrote a file. Then it is ParlAI's."""
    if not Path(path).is_file():
        return False
    try:
        with open(path, "rb") as file:
            return file.read(16).startswith((ZIP, OLD_TORCH))
    except OSError:
        return False
