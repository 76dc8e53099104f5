"""Ranking from plain Python."""

import pytest
from parlai.core.agents import create_agent_from_model_file

import poly_agents
from tests.agents import AGENTS, answer, example, text


def test_rank_gives_candidates_with_scores_best_first(trained, data):
    for name in AGENTS:
        model = poly_agents.load(trained[name], "float32")
        candidates = [text(i) for i in range(7)] + [text(2)]
        ranking = model.rank("hello\nmy cat", candidates)
        assert sorted(r.text for r in ranking) == sorted(set(candidates))
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
