"""The common format of Ubuntu v1, Douban, E-commerce and RRS; Ubuntu v2's CSV against ParlAI's teacher."""

import csv
import re
import shutil
from pathlib import Path

import pytest
from parlai.core.opt import Opt
from parlai.tasks.ubuntu import agents as theirs

from poly_agents.tasks.douban import DoubanTeacher
from poly_agents.tasks.ecommerce import EcommerceTeacher
from poly_agents.tasks.rrs import JUDGES, RrsTeacher
from poly_agents.tasks.tabs import TabsTeacher, unsegment
from poly_agents.tasks.ubuntu_v1 import UbuntuV1Teacher
from poly_agents.tasks.ubuntu_v2 import UbuntuV2Teacher
from tests.data import shared

FIXTURES = Path(__file__).parent / "fixtures"


def teacher(kind, folder, datatype: str = "test", **options):
    task = f"poly_agents:{kind.__name__.removesuffix('Teacher').lower()}"
    return kind(Opt(task=task, datatype=datatype, batchsize=1, data_files=str(folder), **options))


def write(folder, name: str, *contexts: tuple[str, str]) -> None:
    """Write contexts, each given with the labels of its candidates."""
    rows = [
        f"{label}\t{context.replace('|', chr(9))}\t{context[:1]} {place}"
        for context, labels in contexts
        for place, label in enumerate(labels)
    ]
    (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "name", "splits"),
    [
        (UbuntuV1Teacher, "ubuntu_v1", {"train": 2, "valid": 2, "test": 2}),
        (DoubanTeacher, "douban", {"train": 3, "valid": 2, "test": 2}),
        (EcommerceTeacher, "ecommerce", {"train": 2, "valid": 2, "test": 1}),
        (RrsTeacher, "rrs", {"train": 2, "valid": 2, "test": 2}),
    ],
)
def test_every_split_of_every_benchmark_is_read(kind, name, splits):
    for split, count in splits.items():
        examples = teacher(kind, FIXTURES / name, "train:ordered" if split == "train" else split).examples
        assert len(examples) == count
        for example in examples:
            assert example.context and {example.response, *example.others} <= {*example.candidates}
            assert len(example.candidates) == kind.sizes.get(split, 2)
            assert not kind.segmented or not re.search(r"[\u4e00-\u9fff] | [\u4e00-\u9fff]", example.response)


@pytest.mark.parametrize(("kind", "name"), [(EcommerceTeacher, "ecommerce"), (RrsTeacher, "rrs")])
def test_the_folder_that_an_archive_unpacks_to_is_taken_with_or_without_its_name(tmp_path, kind, name):
    (inside,) = (FIXTURES / name).iterdir()
    assert inside.name == kind.folder
    shutil.copytree(inside, tmp_path, dirs_exist_ok=True)
    for datatype in ("train:ordered", "valid", "test"):
        found = teacher(kind, tmp_path, datatype).examples
        assert found == teacher(kind, FIXTURES / name, datatype).examples == teacher(kind, inside, datatype).examples


def test_training_contexts_may_follow_themselves():
    first, second, third = teacher(DoubanTeacher, FIXTURES / "douban", "train:ordered").examples
    assert second.context == third.context != first.context
    assert second.response != third.response and second.candidates[0] == second.response


def test_rrs_s_graded_test_set_holds_the_grades_of_three_judges():
    def graded(datatype, folder=FIXTURES / "rrs" / "restoration-200k", **options):
        opt = {"task": "poly_agents:rrs:graded", "datatype": datatype, "batchsize": 1, "data_files": str(folder)}
        return RrsTeacher(Opt(opt | options))

    found = graded("test")
    assert len(found.examples) == 6 and all(len(example.candidates) == 7 for example in found.examples)
    first, second, third = found.examples[:3]
    assert first.context == ["这附近有好吃的面馆吗", "学校门口有一家"]
    assert (first.response, first.others) == ("汤很好", [])
    assert first.grades == [5, 3, 1, 0, 0, 4, 2] and second.grades == first.grades[::-1]
    assert (third.response, third.others) == ("汤很好", ["面也不错"])  # both of grade 4
    assert found.message(first)["grades"] == first.grades
    with pytest.raises(ValueError, match="rrs:graded is a test set alone"):
        graded("valid")


def test_a_graded_context_that_is_cut_or_without_a_right_candidate_is_named(tmp_path):
    for judge in JUDGES:
        (tmp_path / f"fg-{judge}-test.txt").write_text("".join(f"0\ta\tb {i}\n" for i in range(7)) + "3\tc\td\n")
    opt = {"task": "poly_agents:rrs:graded", "datatype": "test", "batchsize": 1, "data_files": str(tmp_path)}
    with pytest.raises(ValueError, match=r"fg-brandenwang-test\.txt: context 1, 'a': no candidate is graded above 0"):
        RrsTeacher(Opt(opt))
    (tmp_path / "fg-lt-test.txt").write_text("".join(f"{i}\ta\tb {i}\n" for i in range(7)))
    lenient = RrsTeacher(Opt(opt | {"skip_bad_rows": True}))
    assert len(lenient.examples) == 1 and lenient.skipped == 4
    assert lenient.first_skipped.startswith(str(tmp_path / "fg-brandenwang-test.txt"))


def test_contexts_with_only_right_or_only_wrong_candidates_are_left_out_where_people_judged(tmp_path):
    write(tmp_path, "test.txt", ("a|b", "0" * 10), ("c", "0100100000"), ("d", "1" * 10), ("d", "0000000001"))
    for kind in (DoubanTeacher, RrsTeacher):
        first, second = teacher(kind, tmp_path).examples
        assert (first.response, first.others) == ("c 1", ["c 4"])
        assert (second.context, second.response) == (["d"], "d 9")
    with pytest.raises(ValueError, match=r"test\.txt: context 1, 'a': no candidate is right"):
        teacher(UbuntuV1Teacher, tmp_path)


def test_a_context_that_is_not_whole_is_named_and_the_next_is_read(tmp_path):
    write(tmp_path, "test.txt", ("a|b", "1000000000"), ("c", "100000000"), ("d", "1000000000"))
    with pytest.raises(ValueError, match=r"test\.txt: context 2, 'c': 10 candidates expected, got 9; --skip-bad-rows"):
        teacher(EcommerceTeacher, tmp_path)
    lenient = teacher(EcommerceTeacher, tmp_path, skip_bad_rows=True)
    assert [e.context for e in lenient.examples] == [["a", "b"], ["d"]] and lenient.skipped == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2\thi\tyes", "a line begins with 0 or 1, got '2'"),
        ("1\tyes", "a label, a context and a candidate are expected"),
        ("1", "a label, a context and a candidate are expected"),
        ("1\thi\t ", "a label, a context and a candidate are expected"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, reason):
    (tmp_path / "train.txt").write_text(f"1\thi\tyes\n{line}\n")
    with pytest.raises(ValueError, match=rf"train\.txt:2: {reason}"):
        teacher(TabsTeacher, tmp_path, "train:ordered")


def test_your_own_file_may_have_any_number_of_right_candidates(tmp_path):
    write(tmp_path, "mine.txt", ("a|b", "10110"), ("c", "1"))
    first, second = teacher(TabsTeacher, tmp_path / "mine.txt", "valid").examples
    assert (first.response, first.others, len(first.candidates)) == ("a 0", ["a 2", "a 3"], 5)
    assert second.candidates == ["c 0"]
    train = teacher(TabsTeacher, tmp_path / "mine.txt", "train:ordered").examples
    assert [e.candidates for e in train] == [["a 0", "a 1", "a 4"], ["a 2", "a 1", "a 4"], ["a 3", "a 1", "a 4"], None]


def test_spaces_between_chinese_words_are_taken_out():
    assert unsegment(" 下载 了 ftv player 后 ， 还是 2 次 ") == "下载了ftv player后，还是2次"
    assert unsegment("two words") == "two words"


# --- Ubuntu v2 ------------------------------------------------------------------------------------------------------


def compare(monkeypatch, tmp_path, split: str, path: Path) -> list:
    """Read a file; the examples must equal ParlAI's but for spaces at line ends and the order of candidates."""
    (tmp_path / "Ubuntu").mkdir()
    (tmp_path / "Ubuntu" / f"{split}.csv").write_bytes(path.read_bytes())
    monkeypatch.setattr(theirs, "build", lambda opt: None)
    datatype = "train:ordered" if split == "train" else split
    reader = theirs.UbuntuTeacher(Opt(task="ubuntu", datatype=datatype, datapath=str(tmp_path), batchsize=1))
    found = teacher(UbuntuV2Teacher, tmp_path / "Ubuntu", datatype).examples
    assert len(found) == reader.num_examples()
    for example in found:
        message = reader.act()
        labels = message.get("labels") or message["eval_labels"]
        turns = [turn.strip() for turn in message["text"].split("\n")]
        assert ([*example.context], [example.response]) == ([turn for turn in turns if turn], [*labels])
        assert sorted(example.candidates or []) == sorted(message.get("label_candidates", []))
    return found


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_ubuntu_v2_is_parlai_s(monkeypatch, tmp_path, split):
    found = compare(monkeypatch, tmp_path, split, FIXTURES / "ubuntu_v2" / f"{split}.csv")
    assert found[0].context == ["how do i leave vim ? .", "press escape .  then type :q ."]


@pytest.mark.parametrize(("split", "name"), [("train", "train"), ("valid", "dev"), ("test", "test")])
def test_the_real_ubuntu_v2_is_parlai_s(monkeypatch, tmp_path, split, name):
    found = compare(monkeypatch, tmp_path, split, shared(f"ubuntu_v2/{name}.sample.csv"))
    assert len(found) > 5 and all(len(e.candidates or range(10)) == 10 for e in found)


def test_ubuntu_v2_s_wrong_responses_are_left_out_of_training_and_bad_rows_named(tmp_path):
    rows = ["Context,Utterance,Label", "a __eot__,yes,1.0", "a __eot__,no,0", '"b\nb",fine,1', "c,d"]
    (tmp_path / "train.csv").write_text("\n".join(rows))
    with pytest.raises(ValueError, match=r"train\.csv:6: 3 columns expected, got 2"):
        teacher(UbuntuV2Teacher, tmp_path, "train:ordered")
    examples = teacher(UbuntuV2Teacher, tmp_path, "train:ordered", skip_bad_rows=True).examples
    assert [(e.context, e.response) for e in examples] == [(["a"], "yes"), (["b", "b"], "fine")]


def test_ubuntu_v2_s_fields_may_be_long(tmp_path, monkeypatch):
    before = csv.field_size_limit(1000)
    (tmp_path / "train.csv").write_text(f"Context,Utterance,Label\n{'a ' * 100_000}__eot__,yes,1\n")
    (example,) = teacher(UbuntuV2Teacher, tmp_path, "train:ordered").examples
    assert len(example.context[0]) == 199_999
    csv.field_size_limit(before)


def test_ubuntu_v2_s_candidates_are_drawn_once_and_for_all():
    drawn = [e.candidates for e in teacher(UbuntuV2Teacher, FIXTURES / "ubuntu_v2").examples]
    assert drawn == [e.candidates for e in teacher(UbuntuV2Teacher, FIXTURES / "ubuntu_v2").examples]
