"""Data that brings no candidates, as most of ParlAI's own tasks: what is drawn for it, and what is refused."""

import json
from pathlib import Path

import pytest
from parlai.core.agents import create_agent
from parlai.core.teachers import create_task_agent_from_taskname
from parlai.scripts.eval_model import EvalModel
from parlai.scripts.train_model import TrainModel

from poly_agents.agents.report import EvaluationOptions
from poly_agents.errors import InputError
from tests.agents import settings, text
from tests.data import FIXTURES


def parlai_format(folder: Path, count: int = 30, **ending: int) -> dict:
    """Write files of `fromfile:parlaiformat`: dialogues of two turns."""
    for split in ("train", "valid", "test"):
        rows = [f"text:{text(n + 3, 2)}\tlabels:{text(n % ending.get(split, count))}" for n in range(count)]
        rows = [f"{row}\tepisode_done:True" if n % 2 else row for n, row in enumerate(rows)]
        (folder / f"data_{split}.txt").write_text("\n".join(rows) + "\n")
    return {
        "task": "fromfile:parlaiformat",
        "fromfile_datapath": str(folder / "data"),
        "fromfile_datatype_extension": True,
    }


def json_files(folder: Path, count: int = 30) -> dict:
    """Write files of `jsonfile`, ParlAI's own format of conversations."""
    rows = [{"dialog": [[{"id": "a", "text": text(n + 3, 2)}, {"id": "b", "text": text(n)}]]} for n in range(count)]
    for split in ("train", "valid", "test"):
        (folder / f"data_{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return {"task": "jsonfile", "jsonfile_datapath": str(folder / "data"), "jsonfile_datatype_extension": True}


@pytest.mark.parametrize("write", [parlai_format, json_files])
def test_parlai_s_own_formats_are_trained_validated_and_evaluated(options, tmp_path, write):
    given = settings(options, "bi", **write(tmp_path)) | {"max_train_steps": 2, "validation_every_n_steps": 1}
    given.pop("jsonl_path")
    valid, test = TrainModel.main(**given)
    assert valid["exs"] == test["exs"] == 30
    assert 0 < valid["hits@1"] < 1 and valid["hits@100"] == 1
    reports = [EvalModel.main(model_file=given["model_file"], **write(tmp_path), batchsize=size) for size in (1, 7)]
    assert reports[0]["mrr"].value() == pytest.approx(reports[1]["mrr"].value())


def messages(given: dict, **options) -> list:
    """Return what a teacher says under the options of our agents."""
    opt = create_agent({"model": "poly_agents/bm25", "datatype": "valid"} | given).opt
    (teacher,) = create_task_agent_from_taskname(
        opt | {"eval_negatives": EvaluationOptions().eval_negatives, "datatype": "valid"} | options
    )
    found = []
    while not teacher.epoch_done():
        found.append(teacher.act())
    return found


def test_each_response_is_ranked_among_19_others_of_its_split_always_the_same(tmp_path):
    given = parlai_format(tmp_path)
    first, again = messages(given), messages(given)
    assert [m["label_candidates"] for m in first] == [m["label_candidates"] for m in again]
    for message in first:
        assert len(set(message["label_candidates"])) == 20 and message["eval_labels"][0] in message["label_candidates"]
    places = {message["label_candidates"].index(message["eval_labels"][0]) for message in first}
    assert len(places) > 10
    assert {len(m["label_candidates"]) for m in messages(given, eval_negatives=4)} == {5}
    assert all("label_candidates" not in m for m in messages(given, eval_negatives=0))
    assert all("label_candidates" not in m for m in messages(given, datatype="train:ordered")[:30])


def test_fewer_responses_are_ranked_among_all_there_are(tmp_path):
    assert {len(m["label_candidates"]) for m in messages(parlai_format(tmp_path, valid=3))} == {3}
    with pytest.raises(InputError, match="the valid split of fromfile:parlaiformat has one response alone"):
        messages(parlai_format(tmp_path, valid=1))


def test_a_task_of_ours_without_candidates_draws_them_too():
    report = EvalModel.main(
        model="poly_agents/bm25",
        task="poly_agents:convai2:none:no_cands",
        data_files=str(FIXTURES / "convai2"),
        datatype="valid",
    )
    assert report["exs"] > 1 and report["mrr"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"eval_negatives": 0},
            "whose examples bring no candidates: give --eval-candidates batch, or --eval-negatives 19",
        ),
        (
            {"fromfile_datapath": "/nowhere/data"},
            "the valid split of fromfile:parlaiformat, which cannot be read: .*nowhere.*; if there is no such",
        ),
        ({"evaltask": "poly_agents:beir", "data_files": str(FIXTURES / "beir/toy")}, "bring no candidates"),
        ({"cap_num_predictions": -1}, "--cap-num-predictions must be at least 1, got -1"),
        ({"eval_negatives": -1}, "--eval-negatives must be at least 0, got -1"),
    ],
)
def test_training_that_its_validation_would_end_is_refused_before_it_starts(options, tmp_path, changes, message):
    given = settings(options, "bi", **parlai_format(tmp_path) | changes) | {"max_train_steps": 2}
    given.pop("jsonl_path")
    with pytest.raises(InputError, match=message):
        TrainModel.main(**given)
    assert not list(tmp_path.glob("model*"))


@pytest.mark.parametrize("datatype", ["train", "train:stream"])
def test_without_a_test_split_the_final_evaluation_on_it_is_left_out(options, tmp_path, data, datatype):
    for split in ("train", "valid"):
        (tmp_path / f"{split}.jsonl").write_text(Path(data, f"{split}.jsonl").read_text())
    given = settings(options, "bi", jsonl_path=str(tmp_path), datatype=datatype)
    valid, test = TrainModel.main(**given, max_train_steps=2)
    assert valid["exs"] == 23 and test == {}
