"""Ranking from plain Python."""

import re

import pytest
import torch
from parlai.core.agents import create_agent_from_model_file

import poly_agents
from poly_agents import Dialogue
from poly_agents.errors import InputError
from tests.agents import AGENTS, answer, example, text


def test_rank_gives_candidates_with_scores_best_first(trained, data):
    for name in AGENTS:
        model = poly_agents.load(trained[name], "float32")
        candidates = [text(i) for i in range(7)]
        ranking = model.rank("hello\nmy cat", candidates)
        assert sorted(r.index for r in ranking) == list(range(7))
        assert all(r.text == candidates[r.index] for r in ranking)
        assert [r.score for r in ranking] == sorted((r.score for r in ranking), reverse=True)
        assert model.rank("hello\nmy cat", candidates, top=2) == ranking[:2]
        agent = create_agent_from_model_file(trained[name])
        reply = answer(agent, example("hello\nmy cat", text(2), candidates, training=False))[0]
        assert [r.text for r in ranking] == reply["text_candidates"]
        assert [r.score for r in ranking] == pytest.approx(reply["candidate_scores"], abs=1e-4)


def test_rank_takes_many_contexts(trained):
    model = poly_agents.load(trained["poly"], "float32")
    shared = model.rank(["hello", "my cat"], ["fine", "blue", "red"])
    own = model.rank(["hello", "my cat"], [["fine", "blue", "red"], ["red"]])
    assert [len(r) for r in shared] == [3, 3] and [len(r) for r in own] == [3, 1]
    assert [r.text for r in own[0]] == [r.text for r in shared[0]]
    assert model.rank([], ["fine"]) == []


@pytest.mark.parametrize("name", ["bi", "cross", "uni"])
def test_equal_candidates_have_a_place_each_and_are_encoded_once(trained, name, monkeypatch):
    model = poly_agents.load(trained[name], "float32")
    seen, ids_of = [], model.candidate_ids

    def candidate_ids(texts: list[str]) -> list[list[int]]:
        seen.extend(texts)
        return ids_of(texts)

    monkeypatch.setattr(model, "candidate_ids", candidate_ids)
    candidates = ["fine", "blue", "fine", "red", "fine"]
    ranking = model.rank("hello", candidates)
    assert seen == ["fine", "blue", "red"]
    assert sorted(ranked.index for ranked in ranking) == [0, 1, 2, 3, 4]
    assert all(candidates[ranked.index] == ranked.text for ranked in ranking)
    assert [ranked.index for ranked in ranking if ranked.text == "fine"] == [0, 2, 4]
    assert len({ranked.score for ranked in ranking if ranked.text == "fine"}) == 1
    own = model.rank(["hello", "my cat"], [candidates, ["red", "red"]])
    assert [ranked.index for ranked in own[0]] == [ranked.index for ranked in ranking]
    assert [ranked.index for ranked in own[1]] == [0, 1]


def test_text_score_and_index_can_be_unpacked(trained):
    for candidate, score, index in poly_agents.load(trained["bi"], "float32").rank("hello", ["red", "fine"]):
        assert ["red", "fine"][index] == candidate and isinstance(score, float)


def test_turns_are_given_as_a_dialogue(trained, tmp_path):
    model = poly_agents.load(trained["poly"], "float32")
    candidates = [text(i) for i in range(5)]
    turns = Dialogue(turn for turn in ["your persona: i have a cat", "hello how", "my cat"])
    joined = "your persona: i have a cat\nhello how\nmy cat"
    assert model.rank(turns, candidates) == model.rank(joined, candidates)
    assert model.rank([turns, "hello"], candidates)[0] == model.rank([joined, "hello"], candidates)[0]
    assert model.rank_many([turns], [candidates]) == model.rank_many([joined], [candidates])
    store = model.index(tmp_path / "store", candidates, progress=False)
    assert model.search(turns, store, 3) == model.search(joined, store, 3)
    assert Dialogue(["your persona: i have a cat", "hi"], speakers=True).text == "your persona: i have a cat\nA: hi"
    with pytest.raises(InputError, match="a dialogue needs at least one turn"):
        Dialogue([])
    with pytest.raises(InputError, match="turns is a list of strings, got one string"):
        Dialogue("hello")


@pytest.mark.parametrize("name", ["bi", "cross", "late"])
def test_scores_that_are_no_numbers_are_refused_with_their_cause(trained, name, tmp_path):
    model = poly_agents.load(trained[name], "float32")
    first = next(iter(model.ranker.state_dict()))
    with torch.no_grad():
        model.ranker.get_parameter(first)[:] = float("nan")
    for call in (
        lambda: model.rank("hello", ["red", "fine"]),
        lambda: model.rank(["hello", "six"], [["red"], ["fine", "red"]]),
    ):
        with pytest.raises(InputError, match=f"the weights of this model are damaged: {re.escape(first)} has numbers"):
            call()


def test_numbers_that_become_too_large_are_refused_with_their_cause(trained):
    model = poly_agents.load(trained["poly"], "float32")
    with torch.no_grad():
        for weight in model.ranker.parameters():
            weight.mul_(1e30)
    with pytest.raises(InputError, match="scores are not finite although the weights are"):
        model.rank("hello", ["red", "fine"])


def test_the_same_candidates_are_encoded_once(trained, monkeypatch):
    model = poly_agents.load(trained["poly"], "float32")
    first = model.rank("hello", ["fine", "blue", "red"])
    monkeypatch.setattr(model.ranker, "encode_parts", None)
    assert model.rank("hello", ["fine", "blue", "red"]) == first
    monkeypatch.undo()
    assert model.rank("hello", ["fine", "six"])[0].text in ("fine", "six")


@pytest.mark.parametrize("candidates", [[], [["fine"], []], [["fine"], ["red"], ["blue"]]])
def test_rank_refuses_what_it_cannot_rank(trained, candidates):
    with pytest.raises(ValueError):
        poly_agents.load(trained["bi"]).rank(["hello", "my cat"], candidates)


@pytest.mark.parametrize(
    ("context", "candidates"),
    [("hello", "red"), (["hello", "my cat"], "red"), (["hello"], ""), (["hello", "my cat"], [["fine"], "red"])],
)
def test_a_string_is_not_a_list_of_candidates(trained, context, candidates):
    with pytest.raises(ValueError, match="candidates is a list of strings"):
        poly_agents.load(trained["bi"]).rank(context, candidates)


def test_start_names_the_nearest_ranker_and_option(tiny):
    with pytest.raises(ValueError, match="no ranker 'polly'; did you mean 'poly'"):
        poly_agents.start("polly", backbone=tiny)
    with pytest.raises(ValueError, match="no option of poly 'poly_codez'; did you mean 'poly_codes'"):
        poly_agents.start("poly", backbone=tiny, poly_codez=3)
    with pytest.raises(ValueError, match="no option of bi 'poly_views'; there are: backbone, bi_"):
        poly_agents.start("bi", backbone=tiny, poly_views="first")
