"""A model can be copied, pickled and sent to other processes. The copy gives the same scores and shares no weights."""

import copy
import multiprocessing
import pickle

import pytest
import torch

import poly_agents
from poly_agents.models.textranker import TextRanker
from tests.agents import text

CONTEXT = "hello how\nmy cat"
CANDIDATES = [*(text(number) for number in range(5)), "[SEP] my [CLS]"]  # spelt-out special tokens are plain text


def pickled(model: TextRanker) -> TextRanker:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("name", ["bi", "cross", "early", "ed2lm", "late", "mix", "poly", "uni"])
@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_gives_the_same_scores(trained, name, copied):
    model = poly_agents.load(trained[name], "float32")
    fresh = copied(model)
    wanted = model.rank(CONTEXT, CANDIDATES)
    for twin in (fresh, copied(model)):  # the second of a model that was used before
        ranking = twin.rank(CONTEXT, CANDIDATES)
        assert [ranked.index for ranked in ranking] == [ranked.index for ranked in wanted]
        assert [ranked.score for ranked in ranking] == pytest.approx([ranked.score for ranked in wanted], abs=1e-5)
    with torch.no_grad():
        for weight in model.ranker.parameters():
            weight.mul_(1.5)
    assert fresh.rank(CONTEXT, CANDIDATES) == ranking
    assert [ranked.score for ranked in model.rank(CONTEXT, CANDIDATES)] != [ranked.score for ranked in wanted]


def test_a_copy_leaves_behind_what_was_remembered(trained):
    model = poly_agents.load(trained["bi"], "float32")
    before = len(pickle.dumps(model))
    model.rank(CONTEXT, [f"{number} {text(3)}" for number in range(500)])
    assert abs(len(pickle.dumps(model)) - before) < 1000
    assert pickled(model).fingerprint == model.fingerprint


def test_a_model_of_parlai_and_its_dictionary_can_be_copied(made_by_parlai):
    model = poly_agents.load(made_by_parlai("bi", {}), "float32")
    wanted, twin = model.rank(CONTEXT, CANDIDATES), pickled(model)
    ranking = twin.rank(CONTEXT, CANDIDATES)
    assert [ranked.index for ranked in ranking] == [ranked.index for ranked in wanted]
    assert [ranked.score for ranked in ranking] == pytest.approx([ranked.score for ranked in wanted], abs=1e-5)


def test_spawned_processes_take_a_model(trained):
    model = poly_agents.load(trained["poly"], "float32")
    wanted = model.rank(CONTEXT, CANDIDATES)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        ranking = pool.apply_async(model.rank, (CONTEXT, CANDIDATES)).get(timeout=120)
    assert [ranked.index for ranked in ranking] == [ranked.index for ranked in wanted]
    assert [ranked.score for ranked in ranking] == pytest.approx([ranked.score for ranked in wanted], abs=1e-5)
