"""Files for leaderboards: by hand, for every kind of candidates, without labels, by one process and by two."""

import doctest
import json
import math

import pytest
import pytrec_eval
from parlai.scripts.eval_model import EvalModel
from parlai.scripts.multiprocessing_eval import MultiProcessEval

import poly_agents
from poly_agents.agents.report import Evaluation
from poly_agents.evaluation import submissions
from poly_agents.evaluation.submissions import Ranking, Submission, dstc7, msmarco
from tests.agents import evaluate, make
from tests.data import FIXTURES, read


def given(task: str, path, **options) -> dict:
    more = {"data_files": str(FIXTURES / task.split(":")[0]), "submission": str(path)}
    return {"task": f"poly_agents:{task}", "datatype": "test", "batchsize": 2} | more | options


def by_hand(model_file: str, example) -> list[str]:
    """The ids of an example's candidates, best first."""
    ranked = poly_agents.load(model_file, "float32").rank("\n".join(example.context), example.candidates)
    ids = dict(zip(example.candidates, example.candidate_ids, strict=True))
    return [ids[one.text] for one in ranked]


def test_examples_in_the_documentation_hold():
    assert doctest.testmod(submissions).failed == 0


def test_confidences_are_probabilities_best_first():
    submission = Submission("nowhere", "dstc7")
    submission.add(7, ["x", "y", "z"], [1.0, 3.0, 1.0])
    (row,) = json.loads(dstc7(submission.new))
    assert row["example-id"] == 7
    total = 2 * math.exp(1) + math.exp(3)
    assert [(one["candidate-id"], one["confidence"]) for one in row["candidate-ranking"]] == [
        ("y", pytest.approx(math.exp(3) / total)),
        ("x", pytest.approx(math.exp(1) / total)),
        ("z", pytest.approx(math.exp(1) / total)),
    ]


def test_a_total_counts_candidates_that_are_not_given():
    submission = Submission("nowhere", "dstc7")
    submission.add(1, ["a"], [0.0], total=math.log(4))
    (row,) = json.loads(dstc7(submission.new))
    assert row["candidate-ranking"] == [{"candidate-id": "a", "confidence": pytest.approx(1 / 4)}]


def test_the_best_hundred_are_kept_and_confidences_are_of_all():
    submission = Submission("nowhere", "dstc7")
    submission.add(1, [str(i) for i in range(130)], [i / 50 for i in range(130)])
    (row,) = json.loads(dstc7(submission.new))
    ranking = row["candidate-ranking"]
    assert [one["candidate-id"] for one in ranking] == [str(i) for i in range(129, 29, -1)]
    assert 0.7 < sum(one["confidence"] for one in ranking) < 0.99


def test_ms_marco_s_ranks_begin_with_one():
    assert msmarco([Ranking("9", ["p2", "p1"], [2.0, 1.0], 2.3)]) == "9\tp2\t1\n9\tp1\t2\n"


@pytest.mark.parametrize("name", ["bi", "cross"])
def test_mutual_s_hidden_test_is_written_as_its_leaderboard_takes_it(trained, tmp_path, name):
    out = tmp_path / "deep" / "answers.txt"
    report = EvalModel.main(model_file=trained[name], precision="float32", **given("mutual", out))
    assert "hits@1" not in report and "mrr" not in report
    found = [line.split("\t") for line in out.read_text().splitlines()]
    examples = read("mutual", "test", FIXTURES / "mutual", submission="x")
    assert found == [[example.id, *by_hand(trained[name], example)] for example in examples]


def test_dstc7_s_none_of_them_is_a_candidate(trained, tmp_path):
    out = tmp_path / "Ubuntu_subtask_4.json"
    EvalModel.main(model_file=trained["bi"], precision="float32", **given("dstc7:subtask_4", out))
    examples = read("dstc7:subtask_4", "test", FIXTURES / "dstc7")
    for row, example in zip(json.loads(out.read_text()), examples, strict=True):
        ids = [one["candidate-id"] for one in row["candidate-ranking"]]
        assert row["example-id"] == example.id and sorted(ids) == sorted(example.candidate_ids) and "NONE" in ids
        assert sum(one["confidence"] for one in row["candidate-ranking"]) == pytest.approx(1)


def test_ms_marco_s_test_is_ranked_for_a_submission_alone(trained, tmp_path):
    out = tmp_path / "run.tsv"
    EvalModel.main(model_file=trained["bi"], precision="float32", **given("msmarco", out))
    rows = [line.split("\t") for line in out.read_text().splitlines()]
    examples = read("msmarco", "test", FIXTURES / "msmarco", submission="x")
    assert {example.response for example in examples} == {None}
    expected = [(e.id, c, str(r)) for e in examples for r, c in enumerate(by_hand(trained["bi"], e), 1)]
    assert list(map(tuple, rows)) == expected and len(expected) > 4
    with pytest.raises(ValueError, match="test set are hidden: give eval_model --submission FILE"):
        read("msmarco", "test", FIXTURES / "msmarco")


def trec_run(path) -> dict[str, dict[str, float]]:
    with path.open() as file:
        return pytrec_eval.parse_run(file)


def test_a_store_s_candidates_go_by_their_ids(trained, tmp_path):
    from poly_agents.tasks.beir import write_corpus

    write_corpus(FIXTURES / "beir/toy", tmp_path / "corpus.jsonl")
    settings = given("beir", tmp_path / "run.txt", data_files=str(FIXTURES / "beir/toy"))
    pool = {"eval_candidates": "fixed", "fixed_candidates_path": str(tmp_path / "corpus.jsonl")}
    report = EvalModel.main(model_file=trained["bi"], ignore_bad_candidates=True, **settings | pool)
    run = trec_run(tmp_path / "run.txt")
    with (FIXTURES / "beir/toy/qrels/test.tsv").open() as file:
        rows = [line.split("\t") for line in file.read().splitlines()[1:]]
    judged: dict[str, dict[str, int]] = {}
    for query, document, grade in rows:
        judged.setdefault(query, {})[document] = int(grade)
    figures = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(run)
    assert sum(one["recip_rank"] for one in figures.values()) / len(run) == pytest.approx(report["mrr"].value())


def test_the_baseline_writes_one_too(tmp_path):
    out = tmp_path / "answers.txt"
    EvalModel.main(model="poly_agents/bm25", **given("mutual", out))
    assert [line.split("\t")[0] for line in out.read_text().splitlines()] == ["test_1", "test_2", "test_10"]
    assert all(sorted(line.split("\t")[1:]) == list("ABCD") for line in out.read_text().splitlines())


@pytest.mark.parametrize(
    ("task", "form", "allowed"),
    [("mutual", "dstc7", "mutual"), ("dstc7", "trec", "dstc7"), ("msmarco", "dstc7", "msmarco or trec")],
)
def test_a_format_that_the_task_s_leaderboard_does_not_take_is_refused(tmp_path, task, form, allowed):
    path = tmp_path / "answers"
    message = f"--submission-format {form} is not for poly_agents:{task}: give {allowed}, or leave it out"
    with pytest.raises(ValueError, match=message):
        EvalModel.main(model="poly_agents/bm25", **given(task, path, submission_format=form))
    assert not path.exists()


def test_ms_marco_is_also_written_as_a_run(trained, tmp_path):
    settings = given(
        "msmarco", tmp_path / "run", datatype="valid", submission_format="trec", ignore_bad_candidates=True
    )
    EvalModel.main(model_file=trained["bi"], **settings)
    assert len(trec_run(tmp_path / "run")) == 3


def test_the_default_that_old_models_were_saved_with_is_no_choice(tmp_path):
    options = given("mutual", tmp_path / "answers", submission_format="trec") | {"override": {}}
    assert Evaluation.of(options).options.submission_format == "mutual"


@pytest.mark.parametrize("name", ["a b", "", "a\tb"])
def test_an_id_that_would_break_the_columns_is_refused(name):
    with pytest.raises(ValueError, match="is empty or has a space: no column takes it"):
        Submission("nowhere", "trec").add("q1", [name], [0.0])
    Submission("nowhere", "dstc7").add("q1", [name], [0.0])


def test_two_processes_write_one_file_in_the_order_of_the_examples(trained, tmp_path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    EvalModel.main(model_file=trained["bi"], **given("mutual", alone))
    MultiProcessEval.main(model_file=trained["bi"], distributed_world_size=2, **given("mutual", both))
    assert both.read_text() == alone.read_text()


def test_what_has_no_ids_is_refused_with_the_way_out(trained, data, tmp_path, options):
    with pytest.raises(ValueError, match=r"poly_agents:jsonl has no ids that a leaderboard knows; --ranks-file"):
        evaluate(trained["bi"], data, submission=str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="--submission is for evaluation: give it to eval_model"):
        make(options, "bi", submission="x")
