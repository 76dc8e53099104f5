"""ConvAI2: the examples and candidates of ParlAI's own teacher."""

from pathlib import Path

import pytest
from parlai.core.opt import Opt
from parlai.tasks.convai2 import agents as theirs

from poly_agents.tasks.convai2 import Convai2Teacher
from tests.data import shared

FIXTURES = Path(__file__).parent / "fixtures" / "convai2"


def teacher(folder, name: str = "", datatype: str = "valid", **options) -> Convai2Teacher:
    task = f"poly_agents:convai2{name and ':' + name}"
    return Convai2Teacher(Opt(task=task, datatype=datatype, batchsize=1, data_files=str(folder), **options))


def parlai_s(monkeypatch, path: Path, kind: str, datatype: str) -> list[tuple[list[str], str, list[str] | None]]:
    """Read context, reply and candidates from ParlAI's teacher, with the contexts that an agent's history collects."""
    monkeypatch.setattr(theirs, "_path", lambda *_: str(path))
    options = {"task": "convai2", "datatype": datatype, "batchsize": 1, "your_persona_first": True, "max_num_turns": -1}
    reader = getattr(theirs, kind)(Opt(options))
    found, context = [], []
    for _ in range(reader.num_examples()):
        message = reader.act()
        (reply,) = message.get("labels") or message["eval_labels"]
        context = [*context, *message["text"].split("\n")]
        found.append((context, reply, message.get("label_candidates")))
        context = [] if message["episode_done"] else [*context, reply]
    return found


def ours(reader) -> list[tuple[list[str], str, list[str] | None]]:
    return [(list(e.context), e.response, e.candidates) for e in reader.examples]


CASES = [
    ("", "self_original", "SelfOriginalTeacher"),
    ("self", "self_original", "SelfTeacher"),
    ("self_revised", "self_revised", "SelfRevisedTeacher"),
    ("both", "both_original", "BothTeacher"),
    ("none", "none_original", "NoneTeacher"),
    ("none:no_cands", "none_original_no_cands", "NoneTeacher"),
    ("normalized", "self_original", "NormalizedTeacher"),
    ("normalized_both", "both_original", "NormalizedBothTeacher"),
    ("normalized_none", "none_original", "NormalizedNoneTeacher"),
]


@pytest.mark.parametrize(("name", "file", "kind"), CASES)
def test_examples_and_candidates_are_those_of_parlai(monkeypatch, name, file, kind):
    path = FIXTURES / f"valid_{file}.txt"
    found = ours(teacher(FIXTURES, name))
    assert found == parlai_s(monkeypatch, path, kind, "valid")
    assert len(found) == 5 and all(bool(candidates) == ("no_cands" not in name) for *_, candidates in found)


@pytest.mark.parametrize(("name", "kind"), [("", "SelfOriginalTeacher"), ("normalized", "NormalizedTeacher")])
def test_the_real_file_s_examples_are_those_of_parlai(monkeypatch, name, kind):
    path = shared("convai2/valid_self_original.sample.txt")
    found = ours(teacher(path, name))
    assert found == parlai_s(monkeypatch, path, kind, "valid")
    assert len(found) == 4 and all(len(candidates) == 20 == len({*candidates}) for *_, candidates in found)
    assert [len(context) for context, *_ in found] == [5, 7, 9, 11]


def test_personas_stand_first():
    first, second, *_ = teacher(FIXTURES).examples
    assert first.context == ["your persona: i keep bees.", "your persona: my car is green.", "hi , how are you ?"]
    assert second.context == [*first.context, first.response, "honey ! do you sell it ?"]
    assert not any("persona" in turn for e in teacher(FIXTURES, "none").examples for turn in e.context)


def test_the_hidden_test_set_is_refused():
    with pytest.raises(ValueError, match="test set is hidden"):
        teacher(FIXTURES, datatype="test")


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="no variant 'original'; known: self, self_original, "):
        teacher(FIXTURES, "original")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("hello, how are you?\thi", "a line begins with its number in the conversation, got 'hello, how are you?"),
        ("3 hello\thi\t\tyes|no", "the reply is not among the candidates"),
    ],
)
def test_a_bad_line_is_named_or_left_out(tmp_path, line, reason):
    path = tmp_path / "valid_self_original.txt"
    path.write_text(f"1 your persona: i ski.\n2 hi\thello\t\tno|hello\n{line}\n")
    with pytest.raises(ValueError, match=rf"valid_self_original\.txt:3: {reason}"):
        teacher(tmp_path)
    lenient = teacher(tmp_path, skip_bad_rows=True)
    assert len(lenient.examples) == lenient.skipped == 1
