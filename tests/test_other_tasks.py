"""MuTual, DailyDialog++, Wikipedia article search and Reddit."""

import bz2
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from parlai.core.opt import Opt

from poly_agents.tasks import reddit
from poly_agents.tasks.dailydialogpp import DailydialogppTeacher
from poly_agents.tasks.mutual import MutualTeacher
from poly_agents.tasks.reddit import RedditTeacher
from poly_agents.tasks.wikipedia import Candidates, WikipediaTeacher
from tests.data import shared

FIXTURES = Path(__file__).parent / "fixtures"


def examples(kind, folder, name: str = "", datatype: str = "valid", **options) -> list:
    task = f"poly_agents:{kind.__name__.removesuffix('Teacher').lower()}{name and ':' + name}"
    return kind(Opt(task=task, datatype=datatype, batchsize=1, data_files=str(folder), **options)).examples


# --- MuTual -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "datatype", "count"), [
    ("", "train:ordered", 7088), ("", "valid", 886), ("plus", "train:ordered", 7088), ("plus", "valid", 886),
])  # fmt: skip
def test_the_real_mutual_is_read_whole(name, datatype, count):
    found = examples(MutualTeacher, shared("mutual"), name, datatype)
    assert len(found) == count and all(len(e.candidates) == 4 for e in found)
    assert sum(e.candidates.count(e.response) > 1 for e in found) <= 3
    turns = [turn for e in found for turn in e.context]
    assert sum(turn[:1].lower() in "mf" and ":" in turn[:3] for turn in turns) > 0.99 * len(turns)
    assert {e.candidates.index(e.response) for e in found} == {0, 1, 2, 3}


def test_mutual_s_folder_of_files_is_read_by_their_numbers():
    found = examples(MutualTeacher, FIXTURES / "mutual", datatype="train:ordered")
    assert [e.candidates.index(e.response) for e in found] == [1, 2, 2]
    (example,) = examples(MutualTeacher, FIXTURES / "mutual")
    assert example.response == "m : then you took the bus ."
    assert example.context == [
        "f : my car is at the garage .",
        "m : how did you get here ?",
        "f : with the number nine , as always : slowly .",
    ]
    (plus,) = examples(MutualTeacher, FIXTURES / "mutual", "plus")
    assert len(plus.context) == 3 and plus.response == "M: Then you took the bus."


def test_mutual_s_test_has_no_answers_and_is_for_submissions():
    with pytest.raises(ValueError, match="poly_agents:mutual's test set are hidden: give eval_model --submission"):
        examples(MutualTeacher, FIXTURES / "mutual", datatype="test")
    found = examples(MutualTeacher, FIXTURES / "mutual", datatype="test", submission="x")
    assert [e.id for e in found] == ["test_1", "test_2", "test_10"]
    assert [(e.response, len(e.candidates), e.candidate_ids) for e in found] == [(None, 4, ("A", "B", "C", "D"))] * 3


def test_mutual_s_bad_lines_are_named_and_only_test_may_be_without_answers(tmp_path):
    row = json.loads((FIXTURES / "mutual" / "mutual_plus_dev.jsonl").read_text())
    lines = [row, row | {"answers": "E"}, {"answers": "A"}, row | {"answers": " "}]
    (tmp_path / "mutual_dev.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=r"mutual_dev\.jsonl:2: 4 options and an answer A to D .* got 4 and 'E'"):
        examples(MutualTeacher, tmp_path)
    assert len(examples(MutualTeacher, tmp_path, skip_bad_rows=True)) == 1


# --- DailyDialog++ ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "wrong"), [("", {"far", "close"}), ("random", {"far"}), ("adversarial", {"close"})])
def test_dailydialogpp_s_variants_differ_in_the_wrong_responses(name, wrong):
    for split in ("valid", "test"):
        (example,) = examples(DailydialogppTeacher, FIXTURES / "dailydialogpp", name, split)
        kinds = Counter(text.split()[1] for text in example.candidates)
        assert kinds == {"right": 5} | dict.fromkeys(wrong, 5)
        assert [example.response, *example.others] == [f"a right {i}" for i in range(5)]
    train = examples(DailydialogppTeacher, FIXTURES / "dailydialogpp", name, "train:ordered")
    assert len(train) == (5 if name == "adversarial" else 10) and not any(e.others for e in train)
    assert all(e.response in e.candidates and "far 0 " not in e.candidates for e in train)


def test_dailydialogpp_s_contexts_without_adversarial_responses_are_for_training():
    train = examples(DailydialogppTeacher, FIXTURES / "dailydialogpp", "positives", "train:ordered")
    assert [e.response for e in train] == [
        *(f"{context} right {i}" for context in "abc" for i in range(5)),
        *("d right 0", "d right 1"),
    ]
    assert train[10].context == ["is it far ?", "ten minutes ."]
    assert all(e.candidates is None and not e.others for e in train)
    plain, positives = (examples(DailydialogppTeacher, FIXTURES / "dailydialogpp", name) for name in ("", "positives"))
    assert plain == positives


def test_a_bad_line_of_dailydialogpp_is_named(tmp_path):
    row = json.loads((FIXTURES / "dailydialogpp" / "dev.json").read_text())
    (tmp_path / "dev.json").write_text("\n".join(map(json.dumps, [row, row | {"positive_responses": []}, {}])))
    with pytest.raises(ValueError, match=r"dev\.json:2: a context and positive_responses are expected"):
        examples(DailydialogppTeacher, tmp_path)
    assert len(examples(DailydialogppTeacher, tmp_path, skip_bad_rows=True)) == 1


# --- Wikipedia --------------------------------------------------------------------------------------------------------


def test_a_sentence_is_asked_for_the_rest_of_its_article():
    folder = FIXTURES / "wikipedia"
    train = examples(WikipediaTeacher, folder, datatype="train:ordered")
    assert len(train) == 3 and len(examples(WikipediaTeacher, folder, "small", "train:ordered")) == 2
    assert train == examples(WikipediaTeacher, folder, datatype="train:ordered")
    assert sorted([*train[1].context, train[1].response]) == ["her father built boats .", "she was a painter ."]
    for split in ("valid", "test"):
        found = examples(WikipediaTeacher, folder, datatype=split)
        assert [e.response for e in found] == [e.response for e in train]
        assert all([*e.candidates] == [e.response, *(f"base {i} . more of it ." for i in range(7))] for e in found)
        assert found[0].candidates.pool is found[1].candidates.pool


def test_shared_candidates_are_a_sequence():
    candidates = Candidates("a", ["b", "c"])
    assert [candidates[i] for i in range(-3, 3)] == ["a", "b", "c"] * 2
    assert candidates[1:] == ["b", "c"] and len(candidates) == 3 and "c" in candidates
    with pytest.raises(IndexError):
        candidates[3]


# --- Reddit -----------------------------------------------------------------------------------------------------------


def comment(name: str, parent: str, body: str | None = None, thread: str = "t3_x", **more) -> dict:
    body = body or f"this is comment {name}"
    parent = f"t1_{parent}" if parent else thread
    return {"id": name, "parent_id": parent, "link_id": thread, "body": body, "author": "a", "subreddit": "pics"} | more


def dump(folder, *comments: dict, name: str = "RC_2019-01", pack=lambda data: data) -> None:
    (folder / name).write_bytes(pack("".join(json.dumps(c) + "\n" for c in comments).encode()))


def replies(folder, datatype: str = "train:ordered", **options) -> list:
    given = {"history_turns": 4, "reddit_window": 1000, "reddit_pairs": 0} | options
    return examples(RedditTeacher, folder, "", datatype, **given)


def test_replies_have_the_comments_that_lead_to_them_across_files(tmp_path):
    dump(tmp_path, comment("1", ""), comment("2", "1"), comment("3", ""), name="RC_2019-01.gz", pack=gzip.compress)
    dump(tmp_path, comment("4", "2"), comment("5", "3"), comment("6", "4"), name="RC_2019-02.bz2", pack=bz2.compress)
    text = "this is comment {}".format
    found = [(*e.context, e.response) for e in replies(tmp_path)]
    assert found == [tuple(map(text, numbers)) for numbers in ("12", "124", "35", "1246")]
    assert [len(e.context) for e in replies(tmp_path, history_turns=2)] == [1, 2, 1, 2]
    assert len(replies(tmp_path, reddit_pairs=3)) == 3


@pytest.mark.parametrize(
    "more",
    [
        {"body": "[deleted]"},
        {"body": "four"},
        {"body": "see https://example.org for it"},
        {"body": "x" * 2049},
        {"body": "word " * 129},
        {"body": "\u00e9t\u00e9 in france"},
        {"author": "AutoModerator"},
        {"author": "[deleted]"},
        {"subreddit": "Brasil"},
    ],
)
def test_what_is_left_out_takes_its_replies_with_it(tmp_path, more):
    dump(tmp_path, comment("1", ""), comment("2", "1"), comment("3", "1") | more, comment("4", "3"), comment("5", "2"))
    assert [e.response for e in replies(tmp_path)] == ["this is comment 2", "this is comment 5"]


def test_threads_end_at_depth_7_and_the_window_bounds_what_is_known(tmp_path):
    dump(tmp_path, *(comment(str(i), str(i - 1) if i else "") for i in range(11)))
    assert [e.response.split()[-1] for e in replies(tmp_path)] == list("1234567")
    dump(tmp_path, *(comment(str(i), "0" if i else "") for i in range(7)))
    assert len(replies(tmp_path)) == 6 and len(replies(tmp_path, reddit_window=3)) == 3


def test_a_thread_is_whole_in_one_split(tmp_path):
    threads = [f"t3_{i}" for i in range(3000)]
    dump(tmp_path, *(c for t in threads for c in (comment(t, "", None, t), comment(t + "r", t, None, t))))
    found = {split: {e.response for e in replies(tmp_path, split)} for split in ("train:ordered", "valid", "test")}
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 3000
    assert 20 < len(found["valid"]) < 40 > len(found["test"]) > 20
    assert all(len(e.candidates) == 20 for e in replies(tmp_path, "valid"))
    assert {reddit.part(thread) for thread in threads} == {"train", "valid", "test"}


def test_zstandard_dumps_are_read(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    dump(tmp_path, comment("1", ""), comment("2", "1"), name="RC_1.zst", pack=zstandard.ZstdCompressor().compress)
    assert len(replies(tmp_path)) == 1


def test_bad_lines_and_missing_dumps_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no RC_\* in it; give the folder"):
        replies(tmp_path)
    dump(tmp_path, comment("1", ""), {"id": "2"}, comment("3", "1", body=7), comment("4", "1"))
    with pytest.raises(ValueError, match=r"RC_2019-01:2: there is no 'body'"):
        replies(tmp_path)
    assert len(replies(tmp_path, skip_bad_rows=True)) == 1
    with pytest.raises(ValueError, match="--reddit-window must be at least 1, got 0"):
        replies(tmp_path, reddit_window=0)
