"""Write the files that several formats share: tokenizer, encoder, README, and the modules of sentence-transformers."""

import inspect
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers import Tokenizer as Backend
from torch import nn

from poly_agents.encoders.backbone import Backbone
from poly_agents.errors import InputError
from poly_agents.models.textranker import TextRanker
from poly_agents.pretrained import sentence_transformers
from poly_agents.text.tokenizer import Tokenizer

ACTIVATIONS = {ours: theirs for theirs, ours in sentence_transformers.ACTIVATIONS.items()}
IDENTITY = ACTIVATIONS["identity"]
POOLINGS = {ours: theirs for theirs, ours in sentence_transformers.POOLINGS.items()}
TURNS = "a\nb"  # two turns


def longest(encoder: Backbone, length: int) -> int:
    """Return a length in tokens, or the positions of the encoder if there are fewer."""
    return min(length, encoder.positions)


def write_encoder(tokenizer: Tokenizer, encoder: Backbone, folder: Path, length: int) -> str:
    """Write an encoder with its tokenizer, as `AutoModel` opens them. Returns what `write_tokenizer` does."""
    encoder.model.save_pretrained(folder)
    return write_tokenizer(tokenizer, encoder, folder, length)


def write_tokenizer(tokenizer: Tokenizer, encoder: Backbone, folder: Path, length: int) -> str:
    """Write a tokenizer that `AutoTokenizer` opens.

    Args:
        tokenizer: the tokenizer of a model.
        encoder: tells whether there are segments.
        folder: where to write.
        length: the longest text in tokens, special tokens included.

    Returns:
        The separator to write between two turns, in words. It is a newline, or the separator token itself if the
        tokenizer's own steps would drop a newline before it can be replaced.
    """
    from transformers import PreTrainedTokenizerFast

    token = tokenizer.backend.id_to_token
    separator = token(tokenizer.turn_id)
    backend = with_newlines(tokenizer.backend, separator)
    newlines_work = backend.encode(TURNS, add_special_tokens=False).ids == tokenizer.ids(TURNS)
    if not newlines_work:
        backend = Backend.from_str(tokenizer.backend.to_str())
    special = {"pad_token": token(tokenizer.pad_id), "sep_token": separator}
    before = tokenizer.frame.single[0].ids
    if before:
        special["cls_token"] = token(before[0])
    unknown = getattr(backend.model, "unk_token", None)
    if unknown:
        special["unk_token"] = unknown
    names = ["input_ids", "token_type_ids", "attention_mask"]
    if not encoder.segments:
        names.remove("token_type_ids")
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **special,
        model_max_length=length,
        model_input_names=names,
    ).save_pretrained(folder)
    return "a newline" if newlines_work else f"`{separator}`"


def with_newlines(backend: Backend, separator: str) -> Backend:
    """Copy a tokenizer so that it reads a newline as the separator between turns.

    The copy replaces each newline by the separator's text, and then finds that among its tokens.
    """
    settings = json.loads(backend.to_str())
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": "\n"}, "content": separator}]
    if settings["normalizer"]:
        steps.append(settings["normalizer"])
    settings["normalizer"] = {"type": "Sequence", "normalizers": steps}
    for token in settings["added_tokens"]:
        token["normalized"] |= token["content"] == separator
    return Backend.from_str(json.dumps(settings))


def write_readme(model: TextRanker, folder: Path, separator: str, use: str) -> None:
    """Write README.md: what the other library cannot read from its own files.

    Args:
        model: the model that was exported.
        folder: where to write.
        separator: the separator to write between two turns, in words.
        use: how to open the files, and how to make a score of them.
    """
    agent = model.header()["agent"]
    share = model.persona_share
    persona = f" Lines that begin with `your persona:` stay, up to {share:.0%} of the tokens." if share else ""
    text = f"""# A {agent} ranker of poly_agents

{use}

Join the turns of a context, oldest first, with {separator}. poly_agents keeps the last {model.text_truncate} tokens of
a context and the first {model.label_truncate} of a candidate. Other libraries cut off the end of both, so shorten long
contexts from the front.{persona}
"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# --- modules of sentence-transformers ---------------------------------------------------------------------------------


def check_pooling(reduction: str) -> None:
    """Raise ValueError if sentence-transformers has no pooling that does the same as a reduction."""
    if reduction not in POOLINGS:
        raise InputError(f"sentence-transformers has no pooling for --reduction {reduction}; take --to onnx")


def transformer(encoder: Backbone, length: int) -> dict[str, Any]:
    """Return the settings of the module that runs the encoder."""
    settings: dict[str, Any] = {"max_seq_length": length, "do_lower_case": False}
    if "add_pooling_layer" in inspect.signature(type(encoder.model)).parameters:
        settings["model_args"] = {"add_pooling_layer": False}  # no module reads the pooler, and no weights are saved
    return settings


def pooling(width: int, reduction: str) -> dict[str, Any]:
    """Return the settings of a pooling."""
    modes = {flag: name == POOLINGS[reduction] for flag, name in sentence_transformers.EARLIER.items()}
    return {"word_embedding_dimension": width, "include_prompt": True} | modes


def dense(width: int, out: int, bias: bool, activation: str) -> dict[str, Any]:
    """Return the settings of a dense layer."""
    return {"in_features": width, "out_features": out, "bias": bias, "activation_function": activation}


def prompts(model: TextRanker) -> dict[str, str]:
    """Return the prompts as text to be put before a query and a document, with a space at the end if one is needed.

    Raises:
        ValueError: a prompt gets other tokens when a text follows it.
    """
    options, found = model.ranker.options, {}
    for side, text in (("query", options.context_prompt), ("document", options.candidate_prompt)):
        separated = [each for each in (text, f"{text} ") if model.tokenizer.separates(each)]
        if not separated:
            raise InputError(
                f"the prompt {text!r} gets other tokens when a text follows it, and other libraries tokenize both "
                "together; take --to onnx"
            )
        found[side] = separated[0]
    return found


def write_linear(layer: nn.Linear, folder: Path) -> None:
    """Write the weights of a dense layer into a new folder."""
    folder.mkdir()
    weights = {f"linear.{name}": part.detach().cpu().contiguous() for name, part in layer.named_parameters()}
    save_file(weights, folder / "model.safetensors")


def write_modules(folder: Path, modules: list[tuple[str, dict[str, Any] | None]]) -> None:
    """Write modules.json, and the settings of each module in a folder of its own.

    Args:
        folder: where to write.
        modules: name and settings of each, in order. Without settings (None) its files are in `folder` itself.
    """
    listed = []
    for number, (kind, settings) in enumerate(modules):
        path = "" if settings is None else f"{number}_{kind.rpartition('.')[2]}"
        full = kind if "." in kind else f"sentence_transformers.models.{kind}"
        listed.append({"idx": number, "name": str(number), "path": path, "type": full})
        if settings:
            (folder / path).mkdir(exist_ok=True)
            write_json(folder / path / "config.json", settings)
    write_json(folder / "modules.json", listed)
