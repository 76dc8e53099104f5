"""Export bi-encoders: `SentenceTransformer` or `AutoModel` opens them.

If contexts and candidates have an encoder each, the folders `context/` and `candidate/` hold one model each.
"""

from pathlib import Path

from poly_agents.encoders.backbone import Backbone
from poly_agents.errors import InputError
from poly_agents.export import files
from poly_agents.models.textranker import TextRanker
from poly_agents.rankers.bi import BiOptions, BiRanker


def write_sentence_transformers(model: TextRanker, folder: Path) -> None:
    """Write a model for `SentenceTransformer`. Raises ValueError if it has no modules that do the same."""
    options = model.ranker.options
    check_candidate_map(options, "sentence-transformers")
    files.check_pooling(options.reduction)
    use = "Open it with `SentenceTransformer(folder)`: `encode_query` for contexts, `encode_document` for candidates."
    for place, encoder in encoders_by_folder(model.ranker, folder).items():
        length = longest_text(model, encoder)
        separator = files.write_encoder(model.tokenizer, encoder, place, length)
        write_modules(model, encoder, place, length)
        files.write_readme(model, place, separator, f"{use} {describe_score(options)}")


def write_huggingface(model: TextRanker, folder: Path) -> None:
    """Write a model for `AutoModel`. Raises ValueError if it has layers after the encoder."""
    options = model.ranker.options
    check_candidate_map(options, "huggingface")
    if options.bi_dense:
        raise InputError("AutoModel has no dense layer after its states; take --to sentence-transformers, or onnx")
    use = (
        "Open it with `AutoModel.from_pretrained(folder)`. The vector of a text is the "
        f"`{options.reduction}` of its last hidden states."
    )
    for place, encoder in encoders_by_folder(model.ranker, folder).items():
        separator = files.write_encoder(model.tokenizer, encoder, place, longest_text(model, encoder))
        files.write_readme(model, place, separator, f"{use} {describe_score(options)}")


def check_candidate_map(options: BiOptions, format: str) -> None:
    """Raise ValueError if candidates pass through layers that contexts do not."""
    if options.bi_candidate_map:
        raise InputError(f"{format} has no dense layers for candidates alone, as this model has; take --to onnx")


def encoders_by_folder(ranker: BiRanker, folder: Path) -> dict[Path, Backbone]:
    """Return the encoders, each with the folder that it is written to."""
    if ranker.context_encoder is ranker.candidate_encoder:
        return {folder: ranker.context_encoder}
    return {folder / "context": ranker.context_encoder, folder / "candidate": ranker.candidate_encoder}


def longest_text(model: TextRanker, encoder: Backbone) -> int:
    """Return the length of the longest context or candidate in tokens, with its special tokens and prompt."""
    frame = model.ranker.frame
    prompt = max(len(frame.context_prompt), len(frame.candidate_prompt))
    return files.longest(encoder, frame.single_length + prompt + max(model.text_truncate, model.label_truncate))


def describe_score(options: BiOptions) -> str:
    """Describe how two vectors are scored, and which prompts come before the texts.

    >>> describe_score(BiOptions(bi_cosine=True, context_prompt="query: ", candidate_prompt=""))
    "The score of two vectors is their cosine times 20. The prompt is 'query: ' before each context."
    """
    score = f"their cosine times {options.bi_scale:g}" if options.bi_cosine else "their inner product"
    sides = {"context": options.context_prompt, "candidate": options.candidate_prompt}
    prompts = " and ".join(f"{text!r} before each {side}" for side, text in sides.items() if text)
    sentence = f"The score of two vectors is {score}."
    return f"{sentence} The prompt is {prompts}." if prompts else sentence


def write_modules(model: TextRanker, encoder: Backbone, folder: Path, length: int) -> None:
    """Write what sentence-transformers does after the encoder."""
    options = model.ranker.options
    modules = [("Transformer", None), ("Pooling", files.pooling(encoder.width, options.reduction))]
    if options.bi_dense:
        activation = files.ACTIVATIONS[options.bi_activation]
        modules.append(("Dense", files.dense(encoder.width, options.bi_dense, True, activation)))
        files.write_linear(model.ranker.dense[0], folder / "2_Dense")
    if options.bi_cosine:
        modules.append(("Normalize", {}))
    files.write_modules(folder, modules)
    files.write_json(folder / "sentence_bert_config.json", files.transformer(encoder, length))
    general = {
        "model_type": "SentenceTransformer",
        "similarity_fn_name": "cosine" if options.bi_cosine else "dot",
        "prompts": files.prompts(model),
    }
    files.write_json(folder / "config_sentence_transformers.json", general)
