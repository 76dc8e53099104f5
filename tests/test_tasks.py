"""Data sets give the same examples and candidates on every machine, and name bad data."""

import doctest
import hashlib
import importlib
import json
from pathlib import Path

import pytest
from parlai.core.loader import load_teacher_module
from parlai.core.opt import Opt

from poly_agents import tasks
from poly_agents.agents.teachers.examples import Example, draw_candidates, normalized
from poly_agents.agents.teachers.response import ResponseTeacher, variant
from poly_agents.tasks import chitchat
from poly_agents.tasks.jsonl import JsonlTeacher


def teacher(**options) -> chitchat.ChitchatTeacher:
    given = {"task": "poly_agents:chitchat", "datatype": "valid", "batchsize": 1, "history_turns": 4}
    return chitchat.ChitchatTeacher(Opt(given | options))


def test_every_task_is_found_by_its_name():
    assert {"chitchat", "jsonl"} <= set(tasks.names())
    assert tasks.teacher("ChitchatTeacher") is chitchat.ChitchatTeacher


@pytest.mark.parametrize("name", tasks.names())
def test_parlai_finds_every_task_with_and_without_a_variant(name):
    kind = load_teacher_module(f"poly_agents:{name}")
    assert kind is load_teacher_module(f"poly_agents:{name}:some:variant")
    assert kind.__module__ == f"poly_agents.tasks.{name}" and issubclass(kind, ResponseTeacher)


@pytest.mark.parametrize("name", tasks.names())
def test_examples_in_the_documentation_hold(name):
    assert doctest.testmod(importlib.import_module(f"poly_agents.tasks.{name}")).failed == 0


def test_a_variant_is_what_follows_the_name():
    assert variant("poly_agents:mutual:plus", ["", "plus"]) == "plus"
    assert variant("poly_agents:convai2:none:no_cands", ["none:no_cands"]) == "none:no_cands"
    assert variant("poly_agents:mutual", ["", "plus"]) == ""
    with pytest.raises(ValueError, match="the task poly_agents:mutual:x: there is no variant 'x'; known: plus"):
        variant("poly_agents:mutual:x", ["", "plus"])


def digest(examples) -> str:
    return hashlib.sha256(json.dumps([list(e[:3]) for e in examples], ensure_ascii=False).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("split", "count", "seal"),
    [("train", 117392, "6c438e8cc168dbf3"), ("valid", 7793, "3d8de8981ae6b76e"), ("test", 6372, "5bd51c12e293d8c8")],
)
def test_chitchat_is_the_same_everywhere(split, count, seal):
    found = chitchat.examples(split, 4)
    assert len(found) == count
    assert digest(found) == seal


def test_chitchat_s_first_and_last_valid_examples():
    first, last = chitchat.examples("valid", 4)[0], chitchat.examples("valid", 4)[-1]
    assert (first.context, first.response) == (["I wish I could be invisible haha"], "Thats a good one")
    assert len(last.context) <= 4


def test_chitchat_s_candidates_hold_the_response_once_and_nothing_alike():
    for split in ("valid", "test"):
        for example in chitchat.examples(split, 2)[::37]:
            assert len(example.candidates) == 20
            assert example.candidates.count(example.response) == 1
            assert len({normalized(text) for text in example.candidates}) == 20


def test_the_response_stands_anywhere_among_its_candidates():
    places = [example.candidates.index(example.response) for example in chitchat.examples("valid", 4)]
    assert all(280 < places.count(place) < 500 for place in range(20))


def test_chitchat_s_splits_share_no_conversation():
    starts = {
        split: {tuple(e.context) for e in chitchat.examples(split, 100) if len(e.context) > 3}
        for split in ("train", "valid", "test")
    }
    assert not starts["train"] & (starts["valid"] | starts["test"]) and not starts["valid"] & starts["test"]


def test_history_turns_are_the_newest_ones():
    long, short = chitchat.examples("train", 100), chitchat.examples("train", 2)
    for whole, newest in list(zip(long, short, strict=True))[::101]:
        assert newest == whole._replace(context=whole.context[-2:])


def test_train_brings_no_candidates_and_valid_does():
    assert "label_candidates" not in teacher(datatype="train:ordered").act()
    message = teacher().act()
    assert len(message["label_candidates"]) == 20 and "eval_labels" in message


def test_chat_candidates_are_different_and_of_a_sensible_length():
    texts = list(teacher(datatype="train:ordered").chat_candidates())
    assert len(texts) == len(set(texts)) == chitchat.CHAT_CANDIDATES
    assert all(len(text.split()) in chitchat.CHAT_WORDS and "\n" not in text for text in texts)


def test_a_bad_number_of_turns_is_refused():
    with pytest.raises(ValueError, match="--history-turns must be at least 1, got 0"):
        teacher(history_turns=0)


def test_too_few_responses_to_draw_from_are_refused():
    with pytest.raises(ValueError, match="20 candidates need as many different responses, there are 2"):
        draw_candidates([Example(["hi"], "Yes!"), Example(["hi"], "yes"), Example(["hi"], "no")], "seed")


@pytest.mark.parametrize(("responses", "count"), [("abc", 3), ("aAbc", 3), ("abcdefghijklmnopqrstuvwxyz", 20)])
def test_few_examples_of_one_s_own_are_ranked_among_all_there_are(tmp_path, responses, count):
    rows = [{"context": ["hi"], "response": letter} for letter in responses]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = {
        "task": "poly_agents:jsonl",
        "datatype": "valid",
        "batchsize": 1,
        "jsonl_path": str(tmp_path / "all.jsonl"),
    }
    for example in JsonlTeacher(Opt(given)).examples:
        assert len(set(example.candidates)) == count and example.response in example.candidates


def test_a_single_response_is_nothing_to_rank(tmp_path):
    (tmp_path / "all.jsonl").write_text('{"context": ["hi"], "response": "a"}\n' * 5)
    given = {
        "task": "poly_agents:jsonl",
        "datatype": "valid",
        "batchsize": 1,
        "jsonl_path": str(tmp_path / "all.jsonl"),
    }
    with pytest.raises(ValueError, match="one response alone, so there is nothing to rank"):
        JsonlTeacher(Opt(given))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", r"a line is one JSON object, got \[1\]"),
        ('{"context": ["hi"], "response": "a", "label": 1}', "unknown keys"),
        ('{"context": "hi", "response": "a"}', "context must be a list of texts"),
        ('{"context": ["hi"], "response": ""}', "response must be a text that is not empty"),
        ('{"context": ["hi"], "response": "a", "candidates": []}', "candidates must be a list of texts"),
        ('{"context": ["hi"], "response": "a", "candidates": ["b"]}', "the response is not among the candidates"),
        ('{"context": ["hi"], "resp', "Unterminated string"),
        (b'{"context": ["\xff"], "response": "a"}', "byte 15 of the line, 0xff, is not UTF-8"),
    ],
)
def test_a_bad_line_is_refused_with_its_file_line_and_reason(tmp_path, line, reason):
    path = tmp_path / "mine.jsonl"
    good = b'{"context": [], "response": "a"}\n\n'
    path.write_bytes(good + (line if isinstance(line, bytes) else line.encode()))
    with pytest.raises(ValueError, match=rf"mine\.jsonl:3: .*{reason}.*; --skip-bad-rows true leaves such rows out"):
        jsonl(path)
    assert [e.response for e in jsonl(path, skip_bad_rows=True).examples] == ["a"]


def jsonl(path, split="train", **options) -> JsonlTeacher:
    given = {"task": "poly_agents:jsonl", "datatype": split, "batchsize": 1, "jsonl_path": path and str(path)}
    return JsonlTeacher(Opt(given | options))


def test_candidates_are_drawn_where_evaluation_has_none(tmp_path):
    rows = [json.dumps({"context": ["hi"], "response": f"number {i}"}) for i in range(31)]
    for split in ("train", "valid"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    drawn = [example.candidates for example in jsonl(tmp_path, "valid").examples]
    assert drawn == [example.candidates for example in jsonl(tmp_path, "valid").examples]
    assert all(len(set(candidates)) == 20 for candidates in drawn)
    assert jsonl(tmp_path).examples[0].candidates is None


@pytest.mark.parametrize(
    ("path", "message"), [(None, "needs --jsonl-path"), (Path("/nowhere"), "there is no file /nowhere/train.jsonl")]
)
def test_a_missing_file_is_named(path, message):
    with pytest.raises(ValueError, match=message):
        jsonl(path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no train examples"):
        jsonl(tmp_path)
