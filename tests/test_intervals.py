"""The 95% intervals of measures, and evaluation in several processes."""

import json
import math

import numpy as np
import pytest
from parlai.core.metrics import aggregate_unnamed_reports
from parlai.scripts.multiprocessing_eval import MultiProcessEval

from poly_agents.agents.report import RESAMPLES, Interval, resample_weights
from tests.agents import ROWS, evaluate


def interval(values, end: float) -> float:
    weights = [resample_weights(str(number)) for number in range(len(values))]
    return sum((Interval(end, x * w, w) for x, w in zip(values, weights, strict=True)), None).value()


def test_intervals_are_those_of_the_mean():
    generator = np.random.default_rng(1)
    values = generator.random(400)
    half = 1.96 * values.std() / math.sqrt(400)
    low, high = interval(values, 0.025), interval(values, 0.975)
    assert [low, high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.15 * half)
    assert interval([1.0] * 5, 0.025) == interval([1.0] * 5, 0.975) == 1.0


def test_an_example_is_drawn_once_on_average_and_always_the_same():
    drawn = np.stack([resample_weights(str(number)) for number in range(50)])
    assert drawn.shape == (50, RESAMPLES) and abs(drawn.mean() - 1) < 0.02 and abs(drawn.var() - 1) < 0.05
    one, again, other = (resample_weights(key) for key in ("a", "a", "b"))
    assert (one == again).all() and (one != other).any()
    assert len(resample_weights("\ud800")) == RESAMPLES


def test_intervals_add_up_in_any_order_and_go_through_a_pickle():
    import pickle

    parts = [
        {"mrr_low": Interval(0.025, x * w, w)}
        for x, w in ((0.2, resample_weights("a")), (1.0, resample_weights("b")), (0.5, resample_weights("c")))
    ]
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
