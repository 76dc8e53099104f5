"""Checkpoints in archives of ParlAI's zoo, and at mirrors."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest

import poly_agents
from poly_agents import zoo
from poly_agents._parlai.scripts.poly_zoo import PolyZoo
from poly_agents.errors import DownloadError
from poly_agents.zoo import checks, listing, publishing, sources
from tests.archives import tarred
from tests.model_files import folder_of
from tests.parlai_made import PUBLISHED, files_of, make
from tests.servers import serving_files


@pytest.fixture
def server(monkeypatch):
    with serving_files(monkeypatch, b"", breaks=3, pause=0.05) as found:
        yield found


@pytest.fixture(scope="session")
def theirs(tmp_path_factory):
    """Make small models of the form that ParlAI's zoo has."""
    options = {"poly": {"polyencoder_type": "codes", "poly_n_codes": 64}, "bi": {"n_layers": 12, "n_heads": 12}}
    folder = tmp_path_factory.mktemp("theirs")
    made = {}
    for agent, own in options.items():
        (folder / agent).mkdir()
        made[agent] = make(agent, PUBLISHED | own, str(folder / agent / "model"))
    return made


@pytest.fixture(scope="session")
def starts(theirs) -> bytes:
    """Pack two models, one of them without options, and candidates."""
    members = files_of(theirs["poly"], "model_poly/") | files_of(theirs["bi"], "bi_model_huge_reddit/")
    members["convai_trainset_cands.txt"] = b"four five\nsix\n"
    del members["bi_model_huge_reddit/model.opt"]
    return tarred(members)


def ranking(path: str) -> list:
    return poly_agents.load(path, "float32").rank("one two\nthree ?", ["four five", "six", "blue cat"])


def test_one_archive_of_parlai_serves_several_entries(server, theirs, starts, tmp_path, monkeypatch):
    monkeypatch.setenv(sources.MIRROR, f"{server.url}/breaks")
    server.data = starts
    path = zoo.fetch("model_poly", tmp_path)
    asked = len(server.asked)
    assert asked > 1 and server.asked[1][1].startswith("bytes=")  # it broke off, and went on
    assert sorted(file.name for file in path.parent.iterdir()) == ["candidates.txt", *sorted(checks.MODEL_FILES)]
    assert path.with_name("candidates.txt").read_text() == "four five\nsix\n"
    assert json.loads(path.with_name("model.opt").read_text())["model"] == "poly_agents/poly"
    assert ranking(str(path)) == ranking(theirs["poly"])
    other = zoo.fetch("bi_model_huge_reddit", tmp_path)
    assert ranking(str(other)) == ranking(theirs["bi"]) and len(server.asked) == asked
    with pytest.raises(DownloadError, match=r"holds no model_bi/model"):
        zoo.fetch("model_bi", tmp_path)


def test_archives_of_one_name_do_not_replace_each_other(server, theirs, tmp_path, monkeypatch):
    monkeypatch.setenv(sources.MIRROR, f"{server.url}/data")
    whole, cut = files_of(theirs["poly"], ""), files_of(theirs["poly"], "")
    cut["model.opt"] = json.dumps(json.loads(cut["model.opt"]) | {"label_truncate": 5}).encode()
    for name, members in {"multi_task": whole, "ed_single_task": cut}.items():
        server.files[f"blended_skill_talk/{name}/v1.0.tar.gz"] = tarred(members)
    found = [zoo.fetch(name, tmp_path) for name in ("multi_task", "ed_single_task")]
    assert [poly_agents.load(str(path)).label_truncate for path in found] == [7, 5]
    assert not any(path.with_name("candidates.txt").exists() for path in found)


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"../../../evil": b"evil"}, "leads out of the folder"),
        ({"model_poly/model": b"x", "model_poly/model.opt": pickle.dumps({"model": "x"})}, "older forms can run code"),
    ],
)
def test_a_hostile_archive_is_refused(server, tmp_path, monkeypatch, members, fault):
    monkeypatch.setenv(sources.MIRROR, f"{server.url}/data")
    server.data = tarred(members)
    for _ in range(2):
        with pytest.raises((DownloadError, ValueError), match=fault):
            zoo.fetch("model_poly", tmp_path / "data")
    assert {path.name for path in tmp_path.iterdir()} == {"data"} and not (tmp_path / "data/models/evil").exists()
    assert not (tmp_path / "data/models/poly_agents/model_poly").exists()


def test_processes_at_once_fetch_once(server, starts, tmp_path):
    server.data = starts
    code = "import sys; from poly_agents import zoo; print(zoo.fetch(sys.argv[1], sys.argv[2]).stat().st_size)"
    environment = os.environ | {sources.MIRROR: f"{server.url}/slow"}
    both = [
        subprocess.Popen([sys.executable, "-c", code, name, tmp_path], env=environment, stdout=subprocess.PIPE)
        for name in ("model_poly", "model_poly", "bi_model_huge_reddit")
    ]
    one, same, other = (int(process.communicate(timeout=120)[0]) for process in both)
    assert one == same != other
    assert len(server.asked) == 1


@pytest.mark.parametrize("address", [False, True])
def test_a_model_of_ours_comes_from_a_mirror(server, trained, tmp_path, monkeypatch, address):
    with pytest.raises(DownloadError, match=r"not published yet.*make zoo.*train_model -m poly_agents/poly.*ZOO="):
        zoo.fetch("chitchat-poly", tmp_path)
    folder = tmp_path / "mirror" / "chitchat-poly"
    publishing.prepare_folder(str(folder), trained["poly"], [], "mit", "en")
    server.files = {f"chitchat-poly/{name}": data for name, data in folder_of(folder).items()}
    monkeypatch.setenv(sources.MIRROR, f"{server.url}/data" if address else str(folder.parent))
    path = zoo.fetch("chitchat-poly", tmp_path)
    assert path.read_bytes() == (folder / "model").read_bytes() and bool(server.asked) == address
    assert zoo.fetch("chitchat-poly", tmp_path, check=True) == path
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    assert zoo.fetch("chitchat-poly", tmp_path) == path  # used as it is
    with pytest.raises(DownloadError, match=r"chitchat-poly/model was changed since it came: .* and it comes again"):
        zoo.fetch("chitchat-poly", tmp_path, check=True)
    shutil.rmtree(path.parent)
    (folder / "model").write_bytes(changed)
    server.files["chitchat-poly/model"] = bytes(changed)
    with pytest.raises(DownloadError, match=r"chitchat-poly/model is not what it was when it first came; move "):
        zoo.fetch("chitchat-poly", tmp_path)
    shutil.rmtree(tmp_path / "models")
    with pytest.raises(DownloadError, match=r"not the .* of its SHA256SUMS"):
        zoo.fetch("chitchat-poly", tmp_path)


def test_the_command_lists_fetches_and_checks(server, starts, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(sources.MIRROR, raising=False)
    PolyZoo.main("--datapath", str(tmp_path))
    assert "huggingface.co/BAAI/bge-small-en-v1.5" in capsys.readouterr().out
    PolyZoo.main("--markdown")
    assert capsys.readouterr().out.strip() == listing.markdown()
    server.data = starts
    with monkeypatch.context() as scope:
        scope.setenv(sources.MIRROR, "")
        PolyZoo.main("model_poly", "--datapath", str(tmp_path), "--zoo-mirror", f"{server.url}/data")
    out = capsys.readouterr().out
    assert f"model_poly is in {tmp_path}/models/poly_agents/model_poly, whole and unchanged" in out
    assert "parlai eval_model -mf zoo:poly_agents/model_poly/model -t TASK" in out
    candidates = tmp_path / "models/poly_agents/model_poly/candidates.txt"
    assert f"parlai interactive -mf zoo:poly_agents/model_poly/model -fcp {candidates}\n" in out
    for words, fault in ((["a", "b"], "one name at a time"), (["card"], "needs -mf"), (["publish"], "needs -mf")):
        with pytest.raises(ValueError, match=fault):
            PolyZoo.main(*words)
