"""Export late interaction in PyLate's format, which `MultiVectorEncoder` of sentence-transformers opens too."""

from pathlib import Path
from typing import Any

from poly_agents.errors import InputError
from poly_agents.export import files
from poly_agents.models.textranker import TextRanker
from poly_agents.rankers.late import LateOptions


def write_sentence_transformers(model: TextRanker, folder: Path) -> None:
    """Write a model for PyLate and `MultiVectorEncoder`. Raises ValueError if it has two encoders."""
    ranker, encoder = model.ranker, model.ranker.context_encoder
    if encoder is not ranker.candidate_encoder:
        raise InputError(
            "sentence-transformers has one encoder for both sides, this model has one each; take --to onnx"
        )
    lengths = longest_texts(model)
    length = max(lengths.values())
    separator = files.write_encoder(model.tokenizer, encoder, folder, length)
    files.write_linear(ranker.project, folder / "1_Dense")
    projection = files.dense(encoder.width, ranker.options.late_width, False, files.IDENTITY)
    files.write_modules(folder, [("Transformer", None), ("pylate.models.Dense.Dense", projection)])
    files.write_json(folder / "sentence_bert_config.json", files.transformer(encoder, length))
    files.write_json(folder / "config_sentence_transformers.json", settings(model) | lengths)
    files.write_readme(model, folder, separator, describe_use(ranker.options))


def longest_texts(model: TextRanker) -> dict[str, int]:
    """Return the length of the longest context and candidate in tokens, with special tokens and prompt."""
    frame, encoder = model.ranker.frame, model.ranker.context_encoder
    query = frame.single_length + len(frame.context_prompt) + model.text_truncate
    document = frame.single_length + len(frame.candidate_prompt) + model.label_truncate
    return {"query_length": files.longest(encoder, query), "document_length": files.longest(encoder, document)}


def settings(model: TextRanker) -> dict[str, Any]:
    """Return the general settings. Prompts that are tokens of the vocabulary become PyLate's marks."""
    prompts = files.prompts(model)
    token_id = model.tokenizer.backend.token_to_id
    are_marks = all(not text or token_id(text) is not None for text in prompts.values())  # PyLate inserts their ids
    prefixes = {f"{side}_prefix": text if are_marks else "" for side, text in prompts.items()}
    return {
        "model_type": "ColBERT",
        "similarity_fn_name": "MaxSim",
        "prompts": {} if are_marks else prompts,
        **prefixes,
        "do_query_expansion": False,
        "attend_to_expansion_tokens": False,
        "skiplist_words": [],
    }


def describe_use(options: LateOptions) -> str:
    """Say how to open the model and how a score is made.

    >>> describe_use(LateOptions(late_scale=20.0)).partition("candidates. ")[2]
    "The score is MaxSim times 20, divided by the number of the context's tokens with its special tokens."
    """
    use = (
        "Open it with `MultiVectorEncoder(folder)`, or with PyLate's `ColBERT(folder)`: `encode_query` for contexts, "
        "`encode_document` for candidates. The score is MaxSim"
    )
    if not options.late_scale:
        return f"{use}."
    return f"{use} times {options.late_scale:g}, divided by the number of the context's tokens with its special tokens."
