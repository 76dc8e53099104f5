"""Export trained models for other libraries: `parlai poly_export`, or `export(model, "onnx", folder)`.

    sentence-transformers   bi: SentenceTransformer    cross: CrossEncoder    late: MultiVectorEncoder, and PyLate
    huggingface             bi: AutoModel              cross: AutoModelForSequenceClassification
    onnx, torch-export      bi, poly, late, cross: graphs (`graphs.py`)

A README.md in every folder says what the other library cannot read from its own files: how to join turns, what is
truncated, and how to make a score.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from poly_agents.errors import InputError
from poly_agents.export import bi, cross, graphs, late
from poly_agents.files import atomic
from poly_agents.models.textranker import TextRanker

WRITERS: dict[tuple[str, str], Callable[[TextRanker, Path], None]] = {
    ("bi", "sentence-transformers"): bi.write_sentence_transformers,
    ("bi", "huggingface"): bi.write_huggingface,
    ("cross", "sentence-transformers"): cross.write_sentence_transformers,
    ("cross", "huggingface"): cross.write_huggingface,
    ("late", "sentence-transformers"): late.write_sentence_transformers,
}
FORMATS = ("sentence-transformers", "huggingface", *graphs.WRITERS)


def export(model: TextRanker, format: str, folder: str | Path) -> list[Path]:
    """Write a model as a new folder that another library opens, with equal scores.

    Args:
        model: a model that was loaded in float32.
        format: one of `FORMATS`.
        folder: where to write. It may exist if it is empty.

    Returns:
        The files that were written.

    Raises:
        ValueError: the format has nothing that does the same, the model is not in float32, or the folder is not empty.

    >>> import poly_agents
    >>> model = poly_agents.load("models/bi/model", "float32")  # doctest: +SKIP
    >>> export(model, "sentence-transformers", "exported")  # doctest: +SKIP
    """
    if format not in FORMATS:
        raise InputError(f"--to {format}: there are {', '.join(FORMATS)}")
    encoders = {model.ranker.context_encoder, model.ranker.candidate_encoder}
    if any(encoder.model.dtype != torch.float32 for encoder in encoders):
        raise InputError("an export is in float32; load the model with precision='float32'")
    agent = model.header()["agent"]
    if agent in ("cross", "late") and model.ranker.options.from_backbone:
        raise InputError(
            f"this {agent} was trained with --start backbone, and no other library scores so; train one with "
            "--start paper"
        )
    if "parlai" in model.tokenizer.settings:
        raise InputError("the dictionary of this model is ParlAI's own: no other library makes the same ids of a text")
    atomic.new_folder(folder, writer_of(model, format))
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def writer_of(model: TextRanker, format: str) -> Callable[[Path], None]:
    """Return what fills a folder with a model in some format. Raises ValueError if nothing does."""
    if format in graphs.WRITERS:
        return partial(graphs.write, model, format)
    agent = model.header()["agent"]
    if (agent, format) not in WRITERS:
        known = ", ".join(name for name, its_format in WRITERS if its_format == format)
        raise InputError(
            f"{format} has no format for {agent}, only for {known}; --to onnx and --to torch-export take more"
        )
    return partial(WRITERS[agent, format], model)
