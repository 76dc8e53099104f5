"""Measures of a ranking: by hand, against trec_eval, and as ParlAI reports them."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
import torch
from parlai.core.agents import create_agent
from parlai.core.message import Message
from parlai.core.metrics import aggregate_unnamed_reports
from parlai.scripts.eval_model import EvalModel
from parlai.scripts.multiprocessing_eval import MultiProcessEval
from torch.nn.functional import pad

from poly_agents.agents.ranker_agent import RankerAgent
from poly_agents.agents.report import RESAMPLES, EvaluationOptions, Interval, draw
from poly_agents.candidates import pool
from poly_agents.evaluation.measures import (
    average_precision,
    measures,
    ndcg,
    ranked,
    recall_any,
    recall_share,
    reciprocal_rank,
)
from poly_agents.scoring.ranks import SORTED, label_ranks, top
from tests.agents import ROWS, evaluate, example, make, text

KS = (1, 2, 5, 10)


def measured(scores, relevance, mask=None, grades=None, ks=KS, exponential=False) -> dict[str, torch.Tensor]:
    places = ranked(scores, relevance, mask)
    graded = places if grades is None else ranked(scores, grades, mask)
    return measures(places.ranks, graded, ks, exponential)


# --- pure functions -----------------------------------------------------------------------------------------------


def test_a_ranking_by_hand():
    """Order: right, wrong, right (grade 3), wrong, right; the last one's grade is 2."""
    scores, relevance = torch.tensor([[5.0, 4, 3, 2, 1]]), torch.tensor([[1.0, 0, 3, 0, 2]])
    ranks, _, grades = ranked(scores, relevance)
    assert ranks.tolist() == [[1, 3, 5]] and grades.tolist() == [[1, 3, 2]]
    assert [recall_any(ranks, k).item() for k in (1, 2, 5)] == [1, 1, 1]
    assert [recall_share(ranks, k).item() for k in (1, 3, 5)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert reciprocal_rank(ranks).item() == 1
    assert average_precision(ranks).item() == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    log = math.log2
    assert ndcg(ranks, grades, 3).item() == pytest.approx((1 + 3 / 2) / (3 + 2 / log(3) + 1 / 2))
    assert ndcg(ranks, grades, 3, True).item() == pytest.approx((1 + 7 / 2) / (7 + 3 / log(3) + 1 / 2))


def test_the_two_conventions_differ_where_two_are_right():
    found = measured(torch.tensor([[3.0, 2, 1]]), torch.tensor([[1, 0, 1]]), ks=(1, 2, 3))
    assert [found[f"recall_any@{k}"].item() for k in (1, 2, 3)] == [1, 1, 1]
    assert [found[f"recall_share@{k}"].item() for k in (1, 2, 3)] == [0.5, 0.5, 1]


def random_batch(seed: int, kind: str):
    """Scores, grades and mask [B, C] with ties or without, some rows shorter."""
    torch.manual_seed(seed)
    scores = torch.randn(31, 17) if kind == "random" else torch.randint(0, 4, (31, 17)).float()
    grades = torch.randint(0, 4, (31, 17)).float() * (torch.rand(31, 17) < 0.3)
    sizes = torch.randint(1, 18, (31, 1))
    return scores, grades, torch.arange(17) < sizes


@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("seed", range(5))
def test_measures_are_those_of_trec_eval(kind, seed):
    """Of tied scores it is told the order in which the less relevant come first, by a small step for every grade."""
    scores, grades, mask = random_batch(seed, kind)
    nudged = scores - 1e-3 * grades * (kind == "tied")  # trec_eval computes in float32
    judged, run = {}, {}
    for row in range(len(scores)):
        columns = mask[row].nonzero()[:, 0].tolist()
        judged[str(row)] = {str(c): int(grades[row, c]) for c in columns}
        run[str(row)] = {str(c): float(nudged[row, c]) for c in columns}
    names = {"recip_rank": "mrr", "map": "map", "P_1": "p@1"}
    cuts = {"success": "recall_any", "recall": "recall_share", "ndcg_cut": "ndcg"}
    names |= {f"{theirs}_{k}": f"{ours}@{k}" for theirs, ours in cuts.items() for k in KS}
    wanted = {"recip_rank", "map", "P.1", *(f"{name}.1,2,5,10" for name in cuts)}
    theirs = pytrec_eval.RelevanceEvaluator(judged, wanted).evaluate(run)
    ours = measured(scores, grades, mask)
    for row in range(len(scores)):
        none = not (grades[row] * mask[row]).any()
        for name, own in names.items():
            value = ours[own][row].item()
            assert math.isnan(value) if none else value == pytest.approx(theirs[str(row)][name], abs=1e-6), name


def test_exponential_gains_are_those_of_grades_raised_before():
    scores, grades, mask = random_batch(7, "random")
    own = measured(scores, grades, mask, exponential=True)
    raised = measured(scores, grades.exp2() - 1, mask)
    for k in KS:
        torch.testing.assert_close(own[f"ndcg@{k}"], raised[f"ndcg@{k}"], equal_nan=True)


@pytest.mark.parametrize("score", [0.0, torch.inf, -torch.inf, torch.nan])
def test_one_score_for_all_is_never_better_than_chance(score):
    relevance = torch.zeros(11, 7)
    relevance[torch.arange(11), torch.arange(11) % 7] = 1
    found = measured(torch.full((11, 7), score), relevance)
    assert found["rank"].tolist() == [7] * 11
    assert found["recall_any@1"].sum() == found["recall_any@5"].sum() == found["p@1"].sum() == 0
    assert found["mrr"].tolist() == found["map"].tolist() == pytest.approx([1 / 7] * 11)


def test_not_a_number_is_the_worst_score_of_a_right_candidate_and_the_best_of_any_other():
    nan = torch.nan
    scores, relevance = torch.tensor([[nan, 5, -5], [1, nan, -5], [nan, nan, 1]]), torch.tensor([[1, 0, 0]] * 3)
    assert ranked(scores, relevance).ranks.tolist() == [[3], [2], [3]]


def test_of_tied_right_candidates_the_lower_grade_comes_first():
    ranks, columns, grades = ranked(torch.zeros(1, 4), torch.tensor([[2.0, 0, 3, 1]]))
    assert ranks.tolist() == [[2, 3, 4]] and columns.tolist() == [[3, 0, 2]] and grades.tolist() == [[1, 2, 3]]


def test_neither_the_batch_nor_padding_nor_the_order_changes_a_measure():
    scores, grades, mask = random_batch(3, "tied")
    whole = measured(scores, grades, mask)
    wider = [pad(part, (0, 5), value=value) for part, value in ((scores, 9), (grades, 3), (mask, False))]
    shuffled = torch.randperm(17)
    assert_same(whole, measured(*(part[:, shuffled] for part in (scores, grades, mask))))
    assert_same(whole, measured(*wider))
    for row in range(len(scores)):
        size = int(mask[row].sum())
        alone = measured(scores[row : row + 1, :size], grades[row : row + 1, :size])
        assert_same({name: values[row : row + 1] for name, values in whole.items()}, alone)


def assert_same(one, other) -> None:
    for name, values in one.items():
        torch.testing.assert_close(values, other[name], equal_nan=True)


def test_a_label_s_rank_counts_ties_and_not_a_number_against_it():
    scores = torch.tensor([[1.0, 1, 0, 1], [2, 1, 3, 0], [torch.nan, 1, 2, 0]])
    assert label_ranks(scores, torch.tensor([0, 0, 0])).tolist() == [3, 2, 4]
    assert label_ranks(scores, torch.tensor([-1, 3, -1])).tolist() == [0, 4, 0]


@pytest.mark.parametrize("size", [13, SORTED + 13])
def test_the_best_few_put_what_is_marked_last_among_equals(size):
    scores = torch.arange(size).remainder(3).float()
    last = torch.zeros(size, dtype=torch.bool)
    last[[2, 5]] = True
    best = scores.eq(2).sum().item()
    values, order = top(scores, best + 1, last)
    assert values.tolist() == [2.0] * best + [1.0]
    assert order[best - 2 : best].sort().values.tolist() == [2, 5]
    few = top(scores, 2, last).indices
    assert not last[few].any()


# --- relevance in a pool --------------------------------------------------------------------------------------------


def test_relevance_is_found_in_every_kind_of_pool():
    wanted = [{"a": 1.0, "zz": 1.0}, {" b": 2.0, "c": 3.0, "c ": 1.0}]
    shared = pool.shared(["c", "a", "b", "a "], [[1], [2], [3], [2]], None)
    assert pool.relevance(shared, wanted).tolist() == [[0, 1, 0], [3, 0, 2]]
    separate = pool.separate([["b", "a", "a"], ["x", "c", "a", "b"]], [[[3], [2], [2]], [[4], [1], [2], [3]]], None)
    assert pool.relevance(separate, wanted).tolist() == [[0, 1, 0, 0], [0, 3, 0, 2]]


# --- in ParlAI ------------------------------------------------------------------------------------------------------


def several(context: str, labels: list[str], candidates: list[str], **more) -> Message:
    return Message(text=context, episode_done=True, eval_labels=labels, label_candidates=candidates, **more)


def scored(agent, *messages, scores) -> list[Message]:
    """Replies to a batch, had the ranker given these scores [B, C]."""
    agent.score_candidates = lambda *_: torch.tensor(scores)
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
    from poly_agents.candidates.search import Search

    flat = RankerAgent.score_candidates
    monkeypatch.setattr(RankerAgent, "score_candidates", lambda *a: flat(*a) * 0)
    given = Search.scores
    monkeypatch.setattr(Search, "scores", lambda *a: given(*a) * 0)
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
    given = {"model": "poly_agents/tfidf", "task": "poly_agents:jsonl", "jsonl_path": data, "datatype": "valid"}
    path = tmp_path / "ranks.jsonl"
    report = EvalModel.main(**given, batchsize=5, confidence=True, ranks_file=str(path), hits_at="1,5")
    assert report["hits@1"] == report["recall_any@1"] and report["mrr_low"] <= report["mrr"] <= report["mrr_high"]
    assert len(path.read_text().splitlines()) == len(ROWS)
    agent = create_agent(given)
    agent.observe(example("hello", "blue", ["blue", "six", "red"], training=False))
    reply = agent.act()  # no word in common
    assert value(reply, "rank") == 3 and reply["text_candidates"][-1] == "blue"


# --- intervals ------------------------------------------------------------------------------------------------------


def interval(values, end: float) -> float:
    weights = [draw(str(number)) for number in range(len(values))]
    return sum((Interval(end, x * w, w) for x, w in zip(values, weights, strict=True)), None).value()


def test_intervals_are_those_of_the_mean():
    generator = np.random.default_rng(1)
    values = generator.random(400)
    half = 1.96 * values.std() / math.sqrt(400)
    low, high = interval(values, 0.025), interval(values, 0.975)
    assert [low, high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.15 * half)
    assert interval([1.0] * 5, 0.025) == interval([1.0] * 5, 0.975) == 1.0


def test_an_example_is_drawn_once_on_average_and_always_the_same():
    drawn = np.stack([draw(str(number)) for number in range(50)])
    assert drawn.shape == (50, RESAMPLES) and abs(drawn.mean() - 1) < 0.02 and abs(drawn.var() - 1) < 0.05
    assert (draw("a") == draw("a")).all() and (draw("a") != draw("b")).any() and draw("\ud800") is not None


def test_intervals_add_up_in_any_order_and_go_through_a_pickle():
    import pickle

    parts = [{"mrr_low": Interval(0.025, x * w, w)} for x, w in ((0.2, draw("a")), (1.0, draw("b")), (0.5, draw("c")))]
    together = aggregate_unnamed_reports(parts)["mrr_low"]
    back = aggregate_unnamed_reports([pickle.loads(pickle.dumps(part)) for part in parts[::-1]])["mrr_low"]
    assert together.value() == pytest.approx(back.value(), abs=1e-12)
    assert parts[0]["mrr_low"].value() == pytest.approx(0.2)  # adding up changes no part


def test_intervals_are_the_same_for_every_batch_size(trained, data):
    reports = [evaluate(trained["bi"], data, confidence=True, batchsize=size) for size in (1, 7)]
    names = [name for name in reports[0] if name.endswith("_low")]
    assert {"mrr_low", "map_low", "recall_share@2_low", "ndcg@10_low", "p@1_low", "rank_low"} <= set(names)
    for name in (name.removesuffix("_low") for name in names):
        low, mean, high = (reports[0][name + end].value() for end in ("_low", "", "_high"))
        assert low <= mean <= high
        for end in ("_low", "_high"):
            assert reports[1][name + end].value() == pytest.approx(reports[0][name + end].value(), abs=1e-5)
    assert reports[0]["mrr_low"] < reports[0]["mrr_high"]
    assert "mrr_low" not in evaluate(trained["bi"], data)


def test_several_processes_report_what_one_does(trained, data, tmp_path):
    """`parlai multiprocessing_eval` on the CPU; each process has a file of ranks."""
    task = {"task": "poly_agents:jsonl", "jsonl_path": data, "datatype": "valid", "confidence": True}
    given = {"model_file": trained["bi"], "batchsize": 4, "distributed_world_size": 2} | task
    given |= {"ranks_file": str(tmp_path / "ranks")}
    found = MultiProcessEval.main(**given)
    alone = evaluate(trained["bi"], data, confidence=True)
    for name in ("exs", "mrr", "mrr_low", "mrr_high", "map_low", "recall_any@2_high", "hits@1"):
        assert found[name].value() == pytest.approx(alone[name].value(), abs=1e-5), name
    rows = [(tmp_path / f"ranks.{rank}").read_text().splitlines() for rank in (0, 1)]
    contexts = [json.loads(row)["context"] for part in rows for row in part]
    assert all(rows) and sorted(contexts) == sorted("\n".join(row["context"]) for row in ROWS)


# --- the file of ranks ----------------------------------------------------------------------------------------------


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
    calls, answers = [], RankerAgent._answers

    def stop(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answers(*args, **kwargs)

    monkeypatch.setattr(RankerAgent, "_answers", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(trained["bi"], data, ranks_file=str(path), batchsize=5)
    assert path.read_text() == "old\n"
    assert [json.loads(line)["candidates"] for line in Path(f"{path}.part").read_text().splitlines()] == [4] * 15


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["", "0", "1,,2", "1,-2", "five", "²"])
def test_a_k_that_is_no_number_from_one_is_refused(given):
    with pytest.raises(ValueError, match="--hits-at takes numbers from 1"):
        EvaluationOptions(hits_at=given)


def test_ks_are_each_taken_once_in_order():
    assert EvaluationOptions(hits_at="10, 2,2,1").ks == [1, 2, 10]


def test_training_does_not_write_ranks(options):
    with pytest.raises(ValueError, match="--ranks-file is of an evaluation"):
        make(options, "bi", ranks_file="ranks")


def test_a_random_scorer_is_as_good_as_chance():
    draw = random.Random(2)
    scores = torch.tensor([[draw.random() for _ in range(10)] for _ in range(4000)])
    relevance = torch.zeros(4000, 10)
    relevance[:, 0] = 1
    found = measured(scores, relevance)
    assert found["recall_any@1"].mean().item() == pytest.approx(0.1, abs=0.02)
    assert found["mrr"].mean().item() == pytest.approx(sum(1 / r for r in range(1, 11)) / 10, abs=0.02)
