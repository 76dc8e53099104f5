"""`TextRanker.search`: only in a store of the same model, and never with scores that are no numbers."""

import pytest
import torch

import poly_agents
from poly_agents.candidates.search import SEARCH_MODES, Search, SearchOptions
from poly_agents.candidates.store import Store
from poly_agents.errors import InputError
from tests.agents import text

TEXTS = [text(number) for number in range(7)]


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    """A model and the folder of its store."""
    model = poly_agents.load(trained["poly"], "float32")
    folder = tmp_path_factory.mktemp("store")
    model.index(folder, TEXTS, progress=False)
    return model, folder


def test_a_store_is_searched_as_it_is_or_as_options_say(made):
    model, folder = made
    wanted = model.search("hello", Store(folder), 3)
    assert [found.candidate["text"] for found in wanted] == [ranked.text for ranked in model.rank("hello", TEXTS, 3)]
    for mode in SEARCH_MODES:
        assert model.search("hello", Search(Store(folder), SearchOptions(search=mode)), 3) == wanted


def test_a_store_of_another_model_width_or_precision_is_refused(made, trained, tiny_t5, encoders):
    _, folder = made
    others = [
        poly_agents.load(trained["bi"], "float32"),  # vectors of the same width
        poly_agents.load(trained["poly"], "bfloat16"),
        poly_agents.load(trained["late"], "float32"),
        poly_agents.load(trained["cross"], "float32"),
    ]
    for model in others:
        with pytest.raises(InputError, match="the store was made by another model"):
            model.search("hello", Store(folder), 3)


@pytest.mark.parametrize("within", [None, "store", 5])
def test_what_is_no_store_is_refused(made, within):
    with pytest.raises(InputError, match="within is a Store, or a Search of one; got "):
        made[0].search("hello", within)


def test_a_store_dies_with_the_weights_that_made_it(trained, tmp_path):
    model = poly_agents.load(trained["bi"], "float32")
    store = model.index(tmp_path, TEXTS, progress=False)
    assert model.search("hello", store, 2)
    with torch.no_grad():
        next(model.ranker.parameters()).mul_(1.1)
    with pytest.raises(InputError, match="or by this one in another precision or before it changed; make it again"):
        model.search("hello", store, 2)


@pytest.mark.parametrize("mode", SEARCH_MODES)
def test_scores_that_are_no_numbers_are_refused(made, mode):
    model, folder = made
    store = Store(folder)
    part = store.vectors.segments[0]
    part["vectors"] = part["vectors"].clone()  # those of the file are mapped
    part["norms"] = part["norms"].clone()
    part["vectors"][3], part["norms"][3] = float("nan"), float("nan")
    with pytest.raises(InputError, match="the store has vectors that are not finite; make it again"):
        model.search("hello", Search(store, SearchOptions(search=mode)), 3)
