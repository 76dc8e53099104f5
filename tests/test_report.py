"""What ParlAI reports of an evaluation, and the file of ranks."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from parlai.core.agents import create_agent
from parlai.core.message import Message
from parlai.scripts.eval_model import EvalModel

from poly_agents.agents import answers
from poly_agents.agents.report import EvaluationOptions, Scored
from poly_agents.candidates.search import Search
from poly_agents.scoring.ranker import Ranker
from tests.agents import ROWS, evaluate, example, make, text


def several(context: str, labels: list[str], candidates: list[str], **more) -> Message:
    return Message(text=context, episode_done=True, eval_labels=labels, label_candidates=candidates, **more)


def scored(agent, *messages, scores) -> list[Message]:
    """Replies to a batch, had the ranker given these scores [B, C]."""
    agent.candidate_source.score = lambda tokens, pool, source: Scored(pool, torch.tensor(scores))
    clones = [agent.clone() for _ in messages]
    return agent.batch_act([clone.observe(m) for clone, m in zip(clones, messages, strict=True)])


def value(reply: Message, name: str) -> float | None:
    found = reply["metrics"][name]
    return None if found is None else found.value()


def test_several_right_responses_of_one_context(options):
    agent = make(options, "bi", model_file=None, datatype="valid")
    messages = several("hello", ["red", "blue"], ["blue", "six", "red"]), several("hi", ["fine"], ["fine", "one"])
    replies = scored(agent, *messages, scores=[[3.0, 2.0, 1.0], [1.0, 2.0, -torch.inf]])
    assert [value(replies[0], f"recall_{how}@{k}") for how in ("any", "share") for k in (1, 2)] == [1, 1, 0.5, 0.5]
    assert [value(r, "map") for r in replies] == pytest.approx([5 / 6, 1 / 2])
    assert [value(r, "mrr") for r in replies] == [1, 1 / 2]
    assert [value(r, "rank") for r in replies] == [1, 2]
    assert [value(r, "hits@2") for r in replies] == [1, 1] and "hits@1" not in replies[0]["metrics"]
    first = torch.tensor([3.0, 2.0, 1.0]).log_softmax(0)[2]
    assert value(replies[0], "loss") == pytest.approx(-first.item())  # of the first response, always


def test_graded_judgements_are_what_ndcg_is_of(options):
    message = several("hello", ["red"], ["blue", "six", "red", "blue"], grades=[1, 0, 3, 2])
    for gain, second in (("linear", 2.0), ("exponential", 3.0)):
        agent = make(options, "bi", model_file=None, datatype="valid", ndcg_gain=gain)
        (reply,) = scored(agent, message, scores=[[3.0, 2.0, 1.0]])
        best = {2.0: 3.0, 3.0: 7.0}[second]
        expected = (second + best / 2) / (best + second / math.log2(3))
        assert value(reply, "ndcg@5") == pytest.approx(expected)
        assert value(reply, "recall_share@2") == 0
    with pytest.raises(ValueError, match="2 candidates and 1 grades"):
        scored(agent, several("hello", ["red"], ["red", "six"], grades=[1]), scores=[[1.0, 0.0]])


def test_contexts_without_a_right_candidate_are_skipped_or_counted(options):
    bad, good = several("hello", ["cat"], ["red", "six"]), several("hi", ["six"], ["red", "six"])
    for how, expected in (("skip", None), ("count", 0.0)):
        agent = make(options, "bi", model_file=None, datatype="valid", ignore_bad_candidates=True, without_positive=how)
        replies = scored(agent, bad, good, scores=[[1.0, 2.0], [1.0, 2.0]])
        assert all(value(replies[0], name) == expected for name in ("mrr", "map", "recall_any@1", "ndcg@5"))
        assert value(replies[0], "rank") is None and value(replies[0], "loss") is None
        assert value(replies[1], "mrr") == 1


@pytest.mark.parametrize("source", ["inline", "batch", "fixed", "batch-all-cands"])
def test_a_constant_scorer_has_no_hits_in_our_measures_nor_in_parlai_s(trained, data, source, pool_file, monkeypatch):
    for kind, name in ((Ranker, "score_tokens"), (Search, "scores")):
        given = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda *a, given=given: given(*a) * 0)
    report = evaluate(trained["bi"], data, eval_candidates=source, fixed_candidates_path=pool_file, batchsize=4)
    assert report["recall_any@1"] == report["recall_any@2"] == report["p@1"] == report["hits@1"] == 0
    assert report["hits@5"] == report["recall_any@5"] and report["hits@10"] == report["recall_any@10"]


@pytest.mark.parametrize("name", ["bi", "cross", "uni"])
@pytest.mark.parametrize("source", ["inline", "batch", "fixed", "batch-all-cands"])
def test_parlai_s_hits_are_recall_any(trained, data, name, source, pool_file):
    given = {"eval_candidates": source, "fixed_candidates_path": pool_file, "hits_at": "1,3,5,10"}
    report = evaluate(trained[name], data, **given)
    assert all(report[f"hits@{k}"] == report[f"recall_any@{k}"] for k in (1, 3, 5, 10))
    assert report["recall_any@3"] == report["recall_share@3"] and report["map"].value() == report["mrr"].value()
    assert 0 <= report["ndcg@1"].value() <= report["ndcg@10"].value() <= 1 and "hits@2" not in report


def test_recall_of_a_whole_store_counts_every_right_response(trained, pool_file):
    from parlai.core.agents import create_agent_from_model_file

    more = {"fixed_candidates_path": pool_file, "eval_candidates": "fixed", "datatype": "valid"}
    agent = create_agent_from_model_file(trained["poly"], more)
    labels = [text(i) for i in (3, 17, 21)]
    observed = agent.clone().observe(Message(text="hello how", episode_done=True, eval_labels=labels))
    (reply,) = agent.batch_act([observed])
    places = sorted(1 + reply["text_candidates"].index(label) for label in labels)
    assert value(reply, "recall_share@10") == pytest.approx(sum(place <= 10 for place in places) / 3)
    assert value(reply, "map") == pytest.approx(sum(i / place for i, place in enumerate(places, 1)) / 3)


def test_the_baseline_reports_the_same_measures(data, tmp_path):
    given = {"model": "poly_agents/bm25", "task": "poly_agents:jsonl", "jsonl_path": data, "datatype": "valid"}
    path = tmp_path / "ranks.jsonl"
    report = EvalModel.main(**given, batchsize=5, confidence=True, ranks_file=str(path), hits_at="1,5")
    assert report["hits@1"] == report["recall_any@1"] and report["mrr_low"] <= report["mrr"] <= report["mrr_high"]
    assert len(path.read_text().splitlines()) == len(ROWS)
    agent = create_agent(given)
    agent.observe(example("hello", "blue", ["blue", "six", "red"], training=False))
    reply = agent.act()  # no word in common
    assert value(reply, "rank") == 3 and reply["text_candidates"][-1] == "blue"


def test_the_file_of_ranks_holds_what_the_report_is_made_of(trained, data, tmp_path):
    path = tmp_path / "deep" / "ranks.jsonl"
    report = evaluate(trained["poly"], data, ranks_file=str(path), hits_at="1,3", batchsize=7)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert not Path(f"{path}.part").exists()
    assert [row["labels"] for row in rows] == [[own["response"]] for own in ROWS]
    assert [row["context"] for row in rows] == ["\n".join(own["context"]) for own in ROWS]
    ranks = [row["positives"][0]["rank"] for row in rows]
    assert np.mean([1 / rank for rank in ranks]) == pytest.approx(report["mrr"].value())
    for row, rank in zip(rows, ranks, strict=True):
        assert row["candidates"] == 4 and len(row["top"]) == 3
        assert [one["score"] for one in row["top"]] == sorted((one["score"] for one in row["top"]), reverse=True)
        if rank <= 3:
            assert row["top"][rank - 1] == {key: row["positives"][0][key] for key in ("text", "score")}
    again = evaluate(trained["poly"], data, ranks_file=str(path), hits_at="1,3", batchsize=1)
    assert again["mrr"].value() == pytest.approx(report["mrr"].value())
    for row, other in zip(rows, map(json.loads, path.read_text().splitlines()), strict=True):
        assert [p["rank"] for p in row["positives"]] == [p["rank"] for p in other["positives"]]


def test_tasks_follow_each_other_in_the_file(trained, data, tmp_path):
    path = tmp_path / "ranks.jsonl"
    task = f"poly_agents:jsonl:jsonl_path={data},poly_agents:jsonl:jsonl_path={data}/test.jsonl"
    report = evaluate(trained["bi"], data, task=task, ranks_file=str(path), confidence=True)
    assert len(path.read_text().splitlines()) == 2 * len(ROWS)
    assert report["mrr_low"] < report["mrr"] < report["mrr_high"]


def test_a_killed_evaluation_leaves_the_old_file_and_whole_lines_beside(trained, data, tmp_path, monkeypatch):
    path = tmp_path / "ranks.jsonl"
    path.write_text("old\n")
    calls, best_answers = [], answers.best_answers

    def stop(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return best_answers(*args, **kwargs)

    monkeypatch.setattr(answers, "best_answers", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(trained["bi"], data, ranks_file=str(path), batchsize=5)
    assert path.read_text() == "old\n"
    assert [json.loads(line)["candidates"] for line in Path(f"{path}.part").read_text().splitlines()] == [4] * 15


@pytest.mark.parametrize("given", ["", "0", "1,,2", "1,-2", "five", "²"])
def test_a_k_that_is_no_number_from_one_is_refused(given):
    with pytest.raises(ValueError, match="--hits-at takes numbers from 1"):
        EvaluationOptions(hits_at=given)


def test_ks_are_each_taken_once_in_order():
    assert EvaluationOptions(hits_at="10, 2,2,1").ks == [1, 2, 10]


def test_training_does_not_write_ranks(options):
    with pytest.raises(ValueError, match="--ranks-file is for evaluation"):
        make(options, "bi", ranks_file="ranks")
