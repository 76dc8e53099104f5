"""Rankers inside ParlAI: every candidate source, the faults that ParlAI's own rankers have, files and chats."""

import json
from pathlib import Path

import pytest
import torch
from parlai.core.agents import create_agent, create_agent_from_model_file
from parlai.core.message import Message
from parlai.scripts.display_model import DisplayModel
from parlai.scripts.eval_model import EvalModel
from parlai.scripts.train_model import TrainModel
from parlai.utils import logging as parlai_logging

import poly_agents
from poly_agents.candidates import memory
from poly_agents.scoring.ranker import Ranker
from poly_agents.text.tokens import pad
from tests.conftest import ROWS, WORDS, all_rankers, evaluate, example, make, settings, text

parlai_logging.logger.setLevel("ERROR")
AGENTS = sorted(all_rankers())
CACHING = [name for name, kind in all_rankers().items() if kind.caches(kind.Options())]


# --- candidate sources --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("source", ["batch", "inline", "fixed", "batch-all-cands"])
def test_every_agent_trains_and_evaluates_with_every_source(options, name, source, pool_file):
    given = settings(options, name, candidates=source, eval_candidates=source, fixed_candidates_path=pool_file)
    valid, _ = TrainModel.main(**given, max_train_steps=2, negatives=3)
    assert 0 <= valid["hits@1"].value() <= valid["hits@5"].value() <= 1
    assert 0 < valid["mrr"].value() <= 1
    assert valid["exs"].value() == len(ROWS)


@pytest.mark.parametrize("name", AGENTS)
def test_a_vocabulary_is_ranked_or_refused_before_any_work(trained, data, name):
    if name not in CACHING:
        with pytest.raises(ValueError, match="whole vocabulary is too much"):
            evaluate(trained[name], data, eval_candidates="vocab")
        return
    assert evaluate(trained[name], data, eval_candidates="vocab", ignore_bad_candidates=True)["exs"].value() == 23


def test_batch_candidates_are_as_many_as_different_labels(options):
    agent = make(options, "cross")
    replies = act(agent, [example("hello", "fine"), example("hi", "my cat"), example("you", "fine")])
    assert replies["scores"].shape == (3, 2)
    assert replies["labels"].tolist() == [0, 1, 0]


def act(agent, messages) -> dict:
    """One training batch, with the scores and labels the loss saw."""
    seen = {}
    clones = [agent.clone() for _ in messages]
    batch = agent.batchify([clone.observe(message) for clone, message in zip(clones, messages, strict=True)])
    pool = agent._build_candidates(batch, agent.candidates, "train")
    seen["scores"], seen["labels"] = agent.score_candidates(batch, pool), pool.labels
    return seen


def answer(agent, *messages) -> list[Message]:
    """Replies to a batch of observations, one clone each, as ParlAI's batch world makes them."""
    clones = [agent.clone() for _ in messages]
    observed = [clone.observe(message) for clone, message in zip(clones, messages, strict=True)]
    return agent.batch_act(observed)


@pytest.mark.parametrize("name", AGENTS)
def test_sampled_negatives_are_other_responses(options, name):
    agent = make(options, name, negatives=2)
    batch = agent.batchify([agent.clone().observe(example(f"{w} hi", w)) for w in WORDS[:7]])
    from poly_agents.candidates import pool

    whole = agent._build_candidates(batch, "batch", "train")
    sampled = pool.sample(whole, 2, seed=1)
    assert sampled.index.shape == (7, 3)
    assert sampled.index[:, 0].tolist() == whole.labels.tolist() and sampled.labels.tolist() == [0] * 7
    assert all(len(set(row)) == 3 for row in sampled.index.tolist())
    assert pool.sample(whole, 2, seed=2).index.tolist() != sampled.index.tolist()


def test_missing_candidates_are_refused_with_what_to_give(options, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"context": ["hi"], "response": "fine"}\n' * 3)
    with pytest.raises(ValueError, match="bring no candidates; give --candidates batch or fixed"):
        TrainModel.main(**settings(options, "bi", jsonl_path=str(tmp_path), candidates="inline"))


# --- labels and duplicates ----------------------------------------------------------------------------------------


def test_candidates_equal_in_text_are_one_and_those_equal_after_truncation_are_two(options):
    agent = make(options, "bi", label_truncate=2, model_file=None)
    candidates = ["one two three", "one two four", "one two three", "five"]
    reply = answer(agent, example("hello", "one two four", candidates, training=False))[0]
    assert sorted(reply["text_candidates"]) == ["five", "one two four", "one two three"]
    assert reply["metrics"]["rank"].value() == 1 + reply["text_candidates"].index("one two four")


@pytest.mark.parametrize("name", AGENTS)
def test_a_label_that_is_no_candidate_is_named(options, name):
    agent = make(options, name, model_file=None)
    message = example("hello how", "my cat", ["fine", "blue"], training=False)
    with pytest.raises(
        RuntimeError, match=r"label 'my cat' is not among the inline candidates.*'hello how'.*ignore-bad"
    ):
        answer(agent, message)


def test_bad_candidates_are_ignored_where_asked(options):
    agent = make(options, "bi", model_file=None, ignore_bad_candidates=True, candidates="inline")
    bad = example("hello how", "my cat", ["fine", "blue"], training=False)
    good = example("hello how", "blue", ["fine", "blue"], training=False)
    replies = answer(agent, bad, good)
    assert "rank" not in {k: v for k, v in replies[0]["metrics"].items() if v is not None}
    assert replies[1]["metrics"]["rank"].value() in (1, 2)
    trained = agent.batchify([agent.clone().observe(example("hi", "my cat", ["fine", "blue"]))])
    assert trained.batchsize == 0


@pytest.mark.parametrize("name", AGENTS)
def test_odd_texts_score_without_harm(trained, name):
    agent = create_agent_from_model_file(trained[name])
    for context in ("", "🙂", "ᚠᚢᚦ", "x" * 10_000, "hello " * 10_000, "\n\n"):
        reply = answer(agent, example(context, "fine", ["fine", "", "🙂", "hello " * 3000], training=False))[0]
        assert len(reply["text_candidates"]) == 4
        assert all(torch.tensor(reply["candidate_scores"]).isfinite())
    single = answer(agent, example("hi", "fine", ["fine"], training=False))[0]
    assert single["text"] == "fine" and single["metrics"]["rank"].value() == 1


def test_candidates_of_different_number_are_ranked_each_alone(trained):
    for name in AGENTS:
        agent = create_agent_from_model_file(trained[name])
        few = example("hello", "fine", ["fine", "blue"], training=False)
        many = example("my cat", "red", ["red", "blue", "six", "fine", "one"], training=False)
        together = answer(agent, few, many)
        assert [len(reply["text_candidates"]) for reply in together] == [2, 5]
        for reply, alone in zip(together, (answer(agent, few)[0], answer(agent, many)[0]), strict=True):
            assert reply["text_candidates"] == alone["text_candidates"]
            assert reply["candidate_scores"] == pytest.approx(alone["candidate_scores"], abs=1e-4)


# --- truncation ---------------------------------------------------------------------------------------------------


def test_truncation_keeps_the_newest_turns_and_the_head_of_a_candidate(options):
    agent = make(options, "bi", text_truncate=3, label_truncate=2, model_file=None)
    words = agent.dict.words
    seen = agent.observe(example("one two\nthree four", "five six one", ["five six one", "two"], training=False))
    assert seen["text_vec"].tolist() == words.ids("\nthree four")
    assert seen["eval_labels_vec"].tolist() == words.ids("five six")
    assert seen["label_candidates_vecs"] == [words.ids("five six"), words.ids("two")]


def test_parlai_s_truncate_bounds_both(options):
    agent = make(options, "bi", truncate=17, model_file=None)
    assert (agent.text_truncate, agent.label_truncate) == (17, 13)


def test_truncation_is_counted_and_warned_of_once(trained, data, monkeypatch):
    warned = []
    monkeypatch.setattr("poly_agents.agents.ranker_agent.warn_once", lambda message: warned.append(message))
    report = evaluate(trained["bi"], data, text_truncate=4)
    assert report["ctrunc"].value() == 1.0
    assert "newest turns" in warned[0]


def test_texts_that_do_not_fit_the_encoder_are_refused(options):
    with pytest.raises(ValueError, match="need 113 positions with the special tokens, the encoder has 97"):
        make(options, "cross", text_truncate=90, label_truncate=20)


# --- fixed candidates and their cache -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CACHING)
def test_encodings_are_reused_and_made_again_after_more_training(options, name, pool_file, tmp_path):
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
    kept, contexts = agent.kept, pad([[5, 6, 7], [9]])
    fresh = agent.ranker_module.encode_texts([agent.dict.words.ids(text) for text in kept.store.texts])
    scores = agent.ranker_module.score_texts([[5, 6, 7], [9]], fresh)
    torch.testing.assert_close(kept.scores(agent.ranker_module, contexts), scores, atol=1e-5, rtol=1e-5)
    best = kept.best(agent.ranker_module, contexts, 5)
    torch.testing.assert_close(best.scores, scores.sort(descending=True).values[:, :5], atol=1e-5, rtol=1e-5)


def test_a_damaged_store_is_mended(trained, data, pool_file):
    given = {"eval_candidates": "fixed", "fixed_candidates_path": pool_file}
    first = evaluate(trained["bi"], data, **given)
    (path,) = Path(f"{trained['bi']}.pool.store").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-50])
    assert evaluate(trained["bi"], data, **given)["mrr"].value() == first["mrr"].value()
    assert evaluate(trained["bi"], data, **given, datatype="test")["mrr"].value() == first["mrr"].value()


@pytest.mark.parametrize("how", ["exact", "certified", "fast"])
def test_a_chat_searches_the_store(trained, pool_file, how, tmp_path):
    more = {"fixed_candidates_path": pool_file, "eval_candidates": "fixed", "interactive_mode": True}
    more |= {"search": how, "datatype": "valid"}
    agent = create_agent_from_model_file(trained["poly"], more)
    kept = agent.kept.scores(agent.ranker_module, pad([agent.dict.words.ids("hello how")]))[0]
    reply = answer(agent, {"text": "hello how", "episode_done": False})[0]
    assert reply["text"] == agent.kept.store.texts[int(kept.argmax())]
    assert reply["candidate_scores"] == pytest.approx(kept.sort(descending=True).values.tolist(), abs=1e-5)


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
    fresh = agent.ranker_module.encode_texts(agent.pools["fixed"].ids)
    scores = agent.ranker_module.score_texts([agent.dict.words.ids("hello how")], fresh)[0]
    assert after["candidate_scores"] == pytest.approx(scores.sort(descending=True).values.tolist(), abs=1e-4)
    assert after["candidate_scores"] != pytest.approx(before, abs=1e-4)


@pytest.mark.parametrize("name", AGENTS)
def test_an_evaluation_encodes_each_candidate_once(trained, data, name, monkeypatch):
    encoded, encode = [], Ranker.encode_texts
    monkeypatch.setattr(Ranker, "encode_texts", lambda self, ids, *a: (encoded.extend(ids), encode(self, ids, *a))[1])
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
    fresh = agent.ranker_module.encode_texts([agent.dict.words.ids(text(i)) for i in (3, 4)])
    scores = agent.ranker_module.score_texts([agent.dict.words.ids("hello how")], fresh)[0]
    assert after == pytest.approx(scores.sort(descending=True).values.tolist(), abs=1e-4)
    assert after != pytest.approx(before, abs=1e-4)


@pytest.mark.parametrize("name", ["bi", "late"])
def test_encodings_in_memory_are_bounded_and_the_same(trained, name):
    ranker = poly_agents.load(trained[name], "float32").ranker
    texts = [[5 + i % 7] * (1 + i % 5) for i in range(35)]
    held = memory.Memory(limit=memory.size(ranker.encode_texts(texts)) // 3)
    for _ in range(2):
        for start in range(0, 35, 7):
            found, fresh = (
                memory.encode(ranker, texts[start : start + 7]),
                ranker.encode_texts(texts[start : start + 7]),
            )
            scores = [ranker.score_texts(texts[:3], kept) for kept in (found, fresh)]
            torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-5)
            assert memory.held == sum(map(memory.size, memory.rows.values())) <= memory.limit


# --- chats --------------------------------------------------------------------------------------------------------


def test_repeats_are_blocked_by_each_dialogue_s_own_history(trained, pool_file):
    agent = create_agent_from_model_file(
        trained["bi"], {"fixed_candidates_path": pool_file, "eval_candidates": "fixed", "interactive_mode": False}
    )
    free = answer(agent, Message(text="hello", episode_done=False))[0]["text"]
    said = Message(text=f"{free}\nhello", episode_done=False)
    replies = answer(agent, said, Message(text="hello", episode_done=False))
    assert replies[0]["text"] != free and free not in replies[0]["text_candidates"]
    assert replies[1]["text"] == free


def test_blocking_never_leaves_an_empty_list(trained, tmp_path):
    path = tmp_path / "two.txt"
    path.write_text("fine\nblue\n")
    agent = create_agent_from_model_file(
        trained["poly"], {"fixed_candidates_path": str(path), "eval_candidates": "fixed"}
    )
    for _ in range(3):
        agent.observe(Message(text="fine\nblue", episode_done=False))
        assert agent.act()["text"] in ("fine", "blue")


def test_a_chat_shows_scores_and_remembers_only_the_reply(trained, data):
    agent = create_agent_from_model_file(
        trained["poly"], {"interactive_mode": True, "show_candidates": 3, "jsonl_path": data}
    )
    agent.observe(Message(text="hello how are you", episode_done=False))
    shown = agent.act()["text"].split("\n")
    assert len(shown) == 4 and shown[1].split(None, 1)[1] == shown[0]
    assert agent.history.history_strings[-1] == shown[0]


def test_display_model_shows_scores(trained, data, capsys):
    DisplayModel.main(
        model_file=trained["bi"],
        task="poly_agents:jsonl",
        jsonl_path=data,
        num_examples=2,
        show_candidates=2,
        display_add_fields="ranking",
    )
    assert "[ranking]" in capsys.readouterr().out


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_a_moved_model_loads_without_its_backbone(trained, data, name, tmp_path):
    before = evaluate(trained[name], data, batchsize=1)
    for suffix in ("", ".opt", ".dict"):
        (tmp_path / f"model{suffix}").write_bytes(Path(trained[name] + suffix).read_bytes())
    opt = json.loads((tmp_path / "model.opt").read_text())
    opt["backbone"] = "/nowhere/at/all"
    opt["dict_file"] = "/nowhere/model.dict"
    (tmp_path / "model.opt").write_text(json.dumps(opt))
    after = evaluate(str(tmp_path / "model"), data, batchsize=1)
    assert after["mrr"].value() == before["mrr"].value()
    assert poly_agents.load(str(tmp_path / "model")).rank("hello", ["fine", "blue"])[0].text in ("fine", "blue")


def test_a_pickled_model_file_is_refused_and_not_run(trained, data, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    for suffix in (".opt", ".dict"):
        (tmp_path / f"model{suffix}").write_bytes(Path(trained["bi"] + suffix).read_bytes())
    torch.save({"model": Bomb()}, tmp_path / "model")
    with pytest.raises(ValueError, match=r"model is damaged or not a model of poly_agents"):
        evaluate(str(tmp_path / "model"), data)
    assert not (tmp_path / "ran").exists()


def test_options_that_do_not_fit_the_weights_are_named(trained, data):
    with pytest.raises(ValueError, match="does not fit these options: 1 weights differ, first 'codes'"):
        evaluate(trained["poly"], data, poly_codes=7)


def test_init_model_starts_from_another_model_with_a_fresh_schedule(options, trained):
    agent = make(options, "bi", init_model=trained["bi"])
    source = poly_agents.load(trained["bi"], "float32").ranker.tensors()
    assert all(torch.equal(tensor, source[name]) for name, tensor in agent.ranker_module.tensors().items())
    assert agent._number_training_updates == 0 and not agent.examples_seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"person_tokens": True}, "--person-tokens"),
        ({"fp16": True}, "give --precision"),
        ({"precision": "float16"}, "float16 is for inference"),
        ({"text_truncate": 0}, "--text-truncate must be at least 1, got 0"),
        ({"truncate": 0, "label_truncate": -1}, "--label-truncate must be at least 1, got -1"),
        ({"fixed_candidates_path": "/no/file"}, "there is no such file"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(options, changes, message):
    with pytest.raises(ValueError, match=message):
        make(options, "bi", **changes)


def test_running_out_of_memory_stops_the_run(options, monkeypatch):
    agent = make(options, "bi")

    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(agent.ranker_module, "score", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        agent.batch_act([agent.clone().observe(example(text(i), text(i))) for i in range(3)])


@pytest.mark.parametrize("scheduler", ["reduceonplateau", "invsqrt", "none"])
def test_parlai_s_own_choices_stay_selectable(options, scheduler):
    given = settings(options, "bi", lr_scheduler=scheduler, optimizer="adamax", invsqrt_lr_decay_gamma=10)
    TrainModel.main(**given, max_train_steps=3, warmup_updates=2, validation_every_n_steps=2, save_after_valid=True)
    TrainModel.main(**given, max_train_steps=5, warmup_updates=2, validation_every_n_steps=2, save_after_valid=True)


def test_a_limit_of_time_beside_epochs_is_warned_of(options, monkeypatch):
    warned = []
    monkeypatch.setattr("poly_agents.agents.ranker_agent.logging.warning", warned.append)
    TrainModel.main(**settings(options, "bi"), num_epochs=0.5, max_train_time=60)
    assert any("--max-train-time" in message and "leave out --num-epochs" in message for message in warned)


def test_a_background_worker_trains(options):
    TrainModel.main(**settings(options, "bi"), max_train_steps=2, num_workers=1, datatype="train:stream")


def test_the_tf_idf_baseline_prefers_shared_words(data):
    report = EvalModel.main(
        model="poly_agents/tfidf", task="poly_agents:jsonl", jsonl_path=data, datatype="valid", batchsize=5
    )
    assert report["exs"].value() == len(ROWS) and 0 < report["mrr"].value() <= 1
    agent = create_agent({"model": "poly_agents/tfidf", "task": "poly_agents:jsonl", "jsonl_path": data})
    agent.observe(example("hello my cat", "blue", ["six five", "my cat", "hello"], training=False))
    assert agent.act()["text"] == "my cat"


# --- plain Python -------------------------------------------------------------------------------------------------


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
