"""DailyDialog and Ubuntu IRC: copies and nicks that would give the right response away."""

import io
import shutil
import zipfile

import pytest

from poly_agents.tasks.dailydialog import letters
from tests.data import FIXTURES, read, shared, spoil, teacher


def pack(folder, **texts) -> None:
    """Write the archives of DailyDialog, one for each split."""
    for name in ("train", "validation"):
        text = texts.get(name) or (FIXTURES / f"dailydialog/dialogues_{name}.txt").read_text("utf-8")
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.writestr(f"{name}/dialogues_{name}.txt", text)


def test_dailydialog_s_every_turn_but_the_first_is_a_response(tmp_path):
    pack(tmp_path)
    found = read("dailydialog", "train:ordered", tmp_path)
    assert [len(example.context) for example in found] == [1, 2, 1, 2, 3]
    assert found[1].context == ["Is the bakery open , Tom ?", "It opens at seven ."]
    assert found[1].response == "Then let 's wait ." and found[1].candidates is None
    assert read("dailydialog", "train:ordered", tmp_path, history_turns=1)[1].context == ["It opens at seven ."]


def test_dailydialog_s_copies_of_train_dialogues_are_left_out(tmp_path):
    pack(tmp_path)
    own = read("dailydialog", "valid", tmp_path)
    assert len(own) == 21 and own[0].context == ["Do you have one of these ?"]
    assert all(len(example.candidates) == 20 and example.response in example.candidates for example in own)
    assert len(read("dailydialog", "valid", tmp_path, dailydialog_copies=True)) == 23


def test_dailydialog_s_official_archive_is_read_as_it_is(tmp_path):
    parts = tmp_path / "parts"
    parts.mkdir()
    pack(parts)
    with zipfile.ZipFile(tmp_path / "ijcnlp_dailydialog.zip", "w") as archive:
        for name in ("train", "validation"):
            archive.writestr(f"ijcnlp_dailydialog/{name}.zip", io.BytesIO((parts / f"{name}.zip").read_bytes()).read())
    assert read("dailydialog", "valid", tmp_path) == read("dailydialog", "valid", parts)


def test_dailydialog_s_test_split_is_read_without_its_copies(tmp_path):
    shutil.copytree(FIXTURES / "dailydialog", tmp_path, dirs_exist_ok=True)
    found = read("dailydialog", "test", tmp_path)
    assert len(found) == 22 and found[0].context == ["I want a red one ."]
    with (tmp_path / "dialogues_train.txt").open("a") as train:
        train.write("so ! __eou__ I want a red one . __eou__ The red ones are over there . __eou__\n")
    assert [example.context for example in read("dailydialog", "test", tmp_path)] == [e.context for e in found[1:]]


@pytest.mark.parametrize("split", ["train:ordered", "valid", "test"])
def test_dailydialog_s_files_of_parlai_are_read_too(split):
    assert read("dailydialog", split, FIXTURES / "dailydialog/parlai") == read(
        "dailydialog", split, FIXTURES / "dailydialog"
    )


def test_a_bad_line_of_parlai_s_dailydialog_is_named(tmp_path):
    folder = spoil(FIXTURES / "dailydialog/parlai", "train.json", '{"dialogue": [{"emotion": "happiness"}]}', tmp_path)
    with pytest.raises(ValueError, match=r"train\.json:3: there is no 'text'"):
        read("dailydialog", "train:ordered", folder)


def test_a_dialogue_without_an_end_is_named(tmp_path):
    pack(tmp_path, train="Hi ! __eou__ Hello . __eou__\nHi ! __eou__ Hello .\n")
    with pytest.raises(ValueError, match=r"train\.zip/train/dialogues_train\.txt:2: a dialogue ends in __eou__"):
        read("dailydialog", "train:ordered", tmp_path)
    assert teacher("dailydialog", "train:ordered", tmp_path, skip_bad_rows=True).skipped == 1


def test_the_real_dailydialog():
    folder = shared("dailydialog")
    train = read("dailydialog", "train:ordered", folder)
    assert len(train) == 76053
    assert train[0].context == ["Say , Jim , how about going for a few beers after dinner ?"]
    assert train[0].response == "You know that is tempting but is really not good for our fitness ."
    assert len(read("dailydialog", "valid", folder, dailydialog_copies=True)) == 7069
    valid = read("dailydialog", "valid", folder)
    assert len(valid) == 6095
    there = "\n".join(letters([*example.context, example.response]) for example in train)
    assert not any(letters(dialogue) in there for dialogue in whole_dialogues(valid))


def whole_dialogues(examples):
    """Yield every whole dialogue: its longest context with the response to it."""
    for one, after in zip(examples, [*examples[1:], None], strict=True):
        if after is None or len(after.context) == 1:
            yield [*one.context, one.response]


def test_ubuntu_irc_follows_the_annotated_replies(monkeypatch):
    monkeypatch.setattr("poly_agents.tasks.ubuntu_irc.draw_candidates", lambda examples, seed: examples)
    found = read("ubuntu_irc", "valid", FIXTURES / "ubuntu_irc/logs")
    assert [(example.context, example.response) for example in found] == [
        (["how do I mount a disk?"], "which kind of disk?"),
        (["how do I mount a disk?"], "see man mount"),
        (["how do I mount a disk?", "which kind of disk?"], "a usb stick"),
        (["how do I mount a disk?", "which kind of disk?", "a usb stick", "it is old"], "then plug it in"),
    ]
    whole = read("ubuntu_irc", "valid", FIXTURES / "ubuntu_irc/logs", ubuntu_irc_nicks=True)
    assert [example.response for example in whole][3:] == ["kim - then plug it in", "Lee"]


def test_ubuntu_irc_s_logs_have_a_test_split(monkeypatch):
    monkeypatch.setattr("poly_agents.tasks.ubuntu_irc.draw_candidates", lambda examples, seed: examples)
    found = read("ubuntu_irc", "test", FIXTURES / "ubuntu_irc/logs")
    assert [(example.context, example.response) for example in found] == [
        (["where are the logs?"], "in /var/log"),
        (["where are the logs?", "in /var/log"], "thanks"),
    ]


def test_ubuntu_irc_takes_the_nicks_from_the_head_of_a_message():
    found = read("ubuntu_irc", "train:ordered", FIXTURES / "ubuntu_irc/replies")
    assert [example.response for example in found] == ["which kind of disk?", "a usb stick", "then plug it in"]
    assert found[2].context == ["how do I mount a disk?", "which kind of disk?", "a usb stick"]


@pytest.mark.parametrize(
    ("name", "split", "file", "line", "place"),
    [
        ("replies", "train:ordered", "train.jsonl", '{"file": "a"}', r"train\.jsonl:5: there is no 'context'"),
        (
            "replies",
            "train:ordered",
            "train.jsonl",
            '{"file": "a", "context": [], "response": ["a", "b"]}',
            r"train\.jsonl:5: a reply needs a context and a text",
        ),
        ("logs", "valid", "dev/2001-01-01_01.annotation.txt", "1 2", r"01\.annotation\.txt:10: not enough values"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, name, split, file, line, place):
    folder = spoil(FIXTURES / "ubuntu_irc" / name, file, line, tmp_path)
    with pytest.raises(ValueError, match=place):
        read("ubuntu_irc", split, folder)


def test_the_real_ubuntu_irc():
    train, valid = (read("ubuntu_irc", split, shared("ubuntu_irc")) for split in ("train:ordered", "valid"))
    assert (len(train), len(valid)) == (31021, 1214)
    assert train[1].response == "there's no ppc live cd yet"
    assert valid[0].context == ["can anyone recommend any app to create/open *.rar file?"]
    assert valid[0].response == "why not WinRAR?"
    assert all(len(example.candidates) == 20 for example in valid)
    assert max(len(example.context) for example in train) == 8


def test_no_real_response_opens_with_the_nick_of_a_writer_of_its_context():
    folder = shared("ubuntu_irc")
    whole = read("ubuntu_irc", "train:ordered", folder, ubuntu_irc_nicks=True)
    stripped = read("ubuntu_irc", "train:ordered", folder)
    assert sum(a.response != b.response for a, b in zip(whole, stripped, strict=True)) > 20000
