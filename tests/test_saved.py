"""Models, stores and caches of an earlier version go on working: those that `fixtures/saved/make.py` made with it."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from parlai.core.agents import create_agent_from_model_file
from parlai.core.loader import load_agent_module
from parlai.core.message import Message
from parlai.core.script import superscript_main
from parlai.scripts.eval_model import EvalModel
from parlai.scripts.train_model import TrainModel
from parlai.utils import logging
from safetensors import safe_open

import poly_agents
from poly_agents.agents import agent_class

logging.set_log_level(logging.ERROR)
SAVED = Path(__file__).parent / "fixtures" / "saved"
EXPECTED = json.loads((SAVED / "expected.json").read_text(encoding="utf-8"))
MODELS = EXPECTED["models"]
OF_PARLAI = {name for name in MODELS if name.startswith("parlai/")}
CHECKPOINTS = sorted(str(path.relative_to(SAVED).with_suffix("")) for path in SAVED.glob("*/model.checkpoint"))
FULL_NAMES = ["Bi", "Cascade", "Cross", "Early", "Ed2lm", "Late", "Mix", "Poly", "Tfidf", "Uni"]
TASK = {"task": "poly_agents:jsonl", "jsonl_path": "rows", "batchsize": 4}
FLOAT32 = {"precision": "float32"}
SHORT = {"text_truncate": 14, "label_truncate": 5}


@pytest.fixture(autouse=True)
def saved(tmp_path, monkeypatch) -> Path:
    """A copy of all that was saved, which is the current folder."""
    copy = Path(shutil.copytree(SAVED, tmp_path / "saved"))
    monkeypatch.chdir(copy)
    return copy


def evaluate(**options) -> dict:
    return EvalModel.main(**TASK | {"datatype": "test"} | options)


def assert_metrics(report: dict, expected: dict) -> None:
    found = {name: float(report[name]) for name in expected}
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def precision_of_auto(model_file: str) -> str:
    """The precision that this machine gives a model that is loaded without one."""
    made = poly_agents.load(model_file).fingerprint
    return next(name for name, maker in MODELS[model_file]["fingerprints"].items() if maker == made)


def parlai(*words: str) -> None:
    superscript_main(words)


def parlai_process(*words: str) -> dict:
    """The report of `parlai eval_model`, run as a command."""
    given = "-t poly_agents:jsonl --jsonl-path rows -dt test -bs 4 --precision float32 --report-filename report.json"
    command = [sys.executable, "-m", "parlai", "eval_model", *words, *given.split()]
    done = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(Path("report.json").read_text(encoding="utf-8"))["report"]


def written(folder: str) -> dict[str, int]:
    """file -> when it was written, in nanoseconds"""
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).iterdir() if path.name != "lock"}


# --- models -----------------------------------------------------------------------------------------------------------


def test_there_is_a_model_of_every_agent():
    assert {Path(name).parent.name for name in CHECKPOINTS} >= set(map(str.lower, FULL_NAMES)) - {"cascade", "tfidf"}


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_scores_as_it_did(name):
    rankings = poly_agents.load(name, "float32").rank(EXPECTED["contexts"], EXPECTED["candidates"])
    for ranking, scores in zip(rankings, MODELS[name]["scores"], strict=True):
        found = {ranked.text: ranked.score for ranked in ranking}
        assert found == pytest.approx(dict(zip(EXPECTED["candidates"], scores, strict=True)), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_its_fingerprint_is_the_same(name, precision):
    assert poly_agents.load(name, precision).fingerprint == MODELS[name]["fingerprints"][precision]


@pytest.mark.parametrize("name", MODELS)
def test_it_evaluates_as_it_did(name):
    agent = {"model": f"poly_agents/{Path(name).parent.name}"} if name in OF_PARLAI else {}
    assert_metrics(evaluate(model_file=name, **agent, **FLOAT32), MODELS[name]["metrics"])


def test_the_agents_without_a_model_file_evaluate_as_they_did():
    stages = {"retriever": "bi/model", "reranker": "cross/model", "cascade_top": 2}
    assert_metrics(evaluate(model="poly_agents/cascade", **stages, **FLOAT32), EXPECTED["cascade"])
    old, new = evaluate(model="poly_agents/tfidf"), evaluate(model="poly_agents/bm25")  # which replaced it
    assert all(old[name] == new[name] for name in EXPECTED["tfidf"])


@pytest.mark.parametrize("name", sorted(OF_PARLAI))
def test_a_model_of_parlai_is_converted_and_trained_on(name):
    agent = Path(name).parent.name
    parlai("poly_convert", "-mf", name, "--out", "new/converted")
    assert poly_agents.load("new/converted", "float32").fingerprint == MODELS[name]["fingerprints"]["float32"]
    TrainModel.main(model=f"poly_agents/{agent}", init_model=name, model_file="new/model", max_train_steps=1, **TASK)
    assert header("new/model")["number_training_updates"] == 1


# --- training goes on -------------------------------------------------------------------------------------------------


def header(model_file: str) -> dict:
    with safe_open(model_file, "pt") as file:
        return json.loads(file.metadata()["poly_agents"])


def updates_of_the_optimizer(model_file: str) -> set[int]:
    with safe_open(model_file, "pt") as file:
        return {int(file.get_tensor(key)) for key in file.keys() if key.endswith(".step")}  # noqa: SIM118


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_run_goes_on_from_its_checkpoint(name):
    checkpoint, before = f"{name}.checkpoint", header(f"{name}.checkpoint")
    assert poly_agents.load(checkpoint, "float32").fingerprint == MODELS[name]["fingerprints"]["float32"]
    assert (before["number_training_updates"], before["examples_seen"]) == (4, {"poly_agents:jsonl": 4 * 4})
    TrainModel.main(model=f"poly_agents/{Path(name).parent.name}", model_file=name, max_train_steps=7,
                    validation_every_n_steps=1, save_after_valid=True, **TASK)  # fmt: skip
    after = header(checkpoint)
    assert (after["number_training_updates"], after["examples_seen"]) == (6, {"poly_agents:jsonl": 6 * 4})
    assert json.loads(Path(f"{checkpoint}.trainstats").read_text(encoding="utf-8"))["train_steps"] == 6
    assert updates_of_the_optimizer(checkpoint) == ({6} if before["optimizer_type"] == "adamw" else set())


def test_a_saved_model_is_the_start_of_another_run():
    """Its options are taken with `--init-opt`, its encoder by `--backbone`, its weights by `--init-model`."""
    options = {"init_opt": "bi/model.opt", "allow_missing_init_opts": True, "max_train_steps": 1} | TASK
    TrainModel.main(**options, backbone="bi/model", model_file="new/first")
    TrainModel.main(**options, init_model="bi/model", model_file="new/second")
    for name in ("new/first", "new/second"):
        assert header(name)["options"]["bi_dense"] == 7


# --- full names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FULL_NAMES)
def test_parlai_finds_the_agents_by_their_full_names(name):
    agent = agent_class(name.lower())
    assert agent.__name__ == {"Tfidf": "Bm25Agent"}.get(name, f"{name}Agent")
    assert load_agent_module(f"poly_agents.{name.lower()}:{name}Agent") is agent
    assert load_agent_module(f"poly_agents/{name.lower()}") is agent
    assert load_agent_module(f"poly_agents.agents:{name}Agent") is agent


def test_a_full_name_is_given_on_the_command_line():
    report = parlai_process("-m", "poly_agents.poly:PolyAgent", "-mf", "poly/model")
    assert_metrics(report, MODELS["poly/model"]["metrics"])


def test_a_full_name_is_read_from_the_options_of_a_model():
    assert json.loads(Path("taught/model.opt").read_text("utf-8"))["model"] == "poly_agents.poly:PolyAgent"
    assert_metrics(parlai_process("-mf", "taught/model"), MODELS["taught/model"]["metrics"])


# --- stores, scores, negatives, cards ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kept_as", ["float32", "int8", "bfloat16"])
def test_a_store_is_searched_and_not_encoded_again(kept_as):
    folder, precision = f"bi/store.{kept_as}", "bfloat16" if kept_as == "bfloat16" else "float32"
    before = written(folder)
    store = poly_agents.load("bi/model", precision).index(folder, "pool.jsonl", kept_as, progress=False)
    assert len(store) == 19
    options = {"eval_candidates": "fixed", "fixed_candidates_path": folder, "cap_num_predictions": 3}
    for search in ("exact", "certified", "fast"):
        agent = create_agent_from_model_file(
            "bi/model", options | {"datatype": "test", "search": search, "precision": precision}
        )
        for context, best in zip(EXPECTED["contexts"], EXPECTED["searches"][f"{kept_as} {search}"], strict=True):
            agent.observe(Message(text=context, episode_done=True))
            reply = agent.act()
            found = dict(zip(reply["text_candidates"], reply["candidate_scores"], strict=True))
            assert found == pytest.approx(dict(best), abs=0.1 if kept_as == "bfloat16" else 1e-3)
    assert written(folder) == before


def test_the_command_finds_its_store_whole():
    precision = precision_of_auto("bi/model")
    before = written(f"bi/store.{precision}")
    parlai("poly_index", "-mf", "bi/model", "-fcp", "pool.jsonl", "--out", f"bi/store.{precision}")
    assert written(f"bi/store.{precision}") == before


def test_a_task_s_responses_and_their_store_stay_beside_the_model():
    before = written("poly"), written("poly/model.model.cands-poly_agents_jsonl.store")
    report = evaluate(model_file="poly/model", eval_candidates="fixed", **FLOAT32)
    assert_metrics(report, EXPECTED["task's responses"])
    assert (written("poly"), written("poly/model.model.cands-poly_agents_jsonl.store")) == before


def test_the_scores_of_a_teacher_are_kept():
    os.replace(f"cross/model.scores.{precision_of_auto('cross/model')}", "cross/model.scores")
    scores = sqlite3.connect("cross/model.scores")
    scores.execute("INSERT INTO scores VALUES (?, ?)", (b"no pair", 0.5))  # lost, if the file were emptied
    scores.commit()
    before = scores.execute("SELECT * FROM scores").fetchall()
    TrainModel.main(model="poly_agents/poly", backbone="bi/model", model_file="new/model", candidates="inline",
                    teacher_model="cross/model", num_epochs=1, **SHORT, **TASK)  # fmt: skip
    assert scores.execute("SELECT * FROM scores").fetchall() == before


def test_mining_goes_on_where_it_stopped():
    mined, new = f"bi/negatives.{precision_of_auto('bi/model')}.jsonl", "new.jsonl"
    lines = Path(mined).read_text(encoding="utf-8").splitlines(keepends=True)
    edited = json.dumps(json.loads(lines[-1]) | {"negatives": ["by hand"]}) + "\n"  # lost, if it were mined again
    Path(f"{new}.part").write_text("".join([*lines[:-1], edited]), encoding="utf-8")
    parlai("poly_mine", "-mf", "bi/model", "-t", TASK["task"], "--jsonl-path", "rows", "--out", new,
           "--hard-negatives", "2")  # fmt: skip
    assert Path(new).read_text(encoding="utf-8") == "".join([*lines[:-1], edited])


def test_a_run_learns_from_mined_negatives():
    options = {"hard_negatives": 2, "hard_negatives_file": "bi/negatives.float32.jsonl", "max_train_steps": 1}
    TrainModel.main(model="poly_agents/bi", backbone="bi/model", model_file="new/model", **options, **SHORT, **TASK)
    assert header("new/model")["number_training_updates"] == 1


def test_a_card_is_read_and_written_again():
    card = Path("bi/model.README.md")
    before = ModelCard.load(card).data.to_dict()
    card.unlink()
    parlai("poly_zoo", "card", "-mf", "bi/model", "--license", "mit")
    assert ModelCard.load(card).data.to_dict() == before
