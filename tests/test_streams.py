"""`:stream`: the same examples as without, read when they are asked for."""

import json
import tracemalloc
from itertools import islice

import pytest
from parlai.agents.fixed_response.fixed_response import FixedResponseAgent
from parlai.core.mutators import EpisodeMutator, register_mutator
from parlai.core.opt import Opt
from parlai.core.worlds import create_task
from parlai.scripts.multiprocessing_eval import MultiProcessEval
from parlai.scripts.train_model import TrainModel
from parlai.utils import logging

from poly_agents.agents.teachers import response, response_examples
from poly_agents.files import checkpoint
from poly_agents.tasks.jsonl import JsonlTeacher
from tests.agents import ROWS, evaluate, settings

COUNT = len(ROWS)


def teacher(path, datatype, **options) -> JsonlTeacher:
    given = {"task": "poly_agents:jsonl", "datatype": datatype, "batchsize": 1, "jsonl_path": str(path)}
    return JsonlTeacher(Opt(given | options))


def texts(found, count: int) -> list[str]:
    return [found.act()["text"] for _ in range(count)]


@pytest.fixture
def numbered(tmp_path):
    """Write examples whose context is their number."""
    rows = [{"context": [str(i)], "response": f"number {i}"} for i in range(COUNT)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


@register_mutator("uneven")
class Uneven(EpisodeMutator):
    """Makes episodes of none to three turns."""

    def episode_mutation(self, episode):
        return [episode[0].copy() for _ in range(sum(map(ord, episode[0]["text"])) % 4)]


@pytest.mark.parametrize("datatype", ["train:ordered", "train:evalmode", "valid", "test"])
@pytest.mark.parametrize("size", [1, 5, 29])
@pytest.mark.parametrize("mutators", [None, "flatten", "last_turn", "uneven"])
def test_a_stream_brings_what_the_list_brings_batch_by_batch(data, datatype, size, mutators):
    def batches(kind):
        options = {"task": "poly_agents:jsonl", "jsonl_path": data, "batchsize": size, "mutators": mutators}
        opt = Opt(options | {"datatype": kind, "fixed_response": "", "num_epochs": 1})
        world = create_task(opt, FixedResponseAgent(opt))
        found = []
        while not world.epoch_done() and len(found) < 3 * COUNT:
            world.parley()
            acts = world.acts[0] if size > 1 else [world.acts[0]]
            found.append([(a.get("text"), a.get("labels"), a.get("eval_labels"), a.is_padding()) for a in acts])
        assert world.num_examples() == world.num_episodes() == COUNT
        return found

    streamed, listed = batches(f"{datatype}:stream"), batches(datatype)
    if datatype == "train:ordered":  # there ParlAI fills the last batch from the front
        streamed, listed = ([message for batch in found for message in batch] for found in (streamed, listed))
        streamed = streamed[: next((i for i, message in enumerate(streamed) if message[-1]), None)]
        listed = listed[: len(streamed)]
        assert len(streamed) > COUNT // 2
    assert streamed == listed


def test_training_begins_again_with_the_file(numbered):
    found = texts(teacher(numbered, "train:stream"), 2 * COUNT + 3)
    assert found == [*map(str, range(COUNT))] * 2 + ["0", "1", "2"]


ENDLESS = "train", "train:stream"
SHARED = *ENDLESS, "train:ordered", "train:ordered:stream", "train:evalmode", "train:evalmode:stream", "valid"


@pytest.mark.parametrize("buffer", [0, 7, 100])
@pytest.mark.parametrize("datatype", [*SHARED, "valid:stream"])
def test_workers_share_the_examples_without_overlap(numbered, monkeypatch, buffer, datatype):
    rows = [{"context": [str(i)], "response": "a", "candidates": ["a", "b"]} for i in range(COUNT)]
    (numbered / "valid.jsonl").write_text("\n".join(map(json.dumps, rows)))
    endless = datatype in ENDLESS
    whole = texts(teacher(numbered, datatype, shuffle_buffer=buffer), (1 + endless) * COUNT)
    assert sorted(whole[:COUNT]) == sorted(map(str, range(COUNT)))
    monkeypatch.setattr(response, "num_workers", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(response, "get_rank", lambda rank=rank: rank)
        own = teacher(numbered, datatype, shuffle_buffer=buffer)
        assert texts(own, len(whole[rank::3])) == whole[rank::3]
        assert own.epoch_done() == (not endless) and own.num_examples() == COUNT


@pytest.mark.parametrize("datatype", ["valid", "valid:stream", "train:evalmode"])
@pytest.mark.parametrize("size", [1, 3, 29])
def test_workers_batches_hold_every_example_once(data, monkeypatch, datatype, size):
    monkeypatch.setattr(response, "num_workers", lambda: 3)
    found = []
    for rank in range(3):
        monkeypatch.setattr(response, "get_rank", lambda rank=rank: rank)
        opt = Opt(task="poly_agents:jsonl", jsonl_path=data, datatype=datatype, batchsize=size, fixed_response="")
        world = create_task(opt, FixedResponseAgent(opt))
        while not world.epoch_done():
            world.parley()
            acts = world.acts[0] if size > 1 else [world.acts[0]]
            found += [act["text"] for act in acts if not act.is_padding()]
    assert sorted(found) == sorted("\n".join(row["context"]) for row in ROWS)


def test_a_worker_without_an_example_has_none(tmp_path, monkeypatch):
    (tmp_path / "valid.jsonl").write_text(json.dumps(ROWS[0]))
    monkeypatch.setattr(response, "num_workers", lambda: 2)
    monkeypatch.setattr(response, "get_rank", lambda: 1)
    for datatype in ("valid", "valid:stream"):
        found = teacher(tmp_path, datatype)
        assert found.act().is_padding() and found.epoch_done()


def test_what_looks_at_all_data_gets_all_of_it_in_every_process(data, monkeypatch):
    monkeypatch.setattr(response, "num_workers", lambda: 2)
    monkeypatch.setattr(response, "get_rank", lambda: 1)
    opt = Opt(task="poly_agents:jsonl", jsonl_path=data, datatype="train", batchsize=1)
    assert [example.response for example in response_examples(opt, "train")] == [row["response"] for row in ROWS]


def test_two_processes_report_of_a_stream_what_one_does(trained, data):
    """`parlai multiprocessing_eval` on the CPU, through gloo; test_measures.py has it for lists."""
    task = {"task": "poly_agents:jsonl", "jsonl_path": data, "datatype": "valid:stream"}
    found = MultiProcessEval.main(model_file=trained["bi"], batchsize=4, distributed_world_size=2, **task)
    alone = evaluate(trained["bi"], data)
    assert found["exs"].value() == alone["exs"].value() == COUNT
    for name in alone.keys() & {"hits@1", "hits@5", "mrr", "map", "rank", "loss", "ndcg@10", "accuracy", "f1"}:
        assert found[name].value() == pytest.approx(alone[name].value(), abs=1e-6), name


@pytest.mark.parametrize("buffer", [0, 7])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("seen", [4, COUNT, 2 * COUNT + 6])
def test_a_stream_goes_on_where_the_checkpoint_stopped(numbered, monkeypatch, buffer, workers, seen):
    monkeypatch.setattr(response, "num_workers", lambda: workers)
    whole = texts(teacher(numbered, "train:stream", shuffle_buffer=buffer), 40)
    seen = seen // workers * workers
    monkeypatch.setattr(response, "examples_seen", lambda path, task: seen)
    resumed = teacher(numbered, "train:stream", shuffle_buffer=buffer, load_from_checkpoint=True, model_file="x")
    assert texts(resumed, 40 - seen // workers)[: COUNT // 2] == whole[seen // workers :][: COUNT // 2]


def test_a_shuffle_buffer_draws_every_example_once_in_a_new_order_each_epoch(numbered):
    found = texts(teacher(numbered, "train:stream", shuffle_buffer=7, seed=3), 2 * COUNT)
    first, second = found[:COUNT], found[COUNT:]
    assert sorted(first) == sorted(second) == sorted(map(str, range(COUNT)))
    assert first != second and first != sorted(first, key=int)
    assert all(int(text) < place + 7 for place, text in enumerate(first))
    assert found == texts(teacher(numbered, "train:stream", shuffle_buffer=7, seed=3), 2 * COUNT)
    assert found != texts(teacher(numbered, "train:stream", shuffle_buffer=7, seed=4), 2 * COUNT)


def test_an_evaluation_is_in_order_whatever_the_buffer(data):
    plain, drawn = (texts(teacher(data, "valid:stream", shuffle_buffer=n), COUNT) for n in (0, 7))
    assert plain == drawn


def test_a_reset_starts_again(numbered):
    found = teacher(numbered, "train:stream")
    texts(found, 5)
    found.reset()
    assert texts(found, 3) == ["0", "1", "2"]


def test_nothing_is_read_before_it_is_asked_for(numbered):
    with (numbered / "train.jsonl").open("a") as file:
        file.write("\nthis is no JSON\n")
    found = teacher(numbered, "train:stream", batchsize=2)
    texts(found, COUNT - 2)
    with pytest.raises(ValueError, match=rf"train.jsonl:{COUNT + 1}: "):
        found.act()


def test_an_empty_stream_is_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no train examples"):
        teacher(tmp_path, "train:stream").act()


@pytest.mark.parametrize("skip", [False, True])
def test_a_stream_knows_how_many_examples_it_has(numbered, skip):
    with (numbered / "train.jsonl").open("a") as file:
        file.write("\n\n" + "[1]\n" * skip)
    assert teacher(numbered, "train:stream", skip_bad_rows=skip).num_examples() == COUNT


@pytest.mark.parametrize("datatype", ["train", "train:stream"])
def test_bad_rows_are_reported_once_with_their_number_and_the_first(numbered, monkeypatch, datatype):
    lines = (numbered / "train.jsonl").read_text().splitlines()
    (numbered / "train.jsonl").write_text("\n".join([lines[0], "[1]", "{}", *lines[1:]]))
    said = []
    monkeypatch.setattr(logging, "warning", said.append)
    found = teacher(numbered, datatype, skip_bad_rows=True)
    assert found.num_examples() == COUNT
    texts(found, 3 * COUNT)
    assert len(said) == 1
    assert said[0].startswith("poly_agents:jsonl: 2 bad rows of train were left out, first ")
    assert said[0].endswith("train.jsonl:2: a line is one JSON object, got [1]")


def test_memory_does_not_grow_with_the_file(tmp_path):
    def peak(count: int) -> int:
        with (tmp_path / "train.jsonl").open("w") as file:
            for i in range(count):
                file.write(json.dumps({"context": [f"hello {i}", "how are you?"], "response": f"fine {i}"}) + "\n")
        tracemalloc.start()
        found = teacher(tmp_path, "train:ordered:stream", batchsize=8)
        assert found.num_examples() == sum(1 for _ in islice(iter(found), count + 1)) == count
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(100)  # whatever is made only once
    assert peak(20_000) < 1.2 * peak(2_000) + 20_000


@pytest.mark.parametrize("buffer", [0, 7])
def test_training_on_a_stream_is_resumed_and_evaluated(options, data, buffer):
    given = settings(options, "bi", datatype="train:stream", shuffle_buffer=buffer, save_after_valid=True)
    run = {"validation_every_n_steps": 1, "short_final_eval": True, "validation_max_exs": 5}
    TrainModel.main(**given, **run, num_epochs=1)
    TrainModel.main(**given, **run, num_epochs=2)
    path = options["model_file"]
    assert checkpoint.examples_seen(path, "poly_agents:jsonl") == 2 * COUNT // 5 * 5  # saved before the last step
    streamed, listed = evaluate(path, data, datatype="valid:stream"), evaluate(path, data)
    assert all(streamed[name] == listed[name] for name in ("exs", "hits@1", "mrr", "loss"))


def test_two_tasks_are_streamed_together(options, data):
    given = settings(options, "bi", task="poly_agents:jsonl,poly_agents:jsonl", datatype="train:stream")
    TrainModel.main(**given, num_epochs=1, validation_max_exs=5, short_final_eval=True)


@pytest.mark.parametrize("datatype", ["train:ordered", "valid", "valid:stream"])
def test_speakers_are_the_same_in_training_and_evaluation(data, datatype):
    plain, named = (teacher(data, datatype, speakers=on).act()["text"].split("\n") for on in (False, True))
    assert named == [f"B: {plain[0]}", f"A: {plain[1]}"]
