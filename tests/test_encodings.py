"""Cached encodings of candidates are found again and never out of date."""

from pathlib import Path

import pytest
import torch
from parlai.core.agents import create_agent_from_model_file
from parlai.scripts.train_model import TrainModel

import poly_agents
from poly_agents.candidates.memory import Memory
from poly_agents.encoders.states import nbytes
from poly_agents.scoring.ranker import Ranker
from poly_agents.text.tokens import pad
from tests.agents import AGENTS, CACHING, ROWS, answer, evaluate, example, make, settings, text


@pytest.mark.parametrize("name", CACHING)
def test_encodings_are_reused_until_more_training_replaces_them(options, name, pool_file, tmp_path):
    given = settings(options, name, fixed_candidates_path=pool_file, eval_candidates="fixed")
    TrainModel.main(**given, max_train_steps=2, learningrate=0.01)
    make(options, name, fixed_candidates_path=pool_file, eval_candidates="fixed", datatype="valid")
    cache = tmp_path / "model.pool.store" / "store.json"
    first, when = cache.read_bytes(), cache.stat().st_mtime_ns
    make(options, name, fixed_candidates_path=pool_file, eval_candidates="fixed", datatype="valid")
    assert cache.stat().st_mtime_ns == when
    TrainModel.main(**given, max_train_steps=4, learningrate=0.01)
    agent = make(options, name, fixed_candidates_path=pool_file, eval_candidates="fixed", datatype="valid")
    assert cache.read_bytes() != first
    search, contexts = agent.candidate_source.search, pad([[5, 6, 7], [9]])
    fresh = agent.ranker_module.encode_ids([agent.dict.words.ids(text) for text in search.store.texts])
    scores = agent.ranker_module.score_ids([[5, 6, 7], [9]], fresh)
    torch.testing.assert_close(search.scores(agent.ranker_module, contexts), scores, atol=1e-5, rtol=1e-5)
    best = search.best(agent.ranker_module, contexts, 5)
    torch.testing.assert_close(best.scores, scores.sort(descending=True).values[:, :5], atol=1e-5, rtol=1e-5)


def test_a_damaged_store_is_rebuilt(trained, data, pool_file):
    given = {"eval_candidates": "fixed", "fixed_candidates_path": pool_file}
    first = evaluate(trained["bi"], data, **given)
    for path in Path(f"{trained['bi']}.pool.store").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-50])
    assert evaluate(trained["bi"], data, **given)["mrr"].value() == first["mrr"].value()
    assert evaluate(trained["bi"], data, **given, datatype="test")["mrr"].value() == first["mrr"].value()


@pytest.mark.parametrize("how", ["exact", "certified", "fast"])
def test_a_chat_searches_the_store(trained, pool_file, how, tmp_path):
    more = {"fixed_candidates_path": pool_file, "eval_candidates": "fixed", "interactive_mode": True}
    more |= {"search": how, "datatype": "valid"}
    agent = create_agent_from_model_file(trained["poly"], more)
    scores = agent.candidate_source.search.scores(agent.ranker_module, pad([agent.dict.words.ids("hello how")]))[0]
    reply = answer(agent, {"text": "hello how", "episode_done": False})[0]
    assert reply["text"] == agent.candidate_source.search.store.texts[int(scores.argmax())]
    assert reply["candidate_scores"] == pytest.approx(scores.sort(descending=True).values.tolist(), abs=1e-5)


def test_a_store_is_given_in_the_place_of_a_file(trained, data, pool_file, tmp_path):
    model = poly_agents.load(trained["bi"], "float32")
    folder = str(tmp_path / "store")
    assert len(model.index(folder, pool_file)) == 29
    first = evaluate(trained["bi"], data, eval_candidates="fixed", fixed_candidates_path=pool_file)
    again = evaluate(trained["bi"], data, eval_candidates="fixed", fixed_candidates_path=folder)
    assert again["mrr"].value() == first["mrr"].value()
    with pytest.raises(ValueError, match="made by another model"):
        evaluate(trained["poly"], data, eval_candidates="fixed", fixed_candidates_path=folder)


def test_codes_are_refused_where_a_candidate_has_more_than_one_vector(trained, data, pool_file):
    with pytest.raises(ValueError, match="one vector a candidate: bi, poly, early"):
        evaluate(trained["late"], data, eval_candidates="fixed", fixed_candidates_path=pool_file, search="fast")


def test_encodings_at_a_path_of_the_user_s_are_written_used_and_checked(trained, data, pool_file, tmp_path):
    path = tmp_path / "mine"
    given = {"eval_candidates": "fixed", "fixed_candidates_path": pool_file, "fixed_candidate_vecs": str(path)}
    first = evaluate(trained["bi"], data, **given)
    assert path.exists()
    assert evaluate(trained["bi"], data, **given)["mrr"].value() == first["mrr"].value()
    with pytest.raises(ValueError, match="was not made by this model"):
        evaluate(trained["poly"], data, **given)


@pytest.mark.parametrize("name", AGENTS)
def test_the_task_s_candidates_are_whole_in_order_and_the_same_again(trained, data, name):
    report = evaluate(trained[name], data, eval_candidates="fixed", num_examples=4)
    path = Path(f"{trained[name]}.cands-poly_agents_jsonl.cands")
    assert path.read_text().splitlines() == [row["response"] for row in ROWS]
    assert report["exs"].value() == 5  # ParlAI counts a whole batch
    path.write_text("")
    evaluate(trained[name], data, eval_candidates="fixed")
    assert path.read_text().splitlines() == [row["response"] for row in ROWS]


def test_training_with_fixed_validation_never_uses_old_encodings(options, pool_file):
    agent = make(options, "bi", fixed_candidates_path=pool_file, eval_candidates="fixed", learningrate=0.05)
    quiz = example("hello how", text(3), training=False)
    before = answer(agent, quiz)[0]["candidate_scores"]
    lesson = [agent.clone().observe(example(text(i + 3), text(i))) for i in range(5)]
    agent.batch_act(lesson)
    agent.batch_act(lesson)
    after = answer(agent, quiz)[0]
    fresh = agent.ranker_module.encode_ids(agent.candidate_source.pools["fixed"].ids)
    scores = agent.ranker_module.score_ids([agent.dict.words.ids("hello how")], fresh)[0]
    assert after["candidate_scores"] == pytest.approx(scores.sort(descending=True).values.tolist(), abs=1e-4)
    assert after["candidate_scores"] != pytest.approx(before, abs=1e-4)


@pytest.mark.parametrize("name", AGENTS)
def test_an_evaluation_encodes_each_candidate_once(trained, data, name, monkeypatch):
    encoded, encode = [], Ranker.encode_ids
    monkeypatch.setattr(Ranker, "encode_ids", lambda self, ids, *a: (encoded.extend(ids), encode(self, ids, *a))[1])
    report = evaluate(trained[name], data)
    if name in CACHING:
        assert len(encoded) == len(set(map(tuple, encoded))) == 23
    encoded.clear()
    alone = evaluate(trained[name], data, encode_candidate_vecs=False)
    assert len(encoded) > 23
    assert alone["mrr"].value() == pytest.approx(report["mrr"].value(), abs=1e-6)
    assert alone["loss"].value() == pytest.approx(report["loss"].value(), abs=1e-5)


def test_encodings_of_one_evaluation_are_not_used_after_more_training(options):
    agent = make(options, "bi", learningrate=0.05)
    quiz = example("hello how", text(3), [text(3), text(4)], training=False)
    before = answer(agent, quiz)[0]["candidate_scores"]
    assert answer(agent, quiz)[0]["candidate_scores"] == before
    agent.batch_act([agent.clone().observe(example(text(i + 3), text(i))) for i in range(5)])
    after = answer(agent, quiz)[0]["candidate_scores"]
    fresh = agent.ranker_module.encode_ids([agent.dict.words.ids(text(i)) for i in (3, 4)])
    scores = agent.ranker_module.score_ids([agent.dict.words.ids("hello how")], fresh)[0]
    assert after == pytest.approx(scores.sort(descending=True).values.tolist(), abs=1e-4)
    assert after != pytest.approx(before, abs=1e-4)


@pytest.mark.parametrize("name", ["bi", "late"])
def test_encodings_in_memory_are_bounded_and_the_same(trained, name):
    ranker = poly_agents.load(trained[name], "float32").ranker
    texts = [[5 + i % 7] * (1 + i % 5) for i in range(35)]
    held = Memory(limit=nbytes(ranker.encode_ids(texts)) // 3)
    for _ in range(2):
        for start in range(0, 35, 7):
            found, fresh = (
                held.encode(ranker, texts[start : start + 7]),
                ranker.encode_ids(texts[start : start + 7]),
            )
            scores = [ranker.score_ids(texts[:3], encoded) for encoded in (found, fresh)]
            torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-5)
            assert held.bytes == sum(map(nbytes, held.rows.values())) <= held.limit
