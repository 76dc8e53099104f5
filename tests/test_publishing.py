"""Cards of trained models, and folders that are pushed to a hub and loaded back."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from parlai.core.build_data import modelzoo_path

from poly_agents import zoo
from poly_agents._parlai.scripts.poly_zoo import PolyZoo
from poly_agents.errors import DownloadError
from poly_agents.files import checkpoint
from poly_agents.zoo import cards, checks, publishing
from tests.agents import evaluate
from tests.model_files import folder_of, scores
from tests.servers import serving_hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving_hub(monkeypatch, tmp_path / "cache") as found:
        yield found


@pytest.fixture
def report(trained, data, tmp_path) -> str:
    path = str(tmp_path / "report.json")
    evaluate(trained["poly"], data, datatype="test", confidence=True, report_filename=path)
    return path


def test_a_card_has_the_metrics_with_their_intervals(trained, report, tmp_path):
    path = publishing.write_card(trained["poly"], [report], "mit", "en")
    assert path == f"{trained['poly']}.README.md"
    card, saved = ModelCard.load(path), json.loads(Path(report).read_text())["report"]
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == ("mit", "poly_agents", "text-ranking")
    assert card.data.datasets == ["jsonl"] and "poly-ranker" in card.data.tags
    found = {result.metric_type: result for result in card.data.eval_results}
    assert found["mrr"].metric_value == saved["mrr"] and found["mrr"].dataset_split == "test"
    assert found["mrr"].metric_args == {"interval_95": [saved["mrr_low"], saved["mrr_high"]]}
    cell = f"{saved['hits@1']:.3f} [{saved['recall_any@1_low']:.3f}, {saved['recall_any@1_high']:.3f}]"
    assert cell in card.text and f'poly_agents.load("{trained["poly"]}")' in card.text
    assert "2 updates, 10 examples" in card.text and "| `--poly-codes` | 64 |" in card.text


def test_without_a_report_a_card_has_what_train_model_wrote(trained):
    card = cards.card(trained["bi"], "mine", "mine/model", [], None, "en")
    stats = json.loads(Path(f"{trained['bi']}.trainstats").read_text())
    for split in ("test", "valid"):
        assert f"| poly_agents:jsonl, {split} | {stats[f'final_{split}_report']['exs']} |" in card
    assert "95%" not in card and "license" not in card


def test_what_is_no_report_is_refused(trained, tmp_path):
    (tmp_path / "not.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not\.json is not what `eval_model --report-filename` writes"):
        publishing.write_card(trained["poly"], [str(tmp_path / "not.json")], "mit", "en")


def test_a_prepared_folder_has_nothing_of_this_machine(trained, report, tiny, tmp_path):
    folder = tmp_path / "mine"
    with pytest.raises(ValueError, match="publish needs --license"):
        publishing.prepare_folder(str(folder), trained["poly"], [report], None, "en")
    publishing.prepare_folder(str(folder), trained["poly"], [report], "mit", "en")
    assert {path.name for path in folder.iterdir()} == {*checks.MODEL_FILES, "README.md", "SHA256SUMS"}
    places = [str(Path(tiny).parent), str(Path(trained["poly"]).parent), str(Path.home()), sys.prefix]
    for name, data in folder_of(folder).items():
        assert not any(place.encode() in data for place in places), name
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    header, trained_header = (checkpoint.read_header(path) for path in (str(folder / "model"), trained["poly"]))
    assert "examples_seen" in header and header.keys() == trained_header.keys() - {"train_stats"}
    publishing.prepare_folder(str(folder), trained["poly"], [report], "mit", "en")  # again
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes\.txt already; give a folder of its own"):
        publishing.prepare_folder(str(folder), trained["poly"], [report], "mit", "en")


def test_what_is_pushed_can_be_loaded_back(hub, trained, report, tmp_path, capsys, monkeypatch):
    words = ["publish", str(tmp_path / "mine"), "-mf", trained["poly"], "--report", report, "--license", "mit"]
    words += ["--push", "org/mine-v1.5"]
    PolyZoo.main(*words, "--token", "secret")
    assert "load it with -mf zoo:poly_agents/hub/org/mine-v1.5/model" in capsys.readouterr().out
    assert hub.repos["org/mine-v1.5"] == folder_of(tmp_path / "mine")
    assert ModelCard((tmp_path / "mine/README.md").read_text()).data.model_name == "mine-v1.5"
    path = modelzoo_path(str(tmp_path), "zoo:poly_agents/hub/org/mine-v1.5/model")
    assert path == str(tmp_path / "models/poly_agents/hub/org/mine-v1.5/model")
    np.testing.assert_array_equal(scores(path), scores(trained["poly"]))
    with pytest.raises(Exception, match="401"):
        PolyZoo.main(*words, "--token", "wrong")
    hub.repos["org/other"] = {"model": b"x", "README.md": b"y"}
    with pytest.raises(DownloadError, match=r"org/other was not made by .*has no model\.dict, model\.opt, SHA256SUMS"):
        zoo.fetch("hub/org/other", tmp_path)


@pytest.mark.parametrize("address", ["zoo:poly_agents/hub/org/model/model", "zoo:poly_agents/hub/org/model"])
def test_a_repository_may_be_called_model(hub, trained, tmp_path, address):
    publishing.prepare_folder(str(tmp_path / "mine"), trained["bi"], [], "mit", "en")
    hub.repos["org/model"] = folder_of(tmp_path / "mine")
    path = zoo.local(address, tmp_path)
    assert path == str(tmp_path / "models/poly_agents/hub/org/model/model")
    np.testing.assert_array_equal(scores(path), scores(trained["bi"]))
    with pytest.raises(ValueError, match="is given as zoo:poly_agents/hub/ORG/NAME/model"):
        zoo.local("zoo:poly_agents/hub/org/", tmp_path)
