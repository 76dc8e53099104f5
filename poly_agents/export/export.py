"""Trained models as other libraries open them: `parlai poly_export`, or `export(model, "onnx", folder)`.

    sentence-transformers   bi: SentenceTransformer    cross: CrossEncoder    late: MultiVectorEncoder, and PyLate
    huggingface             bi: AutoModel              cross: AutoModelForSequenceClassification
    onnx, torch-export      bi, poly, late, cross: graphs (`graphs.py`)

Where contexts and candidates have an encoder each, `context/` and `candidate/` are a folder each. A README.md in every
folder says what the other library does not know: how turns are joined, what is cut off, and how scores are made.
"""

import copy
import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as Backend
from torch import nn

from poly_agents.encoders.backbone import Backbone
from poly_agents.export import graphs
from poly_agents.files import atomic
from poly_agents.models.textranker import TextRanker
from poly_agents.pretrained import sentence_transformers
from poly_agents.scoring import heads
from poly_agents.text.tokenizer import Tokenizer

ACTIVATIONS = {ours: theirs for theirs, ours in sentence_transformers.ACTIVATIONS.items()}
IDENTITY = ACTIVATIONS["identity"]
POOLINGS = {ours: theirs for theirs, ours in sentence_transformers.POOLINGS.items()}
TURNS = "a\nb"  # two turns
FORMATS = "sentence-transformers", "huggingface", *graphs.WRITERS


def export(model: TextRanker, to: str, folder: str | Path) -> list[Path]:
    """Write a model, loaded in float32, as a new folder in one of `FORMATS`; the files that were written.

    Raises ValueError where the format has nothing like it, and for a folder that holds something already.
    """
    if to not in FORMATS:
        raise ValueError(f"--to {to}: there are {', '.join(FORMATS)}")
    encoders = {model.ranker.context_encoder, model.ranker.candidate_encoder}
    if any(encoder.model.dtype != torch.float32 for encoder in encoders):
        raise ValueError("an export is in float32; load the model with precision='float32'")
    if "parlai" in model.tokenizer.settings:
        raise ValueError("the dictionary of this model is ParlAI's own: no other library makes the same ids of a text")
    agent = model.header()["agent"]
    if to in graphs.WRITERS:
        made = graphs.of(model.ranker)
        atomic.new_folder(folder, lambda beside: write_graphs(model, made, graphs.WRITERS[to], beside))
    elif (agent, to) in FOLDERS:
        FOLDERS[agent, to](model, to, Path(folder))
    else:
        known = [kind for kind, form in FOLDERS if form == to]
        raise ValueError(
            f"{to} has no format for {agent}, only for {', '.join(known)}; --to onnx and --to torch-export take more"
        )
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


# --- one vector a text ----------------------------------------------------------------------------------------------


def write_bi(model: TextRanker, to: str, folder: Path) -> None:
    """A folder that `SentenceTransformer`, or `AutoModel`, opens; two where there are two encoders."""
    options, ranker = model.ranker.options, model.ranker
    if options.bi_candidate_map:
        raise ValueError(f"{to} has no dense layers for candidates alone, as this model has; take --to onnx")
    check_pooling(options.reduction, to)
    if to == "huggingface" and options.bi_dense:
        raise ValueError("AutoModel has no dense layer after its states; take --to sentence-transformers, or onnx")

    def write(encoder: Backbone, folder: Path) -> None:
        prompt = max(len(ranker.frame.context_prompt), len(ranker.frame.candidate_prompt))
        length = longest(encoder, ranker.frame.single_length + prompt + max(model.text_truncate, model.label_truncate))
        turns = write_encoder(model.tokenizer, encoder, folder, length)
        if to == "sentence-transformers":
            write_modules(model, encoder, folder, length)
            how = "`SentenceTransformer(folder)`: `encode_query` for contexts, `encode_document` for candidates. "
        else:
            how = f"`AutoModel.from_pretrained(folder)`; a vector is the `{options.reduction}` of the last states. "
        how += score_of_bi(options)
        write_readme(model, folder, turns, how)

    if ranker.context_encoder is ranker.candidate_encoder:
        atomic.new_folder(folder, lambda beside: write(ranker.context_encoder, beside))
    else:
        sides = {"context": ranker.context_encoder, "candidate": ranker.candidate_encoder}
        atomic.new_folder(folder, lambda beside: [write(each, beside / side) for side, each in sides.items()])


def score_of_bi(options) -> str:
    by = f"their cosine times {options.bi_scale:g}" if options.bi_cosine else "their inner product"
    prompts = [f"{options.context_prompt!r} before each context"] * bool(options.context_prompt)
    prompts += [f"{options.candidate_prompt!r} before each candidate"] * bool(options.candidate_prompt)
    return f"A score is {by}." + (f" There is {' and '.join(prompts)}." if prompts else "")


def write_modules(model: TextRanker, encoder: Backbone, folder: Path, length: int) -> None:
    """What sentence-transformers does after the encoder."""
    options = model.ranker.options
    modules = [("Transformer", None), ("Pooling", pooling(encoder.width, options.reduction))]
    if options.bi_dense:
        modules.append(("Dense", dense(encoder.width, options.bi_dense, True, ACTIVATIONS[options.bi_activation])))
        write_linear(model.ranker.dense[0], folder / "2_Dense")
    if options.bi_cosine:
        modules.append(("Normalize", {}))
    write_list(folder, modules)
    write_json(folder / "sentence_bert_config.json", transformer(encoder, length))
    general = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine" if options.bi_cosine else "dot"}
    write_json(folder / "config_sentence_transformers.json", general | {"prompts": prompts(model)})


def transformer(encoder: Backbone, length: int) -> dict[str, Any]:
    poolers = "add_pooling_layer" in inspect.signature(type(encoder.model)).parameters  # none is read, so none is made
    model = {"model_args": {"add_pooling_layer": False}} if poolers else {}
    return {"max_seq_length": length, "do_lower_case": False} | model


def prompts(model: TextRanker) -> dict[str, str]:
    """The prompts as text that other libraries put right before a text; a space parts them where it has to."""
    options, found = model.ranker.options, {}
    for side, text in (("query", options.context_prompt), ("document", options.candidate_prompt)):
        parted = [each for each in (text, f"{text} ") if model.tokenizer.separates(each)]
        if not parted:
            raise ValueError(f"tokenised with a text after it the prompt {text!r} becomes another one; take --to onnx")
        found[side] = parted[0]
    return found


def check_pooling(reduction: str, to: str) -> None:
    """Refuse a reduction that `pooling` has no name for, before anything is written."""
    if to == "sentence-transformers" and reduction not in POOLINGS:
        raise ValueError(f"sentence-transformers has no pooling for --reduction {reduction}; take --to onnx")


def pooling(width: int, reduction: str) -> dict[str, Any]:
    modes = {flag: name == POOLINGS[reduction] for flag, name in sentence_transformers.EARLIER.items()}
    return {"word_embedding_dimension": width, "include_prompt": True} | modes


def dense(width: int, out: int, bias: bool, activation: str) -> dict[str, Any]:
    return {"in_features": width, "out_features": out, "bias": bias, "activation_function": activation}


def write_linear(layer: nn.Linear, folder: Path) -> None:
    folder.mkdir()
    weights = {f"linear.{name}": part.detach().cpu().contiguous() for name, part in layer.named_parameters()}
    save_file(weights, folder / "model.safetensors")


def write_list(folder: Path, modules: list[tuple[str, dict[str, Any] | None]]) -> None:
    """modules.json, and the settings of each module in its own folder; None: at the top."""
    listed = []
    for number, (kind, settings) in enumerate(modules):
        path = "" if settings is None else f"{number}_{kind.rpartition('.')[2]}"
        full = kind if "." in kind else f"sentence_transformers.models.{kind}"
        listed.append({"idx": number, "name": str(number), "path": path, "type": full})
        if settings:
            (folder / path).mkdir(exist_ok=True)
            write_json(folder / path / "config.json", settings)
    write_json(folder / "modules.json", listed)


# --- pairs ----------------------------------------------------------------------------------------------------------


def write_cross(model: TextRanker, to: str, folder: Path) -> None:
    """A folder that `CrossEncoder`, and mostly `AutoModelForSequenceClassification`, opens."""
    ranker, encoder = model.ranker, model.ranker.context_encoder
    length = longest(encoder, ranker.positions_needed(model.text_truncate, model.label_truncate))
    if to == "sentence-transformers" and ranker.options.cross_head == "linear":
        check_pooling(ranker.options.reduction, to)
        opens, fill = "`CrossEncoder(folder)` of sentence-transformers 6", partial(write_linear_head, model, length)
    else:
        opens = "`CrossEncoder(folder)`, or `AutoModelForSequenceClassification.from_pretrained(folder)`"
        fill = classifier(model, to).save_pretrained

    def write(beside: Path) -> None:
        fill(beside)
        turns = write_tokenizer(model.tokenizer, encoder, beside, length)
        how = f"{opens}, for pairs of a context and a candidate; a score is the one logit."
        write_readme(model, beside, turns, how)

    atomic.new_folder(folder, write)


def write_linear_head(model: TextRanker, length: int, folder: Path) -> None:
    """A linear head, which no family's classifier has, as modules of sentence-transformers."""
    encoder = model.ranker.context_encoder
    encoder.model.save_pretrained(folder)
    write_linear(model.ranker.head[0], folder / "2_Dense")
    head = dense(encoder.width, 1, True, IDENTITY) | {"module_output_name": "scores"}
    write_list(
        folder,
        [("Transformer", None), ("Pooling", pooling(encoder.width, model.ranker.options.reduction)), ("Dense", head)],
    )
    task = {"transformer_task": "feature-extraction"}
    write_json(folder / "sentence_bert_config.json", transformer(encoder, length) | task)
    write_json(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder", "activation_fn": IDENTITY})


def classifier(model: TextRanker, to: str) -> nn.Module:
    """The family's own classifier, with the model's weights."""
    from transformers import AutoModelForSequenceClassification

    ranker, encoder, options = model.ranker, model.ranker.context_encoder, model.ranker.options
    config = copy.deepcopy(encoder.model.config)
    config.num_labels = 1
    config.sentence_transformers = {"activation_fn": IDENTITY}  # in the place of a sigmoid
    if config.model_type == "modernbert":
        config.classifier_bias = True
        config.classifier_pooling = {"first": "cls"}.get(options.reduction, options.reduction)
    theirs = heads.of(config.to_dict()) or ("none that is known here", "first")
    if theirs != (options.cross_head, options.reduction):
        raise ValueError(
            f"the {config.model_type} classifier of {to} has --cross-head {theirs[0]} of --reduction {theirs[1]}, this "
            f"model has {options.cross_head} of {options.reduction}: train with that one; --to sentence-transformers "
            "takes linear too, --to onnx any"
        )
    made = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    lacking, unknown = made.base_model.load_state_dict(encoder.model.state_dict(), strict=False)
    if unknown or any(not name.startswith("pooler.") for name in lacking):
        raise ValueError(f"the encoder does not fit {type(made).__name__}, first {[*unknown, *lacking][0]!r}")
    names = heads.CLASSIFIERS[config.model_type][1]
    for name, number in zip(names, heads.layers(options.cross_head), strict=True):
        made.get_submodule(name).load_state_dict(ranker.head[number].state_dict())
    return made


# --- a vector for every token ---------------------------------------------------------------------------------------


def write_late(model: TextRanker, to: str, folder: Path) -> None:
    """A folder in PyLate's format, which sentence-transformers reads too."""
    ranker, options, encoder = model.ranker, model.ranker.options, model.ranker.context_encoder
    if encoder is not ranker.candidate_encoder:
        raise ValueError(f"{to} has one encoder for both sides, this model has one each; take --to onnx")
    frame = ranker.frame
    lengths = {
        "query_length": longest(encoder, frame.single_length + len(frame.context_prompt) + model.text_truncate),
        "document_length": longest(encoder, frame.single_length + len(frame.candidate_prompt) + model.label_truncate),
    }
    texts, entry = prompts(model), model.tokenizer.backend.token_to_id
    marked = all(not text or entry(text) is not None for text in texts.values())  # which PyLate inserts by their id
    general = {"model_type": "ColBERT", "similarity_fn_name": "MaxSim", "prompts": {} if marked else texts}
    general |= {f"{side}_prefix": text if marked else "" for side, text in texts.items()} | lengths
    general |= {"do_query_expansion": False, "attend_to_expansion_tokens": False, "skiplist_words": []}

    def write(beside: Path) -> None:
        turns = write_encoder(model.tokenizer, encoder, beside, max(lengths.values()))
        projection = dense(encoder.width, options.late_width, False, IDENTITY)
        write_linear(ranker.project, beside / "1_Dense")
        write_list(beside, [("Transformer", None), ("pylate.models.Dense.Dense", projection)])
        write_json(beside / "sentence_bert_config.json", transformer(encoder, max(lengths.values())))
        write_json(beside / "config_sentence_transformers.json", general)
        how = "`MultiVectorEncoder(folder)`, or PyLate's `ColBERT(folder)`: `encode_query` for contexts, "
        how += "`encode_document` for candidates. A score is MaxSim"
        if options.late_scale:
            how += f" times {options.late_scale:g} and divided by the context's tokens, special ones too"
        write_readme(model, beside, turns, f"{how}.")

    atomic.new_folder(folder, write)


# --- graphs ---------------------------------------------------------------------------------------------------------


def write_graphs(model: TextRanker, made: dict[str, graphs.Graph], writer: Callable, folder: Path) -> None:
    ranker, told = model.ranker, {}
    for name, graph in made.items():
        exported = graphs.program(graph, ranker.context_encoder.positions)
        path = writer(exported, graph, folder / name)
        inputs = {key: {"dtype": str(x.dtype).removeprefix("torch.")} for key, x in graph.example.items()}
        for key, sizes in graph.sizes.items():
            inputs[key]["shape"] = [*sizes, *graph.example[key].shape[len(sizes) :]]
        told[path.name] = {"inputs": inputs, "outputs": list(graph.outputs)}
    turns = write_tokenizer(model.tokenizer, ranker.context_encoder, folder, ranker.context_encoder.positions)
    name = model.tokenizer.backend.id_to_token
    special = {
        side: [[name(number) for number in piece.ids] for piece in getattr(ranker.frame, side)]
        for side in ("single", "pair")
    }
    settings = {
        "agent": model.header()["agent"],
        "graphs": told,
        "special_tokens": special,
        "pad_id": model.tokenizer.pad_id,
        "turn_token": name(model.tokenizer.turn_id),
        "context_prompt": list(ranker.frame.context_prompt),
        "candidate_prompt": list(ranker.frame.candidate_prompt),
        "text_truncate": model.text_truncate,
        "label_truncate": model.label_truncate,
    }
    write_json(folder / "graphs.json", settings)
    how = "`graphs.json` has every graph's inputs and outputs. `tokenizer.json` makes the ids of `input_ids`, special "
    how += "tokens and all; `attention_mask` is 1 for real tokens, `token_type_ids`, where a graph has it, is the "
    how += "tokeniser's. "
    if "pair" in made:
        how += "`pair` takes a context and a candidate in one row, and gives its score."
    else:
        how += "`candidate` gives vectors to keep, `context` what `score` compares with all of them."
        if "view_mask" in made["score"].example:
            how += " `view_mask` is 1 for views that are real."
        if "vector_mask" in made["score"].example:
            how += " `vector_mask` is the candidates' `attention_mask`."
        if ranker.frame.context_prompt or ranker.frame.candidate_prompt:
            how += " The ids of `context_prompt` and `candidate_prompt` stand after the first special token."
    write_readme(model, folder, turns, how)


# --- files of every format ------------------------------------------------------------------------------------------


def write_encoder(tokenizer: Tokenizer, encoder: Backbone, folder: Path, length: int) -> str:
    encoder.model.save_pretrained(folder)
    return write_tokenizer(tokenizer, encoder, folder, length)


def longest(encoder: Backbone, length: int) -> int:
    """No more than the encoder has positions for."""
    return min(length, encoder.positions)


def write_tokenizer(tokenizer: Tokenizer, encoder: Backbone, folder: Path, length: int) -> str:
    """A tokeniser that parts the turns of a context at newlines, as ours does; what parts them, in words.

    Where the family's own steps would eat the newline first, the separator has to be written out between turns.
    """
    from transformers import PreTrainedTokenizerFast

    name = tokenizer.backend.id_to_token
    separator = name(tokenizer.turn_id)
    backend = with_newlines(tokenizer.backend, separator)
    parts = backend.encode(TURNS, add_special_tokens=False).ids == tokenizer.ids(TURNS)
    before = tokenizer.frame.single[0].ids
    special = {"pad_token": name(tokenizer.pad_id), "sep_token": separator}
    special |= {"cls_token": name(before[0])} if before else {}
    unknown = getattr(backend.model, "unk_token", None)
    names = ["input_ids", *["token_type_ids"] * encoder.segments, "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=backend if parts else Backend.from_str(tokenizer.backend.to_str()),
        **special | ({"unk_token": unknown} if unknown else {}),
        model_max_length=length,
        model_input_names=names,
    ).save_pretrained(folder)
    return "a newline" if parts else f"`{separator}`"


def with_newlines(backend: Backend, separator: str) -> Backend:
    """A copy that reads a newline as the separator: it is replaced by it first, and then found among the tokens."""
    made = json.loads(backend.to_str())
    replacing = {"type": "Replace", "pattern": {"String": "\n"}, "content": separator}
    own = made["normalizer"]
    made["normalizer"] = {"type": "Sequence", "normalizers": [replacing, *([own] if own else [])]}
    for token in made["added_tokens"]:
        token["normalized"] |= token["content"] == separator
    return Backend.from_str(json.dumps(made))


def write_readme(model: TextRanker, folder: Path, turns: str, how: str) -> None:
    """What the other library has to be told."""
    agent = model.header()["agent"]
    text = f"""# A {agent} ranker of poly_agents

Open it with {how}

A context is its turns, the oldest first, with {turns} between two of them. Here contexts keep their last
{model.text_truncate} tokens and candidates their first {model.label_truncate}; other libraries cut off the end of both,
so shorten long contexts from their front.
"""
    if how.startswith("`graphs.json`"):
        text = text.replace("Open it with ", "")
    (folder / "README.md").write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


FOLDERS = {
    ("bi", "sentence-transformers"): write_bi,
    ("bi", "huggingface"): write_bi,
    ("cross", "sentence-transformers"): write_cross,
    ("cross", "huggingface"): write_cross,
    ("late", "sentence-transformers"): write_late,
}
