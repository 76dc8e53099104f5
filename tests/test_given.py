"""Inputs as people have them: any iterable of texts, and a sentence that names the place of what is no text."""

from collections import deque

import numpy as np
import pytest

import poly_agents
from poly_agents import Dialogue
from poly_agents.candidates.search import Search, SearchOptions
from poly_agents.errors import InputError, MissingFileError
from poly_agents.models.textranker import TextRanker
from tests.agents import text

TEXTS = [text(number) for number in range(5)]
NAN = float("nan")


class Column:
    """A column of a table as pandas has it: it can be iterated over, has an index of its own and no order of truth."""

    ndim = 1

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return iter(self.values)

    def __getitem__(self, label):
        raise KeyError(label)

    def __bool__(self):
        raise ValueError("the truth value of a column is ambiguous")

    def keys(self):
        return range(100, 105)


class Table(Column):
    """A table of two columns: what it iterates over are their names."""

    ndim = 2


@pytest.fixture(scope="module")
def model(trained) -> TextRanker:
    return poly_agents.load(trained["poly"], "float32")


@pytest.mark.parametrize(
    "made",
    [tuple, iter, np.array, Column, deque, lambda texts: dict.fromkeys(texts).keys()],
    ids=["tuple", "generator", "array", "column", "deque", "keys"],
)
def test_any_iterable_of_strings_is_a_list(model, made):
    wanted = model.rank("hello", TEXTS)
    for ranking in (
        model.rank("hello", made(TEXTS)),
        model.rank(made(["hello", "my cat"]), made(TEXTS))[0],
        model.rank(["hello", "my cat"], [made(TEXTS), made(TEXTS[:2])])[0],
    ):
        assert [ranked.index for ranked in ranking] == [ranked.index for ranked in wanted]
        assert [ranked.score for ranked in ranking] == pytest.approx([ranked.score for ranked in wanted], abs=1e-4)
        assert all(type(ranked.text) is str for ranked in ranking)
    assert model.encode(made(TEXTS)).shape == model.encode(TEXTS).shape


def test_a_set_and_an_array_of_rows_are_ranked(model):
    assert {ranked.text for ranked in model.rank("hello", set(TEXTS))} == set(TEXTS)
    rows = model.rank(["hello", "my cat"], np.array([TEXTS[:2], TEXTS[2:4]]))
    assert [{ranked.text for ranked in row} for row in rows] == [set(TEXTS[:2]), set(TEXTS[2:4])]


@pytest.mark.parametrize(
    "value", [None, NAN, 3, 2.5, b"red", ["red"], {"text": "red"}, np.float64("nan"), Dialogue(["a"])]
)
def test_what_is_no_text_is_refused_with_its_place(model, value):
    for call in (
        lambda: model.rank("hello", [*TEXTS[:3], value]),
        lambda: model.rank("hello", np.array([*TEXTS[:3], value], dtype=object)),
        lambda: model.rank(["hello"], [[*TEXTS[:3], value]]),
        lambda: model.encode(iter([*TEXTS[:3], value])),
        lambda: model.candidate_ids([*TEXTS[:3], value]),
    ):
        with pytest.raises(InputError, match=r"^candidate 3 is "):
            call()
    with pytest.raises(InputError, match=r"^candidate 1 of context 1 is "):
        model.rank(["hello", "my cat"], [TEXTS, ["red", value]])
    with pytest.raises(InputError, match=r"^turn 1 is "):
        Dialogue(["hello", value])


@pytest.mark.parametrize("value", [None, NAN, 3, b"hello", ["hello", "you"], ("hello", "you"), {"a": "b"}])
def test_a_context_that_is_no_text_is_refused_with_its_place(model, value):
    for call in (lambda: model.rank(["hello", value], TEXTS), lambda: model.rank_many(["hello", value], [TEXTS])):
        with pytest.raises(InputError, match=r"^context 1 is "):
            call()
    if not isinstance(value, list | tuple):
        with pytest.raises(InputError, match="contexts is a list of strings, got "):
            model.rank(value, TEXTS)


@pytest.mark.parametrize("value", [None, 3, NAN, b"red", "red", np.array("red"), Table(["one", "two"]), {"a": "b"}])
def test_what_is_no_list_of_candidates_is_refused(model, value):
    for call in (
        lambda: model.rank("hello", value),
        lambda: model.rank(["hello", "my cat"], value),
        lambda: model.rank_many(["hello"], [value]),
        lambda: model.encode(value),
    ):
        with pytest.raises(InputError, match="candidates is a list of strings"):
            call()
    if not isinstance(value, str):
        with pytest.raises(InputError):
            model.rank_many(["hello"], value)


def test_half_a_surrogate_pair_is_refused_with_its_place(model, tmp_path):
    for call in (
        lambda: model.rank("hello", ["red", "six \ud83d"]),
        lambda: model.index(tmp_path / "store", ["red", "six \ud83d"], progress=False),
    ):
        with pytest.raises(InputError, match=r"^candidate 1 has half a surrogate pair at character 4"):
            call()
    with pytest.raises(InputError, match=r"^context 0 has half a surrogate pair"):
        model.rank("\udce9", ["red"])


@pytest.mark.parametrize("top", [0, -1, 1.5, 2.0, True, False, "3", NAN, [1]])
def test_how_many_is_a_whole_number_from_one(model, tmp_path, top):
    store = model.index(tmp_path / "store", TEXTS, progress=False)
    for call in (
        lambda: model.rank("hello", TEXTS, top=top),
        lambda: model.rank_many(["hello"], [TEXTS], top=top),
        lambda: model.search("hello", store, top=top),
        lambda: Search(store, SearchOptions()).best(model.ranker, None, top),
    ):
        with pytest.raises(InputError, match="top says how many of the best to return, a whole number from 1 on; got "):
            call()


def test_more_than_there_are_are_all(model, tmp_path):
    store = model.index(tmp_path / "store", TEXTS, progress=False)
    assert len(model.rank("hello", TEXTS, top=np.int64(10**12))) == len(model.search("hello", store, top=10**12)) == 5


@pytest.mark.parametrize(
    ("candidates", "says"),
    [
        (["red", {"id": 3}], "^candidate 1 has no text"),
        (["red", {"text": None}], "^candidate 1 is None"),
        (["red", None], "^candidate 1 is None"),
        (["red", 5], "^candidate 1 is 5"),
        (Table(["one", "two"]), r"strings or dictionaries, got 2 dimensions \(Table\); give one column"),
        (None, "candidates is a file, or a list of strings or dictionaries, got None"),
        ({"text": "red"}, "candidates is a file, or a list of strings or dictionaries, got {"),
        ("no such file.txt", "there is no file of candidates 'no such file.txt'"),
        ("", "there is no file of candidates ''"),
    ],
)
def test_a_store_names_what_it_cannot_hold(model, tmp_path, candidates, says):
    with pytest.raises(InputError, match=says) as caught:
        model.index(tmp_path / "store", candidates, progress=False)
    assert isinstance(caught.value, MissingFileError) == says.startswith("there is no file")


def test_a_store_takes_any_iterable(model, tmp_path):
    rows = ({"text": candidate, "id": number} for number, candidate in enumerate(TEXTS))
    assert len(model.index(tmp_path / "rows", rows, progress=False)) == 5
    assert len(model.index(tmp_path / "column", Column(TEXTS), progress=False)) == 5
    assert len(model.index(tmp_path / "array", np.array(TEXTS), progress=False)) == 5
