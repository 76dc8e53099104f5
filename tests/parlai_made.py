"""Small models of ParlAI's own rankers, made and saved by ParlAI itself."""

from pathlib import Path

import torch
from parlai.core.agents import create_agent
from parlai.core.dict import DictionaryAgent
from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser

from tests.encoders import WORDS

NAMES = {"bi": "biencoder", "poly": "polyencoder", "cross": "crossencoder"}
TINY = dict(embedding_size=24, ffn_size=28, n_layers=2, n_heads=4, n_positions=64, text_truncate=17, label_truncate=7)
# What the published checkpoints were trained with, in small.
PUBLISHED = dict(
    variant="xlm",
    activation="gelu",
    embeddings_scale=False,
    learn_positional_embeddings=True,
    n_segments=2,
    output_scaling=0.06,
    dict_tokenizer="bpe",
    dict_lower=True,
    dict_endtoken="__start__",
    dict_maxtokens=90,
    reduction_type="mean",
    share_encoders=False,
    share_word_embeddings=False,
    learn_embeddings=True,
    history_size=20,
    dropout=0.1,
    attention_dropout=0.1,
    fp16=False,
)


def make(agent: str, options: dict, path: str, data: str = "") -> str:
    """A model file at `path`, with every weight random, as none is at the start."""
    task = {"task": "poly_agents:jsonl", "jsonl_path": data, "batchsize": 4, "model_file": path}
    given = {"model": f"transformer/{NAMES[agent]}"} | task | {"candidates": "inline"} | TINY | options
    opt = ParlaiParser(True, True).parse_kwargs(**given)
    opt["dict_file"] = f"{path}.dict"
    build_dictionary(opt)
    made = create_agent(opt)
    torch.manual_seed(7)
    for name, parameter in made.model.named_parameters():
        if parameter.requires_grad:
            spread, middle = (0.15, float(name.endswith("weight"))) if "norm" in name else (0.3, 0.0)
            parameter.data = torch.randn_like(parameter) * spread + middle
    made.save(path)
    return path


def build_dictionary(opt) -> None:
    dictionary = DictionaryAgent(Opt(opt))
    for word in WORDS * 3:
        dictionary.add_to_dict(dictionary.tokenize(word))
    dictionary.add_to_dict(dictionary.tokenize("\n . , ?"))
    dictionary.save(sort=True)


def files_of(path: str, folder: str) -> dict[str, bytes]:
    """What an archive of ParlAI's zoo holds of a model."""
    return {f"{folder}{file.name}": file.read_bytes() for file in Path(path).parent.iterdir()}
