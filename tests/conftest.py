"""Tiny random encoders of every family, and every ranker there is, found by walking the package."""

import json
import os
import random
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("POLY_AGENTS_TIMEOUT", "120")  # distributed runs; the time limit of a test is longer

import pytest
import torch
from parlai.core.agents import create_agent
from parlai.core.message import Message
from parlai.scripts.eval_model import EvalModel
from parlai.scripts.train_model import TrainModel
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast
from transformers import logging as transformers_logging

from poly_agents import rankers
from poly_agents.agents.ranker_agent import RankerAgent
from poly_agents.encoders.encoder_decoder import EncoderDecoder
from poly_agents.models import building
from poly_agents.scoring.ranker import Ranker
from poly_agents.text.tokenizer import Tokenizer
from tests.limits import pytest_timeout_cancel_timer, pytest_timeout_set_timer  # noqa: F401  hooks of pytest-timeout

transformers_logging.set_verbosity_error()
WORDS = "hello hi how are you fine thanks what is your name my cat dog blue red one two three four five six".split()

# family -> (start, separator, what stands between two texts, segment of the second text, configuration)
SMALL = {"vocab_size": 41, "hidden_size": 26, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 37}
FAMILIES = {
    "bert": ("[CLS]", "[SEP]", "[SEP]", 1, SMALL | {"max_position_embeddings": 97}),
    "electra": ("[CLS]", "[SEP]", "[SEP]", 1, SMALL | {"embedding_size": 19, "max_position_embeddings": 97}),
    "roberta": ("<s>", "</s>", "</s> </s>", 0, SMALL | {"type_vocab_size": 1, "max_position_embeddings": 99}),
    "mpnet": ("<s>", "</s>", "</s> </s>", 0, SMALL | {"max_position_embeddings": 99}),
    "distilbert": (
        "[CLS]",
        "[SEP]",
        "[SEP]",
        1,
        {"vocab_size": 41, "dim": 26, "n_layers": 2, "n_heads": 2, "hidden_dim": 37, "max_position_embeddings": 97},
    ),
    "modernbert": (
        "[CLS]",
        "[SEP]",
        "[SEP]",
        0,
        SMALL | {"hidden_size": 28, "max_position_embeddings": 97, "global_attn_every_n_layers": 2},
    ),
}


def make_encoder(folder: Path, family: str, **changes) -> str:
    """Write a tiny random encoder with its tokeniser as a HuggingFace folder."""
    start, separator, between, segment, config = FAMILIES[family]
    pad = "[PAD]" if start == "[CLS]" else "<pad>"
    special = [start, pad, separator, "[UNK]"] if start == "<s>" else [pad, "[UNK]", start, separator]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    backend = Backend(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    ids = [(token, vocabulary[token]) for token in (start, separator)]
    middle = " ".join(f"{token}:0" for token in between.split())
    backend.post_processor = TemplateProcessing(
        single=f"{start}:0 $A:0 {separator}:0",
        pair=f"{start}:0 $A:0 {middle} $B:{segment} {separator}:{segment}",
        special_tokens=ids,
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token=pad,
        cls_token=start,
        sep_token=separator,
        model_input_names=["input_ids", *["token_type_ids"] * (family in ("bert", "electra")), "attention_mask"],
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    config = AutoConfig.for_model(family, **config | {"pad_token_id": vocabulary[pad]} | changes)
    model = AutoModel.from_config(config)
    for name, parameter in model.named_parameters():
        if "orm" not in name and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return str(folder)


SMALL_T5 = {"vocab_size": 41, "d_model": 26, "d_kv": 7, "num_heads": 3, "d_ff": 37, "num_layers": 2}


def make_encoder_decoder(folder: Path, family: str = "t5", tied: bool = True, **changes) -> str:
    """Write a tiny random encoder-decoder with its tokeniser as a HuggingFace folder."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", "true", *WORDS, "false"])}
    backend = Backend(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="$A:0 </s>:0", pair="$A:0 </s>:0 $B:0 </s>:0", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(3)
    config = {"feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0, "tie_word_embeddings": tied}
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(family, **SMALL_T5 | config | changes))
    if not tied:  # transformers 5 ties them whatever it is told
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    for name, parameter in model.named_parameters():
        if "orm" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return str(folder)


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


def all_rankers() -> dict[str, type[Ranker]]:
    """name -> class, of every ranker in the package: a new file is found by being there."""
    return {name: rankers.ranker_class(name) for name in rankers.names()}


VARIANTS = {
    "bi": [
        {},
        {"bi_cosine": False, "reduction": "first"},
        {"reduction": "first-m", "reduction_tokens": 3},
        {"reduction": "max", "bi_dense": 11},
    ],
    "poly": [{"poly_codes": 5}, *({"poly_codes": 5, "poly_views": v} for v in ("first", "last", "last-first"))],
    "cross": [{}, {"cross_head": "pooled"}, {"cross_head": "normed", "reduction": "mean"}],
    "mix": [
        {"mix_vectors": 3, "mix_layers": "1,2"},
        {"mix_strategy": "codes", "mix_vectors": 2, "mix_cosine": True},
    ],
    "early": [{"early_layer": 1}],
    "ed2lm": [{"ed2lm_encode": e, "ed2lm_score": s} for e in ("candidate", "context") for s in ("true", "text")],
}


def make_ranker(kind: type[Ranker], source: str, tokenizer: Tokenizer, **options) -> Ranker:
    torch.manual_seed(5)
    options = kind.Options(backbone=source, precision="float32", freeze_embeddings=False, **options)
    return building.start(rankers.agent_of(kind), options, source, tokenizer, "cpu").eval()


def cases() -> list:
    return [
        pytest.param((kind, options), id=f"{name}-{'-'.join(map(str, options.values())) or 'default'}")
        for name, kind in all_rankers().items()
        for options in VARIANTS.get(name, [{}])
    ]


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


# --- agents in ParlAI -----------------------------------------------------------------------------------------------


def text(number: int, length: int = 3) -> str:
    """A different short text for every number."""
    return " ".join(WORDS[(number // len(WORDS) ** place) % len(WORDS)] for place in range(length))


ROWS = [
    {
        "context": [text(i + 7, 4), text(3 * i, 2)],
        "response": text(i),
        "candidates": [text((i + k) % 23) for k in (5, 1, 0, 11)],
    }
    for i in range(23)
]


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


@pytest.fixture(scope="session")
def trained(backbones, data, tmp_path_factory):
    """name -> model file of every ranker, trained for two steps."""
    files = {}
    for name, kind in all_rankers().items():
        path = str(tmp_path_factory.mktemp(name) / "model")
        TrainModel.main(
            model=f"poly_agents/{name}",
            task="poly_agents:jsonl",
            jsonl_path=data,
            backbone=backbones[kind],
            precision="float32",
            model_file=path,
            text_truncate=31,
            label_truncate=13,
            batchsize=5,
            max_train_steps=2,
        )
        files[name] = path
    return files


@pytest.fixture
def pool_file(tmp_path) -> str:
    path = tmp_path / "pool.txt"
    path.write_text("\n".join(text(i) for i in range(29)) + "\n", encoding="utf-8")
    return str(path)


def settings(options: dict, name: str, **changes) -> dict:
    """Only the flags this agent knows."""
    found = options | {"model": f"poly_agents/{name}", "backbone": options["backbone"][name]} | changes
    if name != "poly":
        found.pop("poly_codes", None)
    return found


def make(options: dict, name: str, **changes) -> RankerAgent:
    from parlai.core.params import ParlaiParser

    return create_agent(ParlaiParser(True, True).parse_kwargs(**settings(options, name, **changes)))


def evaluate(path: str, data: str, **changes) -> dict:
    task = {"task": "poly_agents:jsonl", "jsonl_path": data, "datatype": "valid", "batchsize": 5}
    return EvalModel.main(model_file=path, **task | changes)


def example(context: str, label: str, candidates=None, training=True) -> Message:
    message = Message(text=context, episode_done=True)
    message["labels" if training else "eval_labels"] = [label]
    if candidates:
        message["label_candidates"] = candidates
    return message
