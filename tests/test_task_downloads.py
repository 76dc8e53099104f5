"""Downloads of the tasks: their addresses, the order in which they are tried, and their digests."""

import gzip
import hashlib

import pytest
from parlai.core.opt import Opt

from poly_agents import tasks
from poly_agents.errors import DownloadError, InputError
from poly_agents.files.download import Download, Elsewhere
from poly_agents.tasks.beir import CQADUPSTACK, BeirTeacher
from poly_agents.tasks.dailydialog import ARCHIVE, DailydialogTeacher
from poly_agents.tasks.jsonl import JsonlTeacher
from poly_agents.tasks.trecqa import TrecqaTeacher
from tests.archives import tarred, zipped
from tests.data import FIXTURES, read, shared
from tests.servers import serving_files

ANDROID = {
    "corpus.jsonl": '{"_id": "7", "title": "Rooting", "text": "How do I root it?"}\n{"_id": "8", "text": "No."}\n',
    "queries.jsonl": '{"_id": "1", "text": "how to get root"}\n',
    "qrels/test.tsv": "query-id\tcorpus-id\tscore\n1\t7\t1\n",
}


@pytest.fixture
def server(monkeypatch):
    with serving_files(monkeypatch, b"", breaks=0, pause=0) as found:
        yield found


def teacher(name: str, split: str, datapath, **options):
    kind = tasks.teacher(f"{name.partition(':')[0].capitalize()}Teacher")
    given = {"task": f"poly_agents:{name}", "datatype": split, "batchsize": 1, "datapath": str(datapath)}
    return kind(Opt(given | options))


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_says_how_to_get_its_files(name):
    kind = tasks.teacher("".join(word.capitalize() for word in name.split("_")) + "Teacher")
    for file in kind.FILES:
        assert file.url.startswith(("http://", "https://")) and len({file.sha256 or "0" * 64, "0" * 64}) <= 2
        assert file.sha256 is None or len(file.sha256) == 64
        assert file.md5 is None or len(file.md5) == 32
    assert kind.FILES or kind.WHERE or name in ("chitchat", "jsonl", "tabs")  # a package, and one's own data


def test_a_task_downloads_what_its_table_says(tmp_path, monkeypatch):
    table = [Elsewhere("a.txt", "https://example.org", "it is not free")]
    monkeypatch.setattr(JsonlTeacher, "FILES", table)
    opt = {"task": "poly_agents:jsonl", "datatype": "train:stream", "batchsize": 1, "jsonl_path": str(tmp_path)}
    found = JsonlTeacher(Opt(opt | {"datapath": str(tmp_path)}))
    with pytest.raises(
        ValueError, match=r"a.txt cannot be downloaded: it is not free. Get it from https://example.org"
    ):
        found.path("a.txt")
    folder = tmp_path / "poly_agents" / "jsonl"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("here")
    assert found.path("a.txt") == folder / "a.txt" == found.path("b.txt", "a.txt")
    with pytest.raises(ValueError, match=r"needs --data-files: the folder that holds a\.txt or b\.txt"):
        JsonlTeacher(Opt(opt)).path("a.txt", "b.txt")


def test_a_task_whose_files_are_got_by_hand_says_how(tmp_path):
    with pytest.raises(InputError, match=r"needs --data-files: .*; download the archive by hand from https"):
        teacher("ecommerce", "train", tmp_path)


def test_a_task_does_not_inherit_the_downloads_of_another():
    tables = [tasks.teacher(f"{name}Teacher").FILES for name in ("Dstc7", "Dstc8", "Snli", "Mnli")]
    assert tables[0] and not tables[1] and tables[2] and tables[3] and tables[2] != tables[3]


def test_dailydialog_comes_from_parlai_if_the_authors_do_not_answer(server, tmp_path, monkeypatch):
    parlai = {f"dailydialog/{path.name}": path.read_bytes() for path in (FIXTURES / "dailydialog/parlai").iterdir()}
    server.data = tarred(parlai)
    digest = hashlib.sha256(server.data).hexdigest()
    mirror = Download(f"{server.url}/data", "dailydialog.tar.gz", digest, archive=True)
    monkeypatch.setattr(DailydialogTeacher, "FILES", (Download(f"{server.url}/gone/{ARCHIVE}", ARCHIVE), mirror))
    for split in ("train:ordered", "valid", "test"):
        found = list(teacher("dailydialog", split, tmp_path).examples)
        assert found == read("dailydialog", split, FIXTURES / "dailydialog/parlai")
    assert [kind for kind, _ in server.asked].count("data") == 1
    monkeypatch.setattr(
        DailydialogTeacher,
        "FILES",
        (DailydialogTeacher.FILES[0], Download(f"{server.url}/data", "x.tgz", "0" * 64, archive=True)),
    )
    with pytest.raises(DownloadError, match=rf"gone/{ARCHIVE}: the server answered 404"):
        teacher("dailydialog", "valid", tmp_path / "other")


def test_dailydialog_comes_from_its_authors_if_they_answer(server, tmp_path, monkeypatch):
    texts = {name: (FIXTURES / f"dailydialog/dialogues_{name}.txt").read_bytes() for name in ("train", "validation")}
    inner = {name: zipped({f"{name}/dialogues_{name}.txt": text}) for name, text in texts.items()}
    server.data = zipped({f"ijcnlp_dailydialog/{name}.zip": data for name, data in inner.items()})
    table = (Download(f"{server.url}/data", ARCHIVE), Download(f"{server.url}/gone", "x.tgz", archive=True))
    monkeypatch.setattr(DailydialogTeacher, "FILES", table)
    found = list(teacher("dailydialog", "valid", tmp_path).examples)
    assert found == read("dailydialog", "valid", FIXTURES / "dailydialog")
    assert {kind for kind, _ in server.asked} == {"data"}


def test_beir_s_archives_are_checked_by_their_md5_and_cqadupstack_is_twelve_data_sets(server, tmp_path, monkeypatch):
    assert all(file.md5 for file in BeirTeacher.FILES) and len(CQADUPSTACK) == 12
    server.data = zipped({f"cqadupstack/android/{name}": text.encode() for name, text in ANDROID.items()})
    good = hashlib.md5(server.data).hexdigest()
    for md5 in ("0" * 32, good):
        table = [Download(f"{server.url}/data", f"{name}.zip", archive=True, md5=md5) for name in ("cqadupstack", "nq")]
        monkeypatch.setattr(BeirTeacher, "FILES", table)
        if md5 != good:
            with pytest.raises(DownloadError, match=f"it has md5 {good}, not {md5}"):
                teacher("beir:cqadupstack:android", "test", tmp_path)
    (example,) = teacher("beir:cqadupstack:android", "test", tmp_path).examples
    assert (example.context, example.response) == (["how to get root"], "Rooting How do I root it?")
    with pytest.raises(ValueError, match=r"twelve data sets: -t poly_agents:beir:cqadupstack:PART, .*android, english"):
        teacher("beir:cqadupstack", "test", tmp_path)


def test_the_real_trecqa_has_the_pinned_digests():
    pins = {file.name: file.sha256 for file in TrecqaTeacher.FILES if file.sha256}
    assert set(pins) == {"train.csv", "dev.csv", "test.csv"}
    for name, pin in pins.items():
        data = gzip.decompress((shared("trecqa") / f"{name}.gz").read_bytes())
        assert hashlib.sha256(data).hexdigest() == pin
