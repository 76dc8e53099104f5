"""DSTC7 and DSTC8: the examples and candidates of ParlAI, and the files that ParlAI does not read."""

import json
import shutil
from pathlib import Path

import pytest
from parlai.core.opt import Opt
from parlai.tasks.dstc7 import agents as theirs

from poly_agents.tasks import dstc7
from poly_agents.tasks.dstc7 import NONE, Dstc7Teacher, objects
from poly_agents.tasks.dstc8 import Dstc8Teacher
from tests.data import shared

FIXTURES = Path(__file__).parent / "fixtures"


def teacher(folder, name: str = "", datatype: str = "valid", kind=Dstc7Teacher, **options) -> Dstc7Teacher:
    task = f"poly_agents:{kind.__name__[:5].lower()}{name and ':' + name}"
    return kind(Opt(task=task, datatype=datatype, batchsize=1, data_files=str(folder), **options))


def parlai_s(monkeypatch, folder: Path, datatype: str) -> list[tuple[list[str], list[str], list[str]]]:
    monkeypatch.setattr(theirs, "build", lambda opt: None)
    reader = theirs.DSTC7Teacher(Opt(task="dstc7", datatype=datatype, datapath=str(folder.parent), batchsize=1))
    messages = [reader.get(number) for number in range(reader.num_examples())]
    labels = "labels" if datatype.startswith("train") else "eval_labels"
    return [(m["text"].strip().split("\n"), m[labels], m["label_candidates"]) for m in messages]


def ours(reader) -> list[tuple[list[str], list[str], list[str]]]:
    return [([*e.context], [e.response, *e.others], e.candidates) for e in reader.examples]


@pytest.mark.parametrize("datatype", ["train:ordered", "valid", "test"])
def test_examples_and_candidates_are_those_of_parlai(monkeypatch, datatype):
    found = ours(teacher(FIXTURES / "dstc7", datatype=datatype))
    assert found == parlai_s(monkeypatch, FIXTURES / "dstc7", datatype)
    assert [len(context) for context, *_ in found] == [4, 3, 5]


def test_the_real_example_is_that_of_parlai(monkeypatch, tmp_path):
    text = shared("dstc7/ubuntu_subtask_1.one_example.json").read_text(encoding="utf-8")
    row, _ = json.JSONDecoder().raw_decode(text.lstrip())
    (tmp_path / "dstc7").mkdir()
    (tmp_path / "dstc7" / "ubuntu_train_subtask_1.json").write_text(json.dumps([row]))
    found = ours(teacher(tmp_path / "dstc7", datatype="train:ordered"))
    assert found == parlai_s(monkeypatch, tmp_path / "dstc7", "train")
    ((context, _, candidates),) = found
    assert len(context) == 17 and len(candidates) == 100
    assert len(teacher(tmp_path / "dstc7", "augmented", "train:ordered").examples) == 9


def test_augmented_training_adds_what_the_one_who_answers_said_before():
    plain, augmented = (teacher(FIXTURES / "dstc7", n, "train:ordered").examples for n in ("", "augmented"))
    assert [(len(e.context), e.response) for e in augmented] == [
        (2, "an old one, how do i tell?"),
        (4, "it says intel"),
        (1, "does it show up in lsblk?"),
        (3, "then make a folder and mount it there"),
        (1, "several, try the small one first"),
        (3, "in the software centre"),
        (5, "close the browser then"),
    ]
    assert augmented[1] == plain[0]._replace(candidates=None)
    assert teacher(FIXTURES / "dstc7", "augmented").examples == teacher(FIXTURES / "dstc7").examples


def test_sampled_training_has_sixteen_candidates_always_the_same(tmp_path):
    rows = [
        {
            "example-id": i,
            "messages-so-far": [{"speaker": f"participant_{k % 2 + 1}", "utterance": f"{i} {k}"} for k in range(3)],
            "options-for-correct-answers": [{"candidate-id": "a", "utterance": f"answer {i}"}],
            "options-for-next": [{"candidate-id": "a", "utterance": f"answer {i}"}],
        }
        for i in range(13)
    ]
    (tmp_path / "ubuntu_train_subtask_1.json").write_text(json.dumps(rows))
    sampled, augmented = (teacher(tmp_path, n, "train:ordered").examples for n in ("sampled", "augmented"))
    assert [e._replace(candidates=None) for e in sampled] == augmented and len(augmented) == 26
    assert all(len({*e.candidates}) == 16 and e.response in e.candidates for e in sampled)
    assert sampled == teacher(tmp_path, "sampled", "train:ordered").examples


def test_subtask_2_shares_one_pool():
    reader = teacher(FIXTURES / "dstc7", "subtask_2")
    first, second, _ = reader.examples
    assert first.candidates is second.candidates and len(first.candidates) == 8
    assert [*reader.chat_candidates()] == first.candidates


@pytest.mark.parametrize("datatype", ["valid", "test"])
def test_none_of_them_is_a_candidate_of_subtask_4(datatype):
    examples = teacher(FIXTURES / "dstc7", "subtask_4", datatype).examples
    assert [e.response for e in examples] == ["it says intel", NONE, "close the browser then"]
    assert [len(e.candidates) for e in examples] == [7, 6, 7]
    assert all(e.candidates.count(NONE) == 1 for e in examples)


def test_advising_begins_with_the_student_s_profile():
    (example,) = teacher(FIXTURES / "dstc7", "advising").examples
    assert example.context == [
        "partner's persona: courses taken: EECS280, EECS203",
        "partner's persona: courses to suggest: EECS281",
        "partner's persona: standing: Sophomore",
        "partner's persona: term: Winter 2015",
        "student: hi, what should i take next?",
        "advisor: do you like theory?",
        "student: not too much",
    ]


@pytest.mark.parametrize(
    ("kind", "name", "datatype"),
    [(Dstc7Teacher, "advising_subtask_4", d) for d in ("valid", "test")]
    + [(Dstc8Teacher, "advising", d) for d in ("valid", "test")],
)
def test_advising_may_have_no_right_candidate(kind, name, datatype):
    first, second = teacher(FIXTURES / kind.__name__[:5].lower(), name, datatype, kind).examples
    assert (first.response, second.response) == ("then take 281", NONE)
    assert [len(e.candidates) for e in (first, second)] == [7, 6]
    for example in (first, second):
        assert example.candidates.count(NONE) == 1 and example.candidate_ids[example.candidates.index(NONE)] == "NONE"
        assert [turn.split(": ")[0] for turn in example.context] == [
            *["partner's persona"] * 4,
            *("student", "advisor") * ((len(example.context) - 4) // 2),
            "student",
        ]


def test_advising_is_read_under_the_organisers_names_and_has_two_test_sets():
    folder = FIXTURES / "dstc7" / "official"
    first, second = teacher(folder, "advising", "train:ordered").examples
    assert (first.response, second.response) == ("then take 281", "why not 281?")
    (valid,) = teacher(folder, "advising").examples
    assert valid.response == "then take 281" and valid.candidate_ids[valid.candidates.index(valid.response)] == 500
    (case_1,) = teacher(folder, "advising", "test").examples
    assert (case_1.id, case_1.response) == (4, "why not 281?")
    case_2 = teacher(folder, "advising_case_2", "test").examples
    assert [(e.response, e.others) for e in case_2] == [
        ("then take 281", []),
        ("why not 281?", ["then take 281"]),  # two ids, the utterances are those of the candidates
    ]


@pytest.mark.parametrize(
    "name", ["advising.scenario-1.train.json", "advising.scenario-1.train.json/may30.train.scenario-1.json"]
)
def test_advising_s_train_file_has_several_names(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    shutil.copy(FIXTURES / "dstc7/official/may30.train.scenario-1.json", path)
    assert len(teacher(tmp_path, "advising", "train:ordered").examples) == 2


def test_subtask_2_s_pool_has_two_names(tmp_path):
    shutil.copy(FIXTURES / "dstc7/ubuntu_dev_subtask_2.json", tmp_path)
    shutil.copy(FIXTURES / "dstc7/ubuntu_candidates_subtask_2.tsv", tmp_path / "subtask_2_candidates.tsv")
    assert teacher(tmp_path, "subtask_2").examples == teacher(FIXTURES / "dstc7", "subtask_2").examples


def test_an_answer_that_is_no_candidate_and_not_written_out_is_named(tmp_path):
    shutil.copy(FIXTURES / "dstc7/official/test.blind.scenario-1.json", tmp_path)
    answers = tmp_path / "advising.scenario-1.test.json.answers-case1.tsv"
    answers.write_text("4\t777\n")
    with pytest.raises(ValueError, match=r"example 1: the right answer '777' is not among the candidates"):
        teacher(tmp_path, "advising", "test")
    answers.write_text("5\t500\n")
    with pytest.raises(ValueError, match=r"example 1: there is no '4'"):
        teacher(tmp_path, "advising", "test")


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "datatype"), [("", "valid"), ("", "test"), ("subtask_2", "valid"), ("advising", "test")]
)
def test_dstc8_s_folders_may_be_taken_off(tmp_path, depth, name, datatype):
    whole = FIXTURES / "dstc8"
    for path in (path for path in whole.rglob("*") if path.is_file()):
        inside = path.relative_to(whole)
        to = tmp_path.joinpath(*inside.parts[min(depth, len(inside.parts) - 1) :])
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    found = teacher(tmp_path, name, datatype, Dstc8Teacher).examples
    assert len(found) == 2 and found == teacher(whole, name, datatype, Dstc8Teacher).examples


def test_dstc8_s_test_set_may_be_renamed(tmp_path):
    shutil.copy(
        FIXTURES / "dstc8/DSTC8_TESTDATA/Task_1/task-1.ubuntu.test.blind.json", tmp_path / "task-1.ubuntu.test.json"
    )
    shutil.copy(
        FIXTURES / "dstc8/DSTC8_TESTDATA_GROUNDTRUTH/ubuntu-task-1.txt", tmp_path / "task-1.ubuntu.responses.tsv"
    )
    found = teacher(tmp_path, "", "test", Dstc8Teacher).examples
    assert found == teacher(FIXTURES / "dstc8", "", "test", Dstc8Teacher).examples


def test_dstc8_s_answers_need_no_utterances(tmp_path):
    shutil.copytree(FIXTURES / "dstc8", tmp_path, dirs_exist_ok=True)
    answers = tmp_path / "DSTC8_TESTDATA_GROUNDTRUTH" / "ubuntu-task-1.txt"
    answers.write_text(
        "".join("\t".join(line.split("\t")[:2]).strip() + "\n" for line in answers.read_text().splitlines())
    )
    found = teacher(tmp_path, "", "test", Dstc8Teacher).examples
    assert found == teacher(FIXTURES / "dstc8", "", "test", Dstc8Teacher).examples


def test_dstc8_s_subtask_2_has_a_section_of_the_channel():
    first, second = teacher(FIXTURES / "dstc8", "subtask_2", "valid", Dstc8Teacher).examples
    assert first.context[:2] == [
        "participant 0: hi, i deleted a folder",
        "participant 3: does anybody use a trackball?",
    ]
    assert (first.response, second.response) == ("participant_2 : no", NONE)


def test_candidates_keep_their_ids_when_they_are_shuffled():
    for name in ("", "subtask_4"):
        for datatype in ("valid", "test"):
            rows = json.loads((FIXTURES / f"dstc7/ubuntu_dev_subtask_{4 if name else 1}.json").read_text())
            for row, example in zip(rows, teacher(FIXTURES / "dstc7", name, datatype).examples, strict=True):
                ids = {option["utterance"]: option["candidate-id"] for option in row["options-for-next"]} | {
                    NONE: "NONE"
                }
                known = [(text, i) for text, i in zip(example.candidates, example.candidate_ids, strict=True)]
                assert example.id == row["example-id"] and all(ids.get(text, i) == i for text, i in known)


@pytest.mark.parametrize("datatype", ["valid", "test"])
def test_dstc8_has_several_speakers_and_may_have_no_right_candidate(datatype):
    first, second = teacher(FIXTURES / "dstc8", datatype=datatype, kind=Dstc8Teacher).examples
    assert first.context[1:] == [
        "participant 1: participant_0 : with rm?",
        "participant 2: there are backups, are there?",
    ]
    assert (first.response, second.response) == ("participant_2 : no", NONE)
    assert len(first.candidates) == 7 and len(second.candidates) == 6


@pytest.mark.parametrize("size", [7, 1 << 20])
def test_a_list_is_read_in_pieces(monkeypatch, tmp_path, size):
    monkeypatch.setattr(dstc7, "CHUNK", size)
    rows = [{"a": "]\n[{\\", "b": [i, {"c": None}]} for i in range(11)]
    (tmp_path / "list.json").write_text(" " * (size % 3) + json.dumps(rows, indent=1) + "\nand more")
    assert [*objects(tmp_path / "list.json")] == rows


def test_a_bad_example_is_named_or_left_out(tmp_path):
    rows = json.loads((FIXTURES / "dstc7" / "ubuntu_dev_subtask_1.json").read_text())
    del rows[1]["messages-so-far"]
    rows[2]["options-for-correct-answers"] = []
    (tmp_path / "ubuntu_dev_subtask_1.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"subtask_1\.json: example 2: there is no 'messages-so-far'"):
        teacher(tmp_path)
    lenient = teacher(tmp_path, skip_bad_rows=True)
    assert len(lenient.examples) == 1 and lenient.skipped == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "a JSON list is expected"),
        ("[", "after 0 examples: Expecting value"),
        ('[{"a": 1}, {"b"', "after 1 exam"),
    ],
)
def test_a_file_that_is_cut_or_no_list_is_refused(tmp_path, text, reason):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(ValueError, match=rf"list\.json: {reason}"):
        [*objects(tmp_path / "list.json")]


def test_an_answer_outside_the_pool_and_an_unknown_variant_are_refused(tmp_path):
    for name in ("ubuntu_dev_subtask_2.json", "ubuntu_candidates_subtask_2.tsv"):
        text = (FIXTURES / "dstc7" / name).read_text()
        (tmp_path / name).write_text(text.replace("P6", "P6 and no tab\nP7") if name.endswith("tsv") else text)
    with pytest.raises(ValueError, match=r"candidates_subtask_2\.tsv:7: at least 2 columns separated by tabs, got 1"):
        teacher(tmp_path, "subtask_2")
    (tmp_path / "ubuntu_candidates_subtask_2.tsv").write_text("P1\treboot once more\n")
    with pytest.raises(ValueError, match=r"subtask_2\.json: example 1: the right answer is not in the pool"):
        teacher(tmp_path, "subtask_2")
    with pytest.raises(ValueError, match="no variant 'subtask_3'; known: augmented, sampled, subtask_2"):
        teacher(tmp_path, "subtask_3")
