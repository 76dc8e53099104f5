"""Fixtures of all tests."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("POLY_AGENTS_TIMEOUT", "120")  # distributed runs; the time limit of a test is longer
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that share tiny products wait for each other most of the time

import json
import random
from collections.abc import Callable

import pytest
from parlai.scripts.train_model import TrainModel
from parlai.utils import logging as parlai_logging
from transformers import logging as transformers_logging

from poly_agents.encoders.encoder_decoder import EncoderDecoder
from poly_agents.scoring.ranker import Ranker
from poly_agents.text.tokenizer import Tokenizer
from tests import parlai_made
from tests.agents import ROWS, text
from tests.encoders import FAMILIES, WORDS, make_encoder, make_encoder_decoder
from tests.limits import pytest_timeout_cancel_timer, pytest_timeout_set_timer  # noqa: F401  hooks of pytest-timeout
from tests.rankers import all_rankers, cases, make_ranker

transformers_logging.set_verbosity_error()
parlai_logging.set_log_level(parlai_logging.ERROR)


@pytest.fixture(scope="session")
def encoders(tmp_path_factory) -> dict[str, str]:
    """family -> folder"""
    root = tmp_path_factory.mktemp("encoders")
    return {family: make_encoder(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def tiny(encoders) -> str:
    """The tiny BERT that most tests are about."""
    return encoders["bert"]


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory) -> str:
    return make_encoder_decoder(tmp_path_factory.mktemp("encoder-decoder"))


@pytest.fixture(scope="session")
def tokenizer(tiny) -> Tokenizer:
    return Tokenizer.pretrained(tiny)


@pytest.fixture(scope="session")
def backbones(tiny, tiny_t5) -> dict[type[Ranker], str]:
    """ranker -> the folder it is tested on"""
    return {kind: tiny_t5 if issubclass(kind.Encoder, EncoderDecoder) else tiny for kind in all_rankers().values()}


@pytest.fixture(params=cases())
def ranker(request, backbones) -> Ranker:
    kind, options = request.param
    return make_ranker(kind, backbones[kind], Tokenizer.pretrained(backbones[kind]), **options)


@pytest.fixture
def texts():
    """Draw texts of given lengths as bare ids."""
    draw = random.Random(11)

    def make(*lengths: int) -> list[list[int]]:
        return [[draw.randrange(4, 4 + len(WORDS)) for _ in range(length)] for length in lengths]

    return make


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> str:
    """Three splits of 23 examples with 4 candidates."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "valid", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return str(folder)


@pytest.fixture
def options(backbones, data, tmp_path):
    """What every command here is given."""
    return {
        "task": "poly_agents:jsonl",
        "jsonl_path": data,
        "backbone": {name: backbones[kind] for name, kind in all_rankers().items()},
        "precision": "float32",
        "model_file": str(tmp_path / "model"),
        "text_truncate": 31,
        "label_truncate": 13,
        "batchsize": 5,
        "poly_codes": 5,
    }


class TrainedModels(dict):
    """name -> model file of a ranker. It is trained for two steps when it is first asked for."""

    def __init__(self, train: Callable[[str], str]):
        super().__init__()
        self.train = train

    def __missing__(self, name: str) -> str:
        self[name] = self.train(name)
        return self[name]


@pytest.fixture(scope="session")
def trained(backbones, data, tmp_path_factory) -> TrainedModels:
    def train(name: str) -> str:
        path = str(tmp_path_factory.mktemp(name) / "model")
        TrainModel.main(
            model=f"poly_agents/{name}",
            task="poly_agents:jsonl",
            jsonl_path=data,
            backbone=backbones[all_rankers()[name]],
            precision="float32",
            model_file=path,
            text_truncate=31,
            label_truncate=13,
            batchsize=5,
            max_train_steps=2,
            short_final_eval=True,
            validation_max_exs=5,
        )
        return path

    return TrainedModels(train)


@pytest.fixture
def pool_file(tmp_path) -> str:
    path = tmp_path / "pool.txt"
    path.write_text("\n".join(text(i) for i in range(29)) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def made_by_parlai(data, tmp_path_factory):
    """Make a model with ParlAI: (agent, options) -> model file."""
    made = {}

    def once(agent: str, options: dict) -> str:
        key = agent, json.dumps(options)
        if key not in made:
            made[key] = parlai_made.make(agent, options, str(tmp_path_factory.mktemp(agent) / "model"), data)
        return made[key]

    return once
