"""Lengths of texts, the positions of encoders, and ids of tokenizers: what does not fit is refused before it is run."""

import logging

import pytest
from parlai.core.agents import create_agent
from transformers import AutoTokenizer, BertModel

import poly_agents
from poly_agents.files import checkpoint
from poly_agents.models import opening
from tests.agents import make
from tests.sentence_models import CANDIDATES, PLAIN

LONG = ["hello how are you fine thanks " * 40, "my cat " * 90]  # contexts
LONG_CANDIDATES = ["blue dog " * 60, "one"]


@pytest.mark.parametrize("agent", ["bi", "poly", "late", "mix", "early", "cross", "uni"])
def test_lengths_left_open_are_what_fits(agent, tiny, caplog):
    """The tiny encoder has 97 positions, fewer than the 360 and 72 tokens of the defaults."""
    options = {"early_layer": 1} if agent == "early" else {}
    with caplog.at_level(logging.WARNING):
        model = poly_agents.start(agent, backbone=tiny, **PLAIN, **options)
    assert [record.getMessage()[:30] for record in caplog.records] == ["the encoder has 97 positions, "]
    assert model.ranker.positions_needed(model.text_truncate, model.label_truncate) in (96, 97)
    assert all(len(line) == 2 for line in model.rank(LONG, LONG_CANDIDATES))


@pytest.mark.parametrize(
    ("given", "fitted"),
    [
        ({}, (47, 47)),  # both alike, beside three special tokens
        ({"text_truncate": 80}, (80, 14)),
        ({"label_truncate": 20}, (74, 20)),
        ({"text_truncate": 31, "label_truncate": 13}, (31, 13)),
    ],
)
def test_a_length_that_is_given_stays_and_the_other_one_gives_way(given, fitted, tiny):
    model = poly_agents.start("cross", backbone=tiny, **PLAIN, **given)
    assert (model.text_truncate, model.label_truncate) == fitted


@pytest.mark.parametrize(
    "given", [{"text_truncate": 96}, {"label_truncate": 96}, {"text_truncate": 90, "label_truncate": 5}]
)
def test_lengths_that_are_given_and_do_not_fit_are_refused(given, tiny):
    with pytest.raises(
        ValueError, match=r"need \d+ positions with the special tokens, the encoder has 97; give smaller"
    ):
        poly_agents.start("cross", backbone=tiny, **PLAIN, **given)


@pytest.mark.parametrize("length", [0, -5, 1.5, "31", True])
def test_a_length_is_a_whole_number(length, tiny):
    with pytest.raises(ValueError, match="--text-truncate must be a whole number from 1"):
        poly_agents.start("bi", backbone=tiny, text_truncate=length)


def test_the_command_line_does_the_same(options, caplog):
    lengths = {name: options.pop(name) for name in ("text_truncate", "label_truncate")}
    with caplog.at_level(logging.WARNING):
        agent = make(options, "cross")
    assert (agent.text_truncate, agent.label_truncate) == (agent.opt["text_truncate"], agent.opt["label_truncate"])
    assert (agent.text_truncate, agent.label_truncate) == (47, 47)
    assert "--text-truncate is 47 instead of 360 and --label-truncate is 47 instead of 72" in caplog.text
    agent.observe({"text": LONG[0], "label_candidates": LONG_CANDIDATES, "episode_done": True})
    assert len(agent.act()["text_candidates"]) == 2
    with pytest.raises(ValueError, match="need 98 positions with the special tokens, the encoder has 97"):
        make(options | lengths | {"text_truncate": 82}, "cross")


def test_a_saved_model_whose_lengths_never_fitted_is_loaded_and_ranks(tiny, tmp_path):
    model = poly_agents.start("cross", backbone=tiny, **PLAIN)
    model.text_truncate, model.label_truncate = 360, 72
    model.save(str(tmp_path / "model"))
    loaded = poly_agents.load(str(tmp_path / "model"), "float32")
    assert (loaded.text_truncate, loaded.label_truncate) == (47, 47)
    assert len(loaded.rank(LONG[0], LONG_CANDIDATES)) == 2
    agent = create_agent({"model_file": str(tmp_path / "model"), "model": "poly_agents/cross"}, requireModelExists=True)
    assert agent.opt["text_truncate"] == 47


# --- ids and embeddings -----------------------------------------------------------------------------------------------


def test_tokens_that_were_added_without_a_resize_are_refused(tiny, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens([f"new{number}" for number in range(20)])
    model = BertModel.from_pretrained(tiny)
    for each in (tokenizer, model):
        each.save_pretrained(tmp_path / "added")
    with pytest.raises(ValueError, match=r"has 46 ids, its embeddings have 41 rows; .*resize_token_embeddings"):
        poly_agents.start("bi", backbone=str(tmp_path / "added"), **PLAIN)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "added")
    assert poly_agents.start("bi", backbone=str(tmp_path / "added"), **PLAIN).rank("new7", CANDIDATES)


def test_a_model_file_beside_a_larger_dictionary_is_refused(tiny, trained, tmp_path):
    tokenizer = poly_agents.load(trained["bi"]).tokenizer
    tokenizer.backend.add_tokens([f"new{number}" for number in range(20)])
    saved = checkpoint.read(trained["bi"])
    header = {name: value for name, value in saved.header.items() if name != opening.TOKENIZER}  # an older file
    checkpoint.write(str(tmp_path / "model"), header, dict(saved.weights))
    tokenizer.save(str(tmp_path / "model.dict"))
    with pytest.raises(ValueError, match=r"the tokenizer of .*model has 46 ids, its embeddings have 41 rows"):
        poly_agents.load(str(tmp_path / "model"))
