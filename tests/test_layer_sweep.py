"""The commands that mine negatives and sweep over the layers of a cross-encoder."""

import json

import pytest
from parlai.core.script import superscript_main
from torch.testing import assert_close

import poly_agents
from poly_agents.learning import negatives
from poly_agents.models import layer_sweep
from tests.agents import ROWS, make


def test_the_commands_mine_and_sweep(options, trained, data, tmp_path):
    task = ["-t", "poly_agents:jsonl", "--jsonl-path", data]
    out = str(tmp_path / "mined")
    superscript_main(["poly_mine", "-mf", trained["bi"], *task, "--out", out, "--hard-negatives", "2"])
    assert len(negatives.read(out)) == len(ROWS)
    layers = tmp_path / "layers"
    models = ["--cross-model", trained["cross"], "--bi-model", trained["bi"]]
    superscript_main(["poly_layers", *models, *task, "--out", str(layers)])
    found = json.loads((layers / "layers.json").read_text())
    assert [row["layer"] for row in found["cross"]] == [0, 1, 2] == [row["layer"] for row in found["bi"]]
    assert (layers / "layers.png").read_bytes().startswith(b"\x89PNG")


def test_the_sweep_refuses_a_model_that_is_no_cross_encoder(trained, data):
    task = ["-t", "poly_agents:jsonl", "--jsonl-path", data]
    with pytest.raises(
        ValueError, match=f"--cross-model {trained['bi']} is a model of bi; give one of -m poly_agents/cross"
    ):
        superscript_main(["poly_layers", "--cross-model", trained["bi"], *task])


@pytest.mark.parametrize("layer", [1, 2])
def test_the_sweep_looks_at_the_vectors_of_early(options, trained, texts, layer):
    cross, ids = poly_agents.load(trained["cross"], "float32"), texts(5, 1, 11)
    early = make(options, "early", cross_model=trained["cross"], early_layer=layer).ranker_module
    assert len(early.context_encoder.layers) == layer
    assert_close(early.encode_ids(ids), layer_sweep.layer_vectors(cross, ids)[:, layer], atol=1e-5, rtol=1e-5)
