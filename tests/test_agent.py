"""Rankers inside ParlAI: chats, model files, what is refused, and ParlAI's own choices."""

import json
from pathlib import Path

import pytest
import torch
from parlai.core.agents import create_agent, create_agent_from_model_file
from parlai.core.message import Message
from parlai.scripts.display_model import DisplayModel
from parlai.scripts.eval_model import EvalModel
from parlai.scripts.train_model import TrainModel

import poly_agents
from tests.agents import AGENTS, ROWS, answer, evaluate, example, make, settings, text


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
    with pytest.raises(ValueError, match="was trained with --poly-codes 64, not 7"):
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
    monkeypatch.setattr("poly_agents.agents.training_run.logging.warning", warned.append)
    TrainModel.main(**settings(options, "bi"), num_epochs=0.5, max_train_time=60)
    assert any("--max-train-time" in message and "leave out --num-epochs" in message for message in warned)


def test_a_background_worker_trains(options):
    TrainModel.main(**settings(options, "bi"), max_train_steps=2, num_workers=1, datatype="train:stream")


def test_the_baseline_prefers_shared_words(data):
    report = EvalModel.main(
        model="poly_agents/bm25", task="poly_agents:jsonl", jsonl_path=data, datatype="valid", batchsize=5
    )
    assert report["exs"].value() == len(ROWS) and 0 < report["mrr"].value() <= 1
    agent = create_agent({"model": "poly_agents/bm25", "task": "poly_agents:jsonl", "jsonl_path": data})
    agent.observe(example("hello my cat", "blue", ["six five", "my cat", "hello"], training=False))
    assert agent.act()["text"] == "my cat"
