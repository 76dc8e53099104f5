"""Models of ParlAI's own rankers, made and saved by ParlAI itself: the same scores, rankings and metrics here."""

import json
import os
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch
from parlai.core.agents import create_agent, create_agent_from_model_file
from parlai.core.dict import DictionaryAgent
from parlai.core.message import Message
from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.scripts.train_model import TrainModel
from parlai.utils import logging
from torch.testing import assert_close

import poly_agents
from poly_agents import checkpoint, parlai_model
from poly_agents.tokenizer import Tokenizer
from tests.conftest import WORDS, evaluate

logging.set_log_level(logging.ERROR)
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
VARIANTS = [
    ("bi", {}),
    ("bi", {"variant": "xlm", "share_encoders": False, "reduction_type": "first", "n_segments": 1}),
    ("bi", {"variant": "prelayernorm", "activation": "gelu", "share_encoders": False, "reduction_type": "max"}),
    ("bi", {"variant": "bart", "output_scaling": 0.3, "embeddings_scale": False, "n_encoder_layers": 1}),
    ("bi", PUBLISHED),
    ("poly", {"poly_n_codes": 1}),
    ("poly", {"variant": "xlm", "poly_attention_type": "sqrt", "codes_attention_type": "sqrt", "poly_n_codes": 5}),
    ("poly", {"poly_attention_type": "multihead", "codes_attention_type": "multihead", "poly_n_codes": 5}),
    ("poly", {"polyencoder_type": "n_first", "poly_n_codes": 6, "learn_positional_embeddings": True}),
    ("poly", {"polyencoder_type": "n_first", "poly_n_codes": 6, "poly_attention_type": "multihead"}),
    ("poly", {"variant": "prelayernorm", "output_scaling": 0.5, "reduction_type": "first", "dict_tokenizer": "split"}),
    ("poly", {"person_tokens": True, "dict_lower": True}),
    ("poly", PUBLISHED | {"polyencoder_type": "codes", "poly_n_codes": 64}),
    ("cross", {"reduction_type": "first"}),
    ("cross", {"variant": "xlm", "activation": "gelu", "reduction_type": "mean", "dict_tokenizer": "space"}),
    ("cross", {"variant": "prelayernorm", "reduction_type": "max"}),
    ("cross", PUBLISHED | {"reduction_type": "first"}),
]
IDS = [f"{number}-{agent}" for number, (agent, _) in enumerate(VARIANTS)]


@pytest.fixture(scope="session")
def theirs(data, tmp_path_factory):
    """Make a model with ParlAI: (agent, options) -> model file; with every weight random, as none is at the start."""
    made = {}

    def make(agent: str, options: dict) -> str:
        key = agent, json.dumps(options)
        if key in made:
            return made[key]
        path = str(tmp_path_factory.mktemp(agent) / "model")
        task = {"task": "poly_agents:jsonl", "jsonl_path": data, "batchsize": 4, "model_file": path}
        given = {"model": f"transformer/{NAMES[agent]}"} | task | {"candidates": "inline"} | TINY | options
        opt = ParlaiParser(True, True).parse_kwargs(**given)
        opt["dict_file"] = f"{path}.dict"
        build_dictionary(opt)
        made_agent = create_agent(opt)
        torch.manual_seed(7)
        for name, parameter in made_agent.model.named_parameters():
            if parameter.requires_grad:
                spread = 0.15 if "norm" in name else 0.3
                parameter.data = torch.randn_like(parameter) * spread + (1.0 if "norm" in name and "weight" in name else 0)
        made_agent.save(path)
        made[key] = path
        return path

    return make


def build_dictionary(opt) -> None:
    dictionary = DictionaryAgent(Opt(opt))
    for word in WORDS * 3:
        dictionary.add_to_dict(dictionary.tokenize(word))
    dictionary.add_to_dict(dictionary.tokenize("\n . , ?"))
    dictionary.save(sort=True)


def their_scores(path: str, context: list[str], candidates: list[str]) -> torch.Tensor:
    """One context, one candidate at a time: ParlAI's own numbers depend on padding with some options."""
    agent = create_agent_from_model_file(path, {"datatype": "valid"})
    agent.model.eval()
    found = []
    for candidate in candidates:
        agent.reset()
        for turn in context[:-1]:
            agent.history.update_history(Message(text=turn))
        observed = agent.observe(
            Message(text=context[-1], label_candidates=[candidate], eval_labels=[candidate], episode_done=True)
        )
        batch = agent.batchify([observed])
        with torch.no_grad():
            vectors = batch.candidate_vecs[0][0].view(1, 1, -1)
            found.append(agent.score_candidates(batch, vectors).view(-1))
    return torch.cat(found)


CONTEXTS = [
    ["hello"],
    ["hello , how are you ?", "fine thanks", "what is your name"],
    ["one two three four five six one two three", "four five six one two three four five six . unheard of"],
    ["Hello  HOW\nare you", "blue cat, red dog"],
]
CANDIDATES = ["fine", "my cat is blue", "one two three four five", "one two three four five six", "a b c d e f g h i j k"]


@pytest.mark.parametrize(("agent", "options"), VARIANTS, ids=IDS)
def test_scores_and_rankings_are_those_of_parlai(theirs, agent, options):
    path = theirs(agent, options)
    ours = poly_agents.load(path, "float32")
    for context in CONTEXTS:
        if options.get("dict_tokenizer") == "space":
            context = [turn.replace("\n", " ") for turn in context]  # for `space` a newline parts no words, only turns
        expected = their_scores(path, context, CANDIDATES)
        if options.get("person_tokens"):
            context = [f"__p1__ {turn}" for turn in context]
        found = {ranked.text: ranked.score for ranked in ours.rank("\n".join(context), CANDIDATES)}
        scores = torch.tensor([found[text] for text in CANDIDATES])
        assert_close(scores, expected, atol=1e-4, rtol=1e-4)
        assert scores.argsort().tolist() == expected.argsort().tolist()
        assert expected.std() > 1e-3
