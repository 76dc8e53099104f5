"""Model files that ParlAI has written: old formats load, and anything else in them is refused."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from parlai.core.opt import Opt
from torch.testing import assert_close

import poly_agents
from poly_agents.models import opening
from tests.parlai_made import scores, wide


def copied(path: str, folder: Path) -> str:
    for end in ("", ".opt", ".dict", ".dict.codecs"):
        if os.path.exists(f"{path}{end}"):
            shutil.copy(f"{path}{end}", folder / f"model{end}")
    return str(folder / "model")


@pytest.fixture
def copy(made_by_parlai, tmp_path) -> str:
    return copied(made_by_parlai("poly", wide("poly")), tmp_path)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_from_before_torch_1_6_and_half_precision_load(copy, zipped, kind):
    expected = scores(copy)
    states = torch.load(copy, weights_only=False)
    states["model"] = {name: tensor.to(kind) for name, tensor in states["model"].items()}
    import numpy

    states |= {"opt": Opt(json.loads(Path(f"{copy}.opt").read_text())), "best": numpy.float64(0.5), "optimizer": None}
    torch.save(states, copy, _use_new_zipfile_serialization=zipped)
    assert_close(scores(copy), expected, atol=1e-5 if kind == torch.float32 else 1e-3, rtol=1e-4)


class Planted:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["model", "beside"])
def test_a_file_that_carries_anything_else_is_refused_and_nothing_runs(copy, tmp_path, zipped, place):
    states = torch.load(copy, weights_only=False)
    (states["model"] if place == "model" else states)["more"] = Planted(tmp_path / "ran")
    torch.save(states, copy, _use_new_zipfile_serialization=zipped)
    for use in (poly_agents.load, opening.read_header):
        with pytest.raises(ValueError, match=r"model was not loaded: it carries \w+\.system, and only tensors"):
            use(copy)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:40], lambda b: b[:-7]])
def test_a_damaged_file_is_refused_by_name(copy, zipped, damage):
    torch.save(torch.load(copy, weights_only=False), copy, _use_new_zipfile_serialization=zipped)
    Path(copy).write_bytes(damage(Path(copy).read_bytes()))
    with pytest.raises(ValueError, match=r"model (is damaged|was not loaded)"):
        poly_agents.load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "transformer/generator"}, "is a transformer/generator of ParlAI; what loads here"),
        ({"use_memories": True}, "was trained with --use-memories True"),
        ({"dict_tokenizer": "nltk"}, "made with --dict-tokenizer nltk; what can be converted: re"),
        ({"dict_max_ngram_size": 3}, "--dict-max-ngram-size"),
        (
            {"dict_tokenizer": "gpt2"},
            r"needs .*dict-vocab.json and .*dict-merges.txt; they are encoder.json",
        ),
        ({"model": "transformer/crossencoder"}, "lacks 'context_encoder.model.embeddings.words.weight'"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_sentence(copy, change, message):
    opt = json.loads(Path(f"{copy}.opt").read_text()) | change
    Path(f"{copy}.opt").write_text(json.dumps(opt))
    with pytest.raises(ValueError, match=message):
        poly_agents.load(copy)


def test_a_file_of_torch_without_its_options_is_refused(copy):
    os.remove(f"{copy}.opt")
    with pytest.raises(ValueError, match=r"model\.opt"):
        poly_agents.load(copy)
