"""Every source of candidates, labels and duplicates, and truncation."""

import json
from pathlib import Path

import pytest
import torch
from parlai.core.agents import create_agent_from_model_file
from parlai.scripts.train_model import TrainModel
from torch.nn.functional import cross_entropy

import poly_agents
from poly_agents.errors import InputError
from poly_agents.learning import training
from poly_agents.learning.training import TrainingBatch
from poly_agents.text.tokens import pad
from tests.agents import AGENTS, CACHING, ROWS, answer, evaluate, example, make, settings
from tests.encoders import WORDS


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
    pool = agent.candidate_source.of(batch, agent.candidates, training=True)
    seen["scores"], seen["labels"] = agent.score_candidates(batch, pool), pool.labels
    return seen


@pytest.mark.parametrize("name", AGENTS)
def test_sampled_negatives_are_other_responses(options, name):
    agent = make(options, name, negatives=2)
    batch = agent.batchify([agent.clone().observe(example(f"{w} hi", w)) for w in WORDS[:7]])
    from poly_agents.candidates import pool

    whole = agent.candidate_source.of(batch, "batch", training=True)
    sampled = pool.sample(whole, 2, seed=1)
    assert sampled.index.shape == (7, 3)
    assert sampled.index[:, 0].tolist() == whole.labels.tolist() and sampled.labels.tolist() == [0] * 7
    assert all(len(set(row)) == 3 for row in sampled.index.tolist())
    assert pool.sample(whole, 2, seed=2).index.tolist() != sampled.index.tolist()


def test_missing_candidates_are_refused_with_what_to_give(options, tmp_path):
    for split in ("train", "valid"):
        rows = [{"context": ["hi"], "response": response} for response in ("fine", "blue", "six")]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="bring no candidates; give --candidates batch or fixed"):
        TrainModel.main(**settings(options, "bi", jsonl_path=str(tmp_path), candidates="inline"))


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
    with pytest.raises(InputError, match=r"label 'my cat' is not among the inline candidates.*'hello how'.*ignore-bad"):
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


def test_truncation_keeps_the_newest_turns_and_the_head_of_a_candidate(options):
    agent = make(options, "bi", text_truncate=3, label_truncate=2, model_file=None)
    words = agent.dict.words
    seen = agent.observe(example("one two\nthree four", "five six one", ["five six one", "two"], training=False))
    assert seen["text_vec"] == words.ids("\nthree four")
    assert seen["eval_labels_vec"] == words.ids("five six")
    assert seen["label_candidates_vecs"] == [words.ids("five six"), words.ids("two")]


def test_parlai_s_truncate_bounds_both(options):
    agent = make(options, "bi", truncate=17, model_file=None)
    assert (agent.text_truncate, agent.label_truncate) == (17, 13)


def test_truncation_is_counted_and_warned_of_once(trained, data, monkeypatch):
    warned = []
    monkeypatch.setattr("poly_agents.agents.observations.warn_once", lambda message: warned.append(message))
    report = evaluate(trained["bi"], data, text_truncate=4)
    assert report["ctrunc"].value() == 1.0
    assert "newest turns" in warned[0]


def test_texts_that_do_not_fit_the_encoder_are_refused(options):
    with pytest.raises(ValueError, match="need 113 positions with the special tokens, the encoder has 97"):
        make(options, "cross", text_truncate=90, label_truncate=20)


@pytest.mark.parametrize("name", AGENTS)
def test_another_right_response_of_a_context_is_no_negative_in_its_batch(options, name):
    agent = make(options, name)
    given = [("any pets", "my cat"), ("Any pets?", "blue six"), ("hello how", "My  cat!"), ("fine", "one two")]
    clones = [agent.clone() for _ in given]
    batch = agent.batchify([clone.observe(example(*each)) for clone, each in zip(clones, given, strict=True)])
    pool = agent.training_candidates.of(batch, "batch", 0, 0.0)
    texts = [[pool.texts[number] for number in pool.row(context)] for context in range(4)]
    assert texts == [["my cat", "one two"], ["blue six", "one two"], ["blue six", "My  cat!", "one two"],
                     ["my cat", "blue six", "My  cat!", "one two"]]  # fmt: skip
    assert [pool.texts[pool.index[row, label]] for row, label in enumerate(pool.labels)] == [text for _, text in given]
    scores = agent.score_candidates(batch, pool)
    assert (scores == -torch.inf).equal(pool.index < 0)
    whole = agent.score_candidates(batch, agent.candidate_source.of(batch, "batch", training=True))
    if name != "uni":  # its scores depend on which candidates there are
        torch.testing.assert_close(scores[pool.index >= 0], whole[pool.index >= 0], atol=1e-5, rtol=1e-5)
    taught = TrainingBatch(batch.tokens, pad(pool.ids), pool.index, pool.labels)
    result = training.step(agent.ranker_module, agent.training_options, taught)
    assert result.loss.isfinite().all()
    if name != "ed2lm":  # its loss is another one
        expected = cross_entropy(result.scores, pool.labels, reduction="none")
        torch.testing.assert_close(result.loss, expected)


def test_all_labels_of_an_example_are_right_and_none_of_them_is_a_negative(options):
    agent = make(options, "bi", candidates="inline")
    message = example("any pets", "my cat", ["no", "my cat", "A dog.", "a dog", "six"])
    message.force_set("labels", ["my cat", "a dog"])
    pool = agent.training_candidates.of(agent.batchify([agent.clone().observe(message)]), "inline", 0, 0.0)
    kept = [pool.texts[number] for number in pool.row(0)]
    assert kept in (["no", "my cat", "six"], ["no", "a dog", "six"])  # training draws one of the labels


@pytest.mark.parametrize("negatives", [0, 2])
def test_a_batch_without_such_responses_stays_as_it_is(options, negatives):
    agent = make(options, "bi", negatives=negatives)
    batch = agent.batchify([agent.clone().observe(example(f"{w} hi", w)) for w in WORDS[:7]])
    pool = agent.training_candidates.of(batch, "batch", 0, 0.0)
    assert pool.index is None if not negatives else (pool.index >= 0).all() and pool.index.shape == (7, 3)


# --- a fixed pool that lacks the label --------------------------------------------------------------------------------


@pytest.fixture
def small_pool(tmp_path) -> str:
    """Seven candidates: the labels of six examples, and one of nobody."""
    path = tmp_path / "pool.txt"
    path.write_text("\n".join([*(row["response"] for row in ROWS[:6]), "hello cat"]) + "\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("kept", ["store", "memory"])
@pytest.mark.parametrize("name", ["bi", "late", "cross", "uni"])
def test_the_label_is_ranked_with_the_pool(trained, data, tmp_path, small_pool, name, kept):
    ranks = tmp_path / "ranks.jsonl"
    given = {"eval_candidates": "fixed", "fixed_candidates_path": small_pool, "encode_candidate_vecs": kept == "store"}
    with pytest.raises(InputError, match="--add-label-to-fixed-candidates true ranks the pool and the label"):
        evaluate(trained[name], data, **given)
    more = {"add_label_to_fixed_candidates": True, "ranks_file": str(ranks), "precision": "float32"}
    report = evaluate(trained[name], data, **given, **more)
    model = poly_agents.load(trained[name], "float32")
    pool = Path(small_pool).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in ranks.read_text(encoding="utf-8").splitlines()]
    assert report["exs"] == len(rows) == len(ROWS)
    for row in rows:
        (label,) = row["labels"]
        candidates = list(dict.fromkeys([*pool, label]))
        assert row["candidates"] == len(candidates)
        score = {ranked.text: ranked.score for ranked in model.rank(row["context"], candidates)}
        (found,) = row["positives"]
        assert found["score"] == pytest.approx(score[label], abs=0.02)
        ahead = [sum(other > score[label] + margin for other in score.values()) for margin in (0.04, -0.04)]
        assert ahead[0] < found["rank"] <= max(ahead[1], 1)


def test_a_submission_has_no_id_for_an_added_label(options):
    with pytest.raises(InputError, match="--add-label-to-fixed-candidates gives no id"):
        make(options, "bi", datatype="valid", submission="x", add_label_to_fixed_candidates=True)


@pytest.mark.parametrize("name", ["bi", "cross"])
def test_texts_of_a_pool_that_are_equal_are_one_candidate(trained, data, tmp_path, name):
    """Whether the pool is kept in a store, as that of bi, or in memory."""
    texts = [row["response"] for row in ROWS]
    reports = []
    for copies in (1, 3):
        rows = [
            {"text": f"{text}{' ' * copy}", "id": f"{n}.{copy}"}
            for n, text in enumerate(texts)
            for copy in range(copies)
        ]
        path = tmp_path / f"pool{copies}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        reports.append(evaluate(trained[name], data, eval_candidates="fixed", fixed_candidates_path=str(path)))
    for measure in ("p@1", "mrr", "rank", "recall_any@5", "ndcg@10"):
        assert reports[0][measure].value() == pytest.approx(reports[1][measure].value())
