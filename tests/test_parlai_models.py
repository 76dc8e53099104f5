"""Models of ParlAI's own rankers, made and saved by ParlAI itself: the same scores, rankings and metrics here."""

import json
import os
import random
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from parlai.core.agents import create_agent, create_agent_from_model_file
from parlai.core.dict import DictionaryAgent
from parlai.core.message import Message
from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser
from parlai.scripts.train_model import TrainModel
from parlai.utils import logging
from tokenizers import ByteLevelBPETokenizer
from torch.testing import assert_close

import poly_agents
from poly_agents.candidates.search import Search, SearchOptions
from poly_agents.files import checkpoint
from poly_agents.models import opening
from poly_agents.text.tokens import pad
from tests.agents import evaluate, text
from tests.parlai_made import NAMES, PUBLISHED, TINY, make
from tests.rankers import all_rankers, make_ranker

logging.set_log_level(logging.ERROR)
VARIANTS = [
    ("bi", {}),
    ("bi", {"variant": "xlm", "share_encoders": False, "reduction_type": "first", "n_segments": 1}),
    ("bi", {"variant": "prelayernorm", "activation": "gelu", "share_encoders": False, "reduction_type": "max"}),
    ("bi", {"variant": "bart", "output_scaling": 0.3, "embeddings_scale": False, "n_encoder_layers": 1}),
    ("bi", PUBLISHED),
    ("poly", {"poly_n_codes": 1}),
    ("poly", {"variant": "xlm", "poly_attention_type": "sqrt", "codes_attention_type": "sqrt", "poly_n_codes": 5}),
    ("poly", {"poly_attention_type": "multihead", "codes_attention_type": "multihead", "poly_n_codes": 5}),
    ("poly", {"polyencoder_type": "n_first", "poly_n_codes": 6, "learn_positional_embeddings": True}),
    ("poly", {"polyencoder_type": "n_first", "poly_n_codes": 6, "poly_attention_type": "multihead"}),
    ("poly", {"variant": "prelayernorm", "output_scaling": 0.5, "reduction_type": "first", "dict_tokenizer": "split"}),
    ("poly", {"person_tokens": True, "dict_lower": True}),
    ("poly", PUBLISHED | {"polyencoder_type": "codes", "poly_n_codes": 64}),
    ("cross", {"reduction_type": "first"}),
    ("cross", {"variant": "xlm", "activation": "gelu", "reduction_type": "mean", "dict_tokenizer": "space"}),
    ("cross", {"variant": "prelayernorm", "reduction_type": "max"}),
    ("cross", PUBLISHED | {"reduction_type": "first"}),
]
PERSONS = next(number for number, (_, options) in enumerate(VARIANTS) if "person_tokens" in options)
IDS = [f"{number}-{agent}" for number, (agent, _) in enumerate(VARIANTS)]


@pytest.fixture(scope="session")
def theirs(data, tmp_path_factory):
    """Make a model with ParlAI: (agent, options) -> model file."""
    made = {}

    def once(agent: str, options: dict) -> str:
        key = agent, json.dumps(options)
        if key not in made:
            made[key] = make(agent, options, str(tmp_path_factory.mktemp(agent) / "model"), data)
        return made[key]

    return once


def their_scores(path: str, context: list[str], candidates: list[str]) -> torch.Tensor:
    """One context, one candidate at a time: ParlAI's own numbers depend on padding with some options."""
    agent = create_agent_from_model_file(path, {"datatype": "valid"})
    agent.model.eval()
    found = []
    for candidate in candidates:
        agent.reset()
        for turn in context[:-1]:
            agent.history.update_history(Message(text=turn))
        observed = agent.observe(
            Message(text=context[-1], label_candidates=[candidate], eval_labels=[candidate], episode_done=True)
        )
        batch = agent.batchify([observed])
        with torch.no_grad():
            vectors = batch.candidate_vecs[0][0].view(1, 1, -1)
            found.append(agent.score_candidates(batch, vectors).view(-1))
    return torch.cat(found)


CONTEXTS = [
    ["hello"],
    ["hello , how are you ?", "fine thanks", "what is your name"],
    ["one two three four five six one two three", "four five six one two three four five six . unheard of"],
    ["Hello  SEARCH_MODES\nare you", "blue cat, red dog"],
]
CANDIDATES = [
    "fine",
    "my cat is blue",
    "one two three four five",
    "one two three four five six",
    "a b c d e f g h i",
]


@pytest.mark.parametrize(("agent", "options"), VARIANTS, ids=IDS)
def test_scores_and_rankings_are_those_of_parlai(theirs, agent, options):
    path = theirs(agent, options)
    ours = poly_agents.load(path, "float32")
    for context in CONTEXTS:
        if options.get("dict_tokenizer") == "space":
            context = [turn.replace("\n", " ") for turn in context]  # for `space` a newline parts no words, only turns
        expected = their_scores(path, context, CANDIDATES)
        if options.get("person_tokens"):
            context = [f"__p1__ {turn}" for turn in context]
        found = {ranked.text: ranked.score for ranked in ours.rank("\n".join(context), CANDIDATES)}
        scores = torch.tensor([found[text] for text in CANDIDATES])
        assert_close(scores, expected, atol=1e-5, rtol=1e-4)
        assert scores.argsort().tolist() == expected.argsort().tolist()
        assert expected.std() > 1e-3


def wide(agent: str) -> dict:
    """Options under which ParlAI's own scores do not depend on padding."""
    return PUBLISHED | {"reduction_type": "first" if agent == "cross" else "mean"}


@pytest.mark.parametrize(
    ("agent", "options"), [*((agent, wide(agent)) for agent in NAMES), VARIANTS[PERSONS]], ids=[*NAMES, "persons"]
)
def test_metrics_are_those_of_parlai(theirs, data, agent, options):
    path = theirs(agent, options)
    expected = evaluate(path, data, eval_candidates="inline")
    found = evaluate(path, data, eval_candidates="inline", model=f"poly_agents/{agent}", precision="float32")
    for name in ("exs", "hits@1", "hits@5", "mrr"):
        assert float(found[name]) == pytest.approx(float(expected[name])), name
    assert 0 < float(found["hits@1"]) < 1


@pytest.fixture(scope="session")
def learnt(data, tmp_path_factory) -> str:
    """A poly-encoder that ParlAI has trained for some steps: its file also holds an optimiser and a scheduler."""
    path = str(tmp_path_factory.mktemp("learnt") / "model")
    task = {"task": "poly_agents:jsonl", "jsonl_path": data, "batchsize": 4, "model_file": path}
    steps = {"max_train_steps": 6, "learningrate": 1e-2, "validation_every_n_secs": 0.01, "validation_max_exs": 4}
    options = TINY | wide("poly") | {"candidates": "batch", "eval_candidates": "inline"}
    TrainModel.main(model="transformer/polyencoder", **task, **options, **steps)
    return path


def scores(path: str) -> torch.Tensor:
    model = poly_agents.load(path, "float32")
    found = {ranked.text: ranked.score for ranked in model.rank("hello\nhow are you", CANDIDATES)}
    return torch.tensor([found[text] for text in CANDIDATES])


def test_a_model_that_parlai_trained_evaluates_the_same(learnt, data):
    expected = evaluate(learnt, data, eval_candidates="inline")
    found = evaluate(learnt, data, eval_candidates="inline", model="poly_agents/poly", precision="float32")
    assert float(found["mrr"]) == pytest.approx(float(expected["mrr"]))
    assert_close(scores(learnt), their_scores(learnt, ["hello", "how are you"], CANDIDATES), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("agent", NAMES)
def test_training_goes_on_from_a_model_of_parlai(theirs, data, tmp_path, agent):
    path, new = theirs(agent, wide(agent)), str(tmp_path / "model")
    before = {file.name: file.read_bytes() for file in Path(path).parent.glob("model*")}
    task = {"task": "poly_agents:jsonl", "jsonl_path": data, "batchsize": 5, "precision": "float32"}
    how = {"init_model": path, "model_file": new, "candidates": "batch", "negatives": 0, "eval_candidates": "inline"}
    TrainModel.main(model=f"poly_agents/{agent}", max_train_steps=3, learningrate=1e-3, **task, **how)
    assert {file.name: file.read_bytes() for file in Path(path).parent.glob("model*")} == before
    header = checkpoint.read_header(new)
    assert (header["agent"], header["text_truncate"], header["label_truncate"]) == (agent, 17, 7)
    assert 1e-6 < (scores(new) - scores(path)).abs().max() < 0.1
    report = evaluate(new, data, eval_candidates="inline")  # ParlAI's options are not needed any more
    assert float(report["exs"]) == 23


def test_a_model_of_parlai_is_never_trained_in_place(theirs, data):
    with pytest.raises(ValueError, match="stays as it is; to train on, give --init-model"):
        TrainModel.main(
            model="poly_agents/bi",
            model_file=theirs("bi", {}),
            task="poly_agents:jsonl",
            jsonl_path=data,
            max_train_steps=1,
        )


@pytest.mark.parametrize("how", ["model_file", "init_model"])
def test_another_agent_than_the_file_s_is_refused_by_name(theirs, data, how):
    given = {"model": "poly_agents/bi", "task": "poly_agents:jsonl", "jsonl_path": data, "datatype": "valid"}
    opt = ParlaiParser(True, True).parse_kwargs(**given, **{how: theirs("poly", {"poly_n_codes": 1})})
    with pytest.raises(ValueError, match="is a transformer/polyencoder of ParlAI: give -m poly_agents/poly"):
        create_agent(opt)


@pytest.mark.parametrize("agent", NAMES)
def test_a_converted_model_is_ours_and_scores_the_same(theirs, tmp_path, agent):
    from parlai.scripts.poly_convert import PolyConvert

    path, out = theirs(agent, wide(agent)), str(tmp_path / "ours" / "model")
    PolyConvert.main(model_file=path, out=out)
    assert_close(scores(out), scores(path), atol=0, rtol=0)
    assert sorted(file.name for file in Path(out).parent.iterdir()) == ["model", "model.dict", "model.opt"]
    assert json.loads(Path(f"{out}.opt").read_text())["model"] == f"poly_agents/{agent}"
    assert checkpoint.read_header(out)["options"]["precision"] == "auto"
    with pytest.raises(ValueError, match="there is a file already"):
        PolyConvert.main(model_file=path, out=path)


# --- the file -------------------------------------------------------------------------------------------------------


def copied(path: str, folder: Path) -> str:
    for end in ("", ".opt", ".dict", ".dict.codecs"):
        if os.path.exists(f"{path}{end}"):
            shutil.copy(f"{path}{end}", folder / f"model{end}")
    return str(folder / "model")


@pytest.fixture
def copy(theirs, tmp_path) -> str:
    return copied(theirs("poly", wide("poly")), tmp_path)


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


# --- wherever a model file is taken ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mix", "late", "early", "uni", "bi"])
def test_other_rankers_run_on_an_encoder_of_parlai(theirs, name):
    path = theirs("cross", wide("cross"))
    kind = all_rankers()[name]
    ranker = make_ranker(kind, path, opening.pretrained_tokenizer(path))
    contexts, candidates = (pad([[5, 6, 7], [8]]), pad([[9], [5, 8, 9, 7]]))
    with torch.no_grad():
        expected = ranker(contexts, candidates)
    found = ranker.train()(contexts, candidates)
    assert_close(found, expected, atol=1e-5, rtol=1e-4)
    found.sum().backward()
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in ranker.context_encoder.layers.parameters()]
    assert sum(reached) > len(reached) / 2


@pytest.mark.parametrize("attention", ["sqrt", "multihead"])
@pytest.mark.parametrize("search", ["exact", "certified"])
def test_a_store_is_searched_by_any_attention(theirs, tmp_path, attention, search):
    options = {"variant": "xlm", "poly_attention_type": attention, "poly_n_codes": 5}
    model = poly_agents.load(theirs("poly", options), "float32")
    pool = [text(number) for number in range(200)]
    within = Search(model.index(tmp_path / "store", pool, progress=False), SearchOptions(search=search))
    found = model.search("hello\nhow are you", within, 7)
    expected = model.rank("hello\nhow are you", pool, 7)
    assert_close([each.score for each in found], [each.score for each in expected], atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["xlm", "aiayn", "prelayernorm"])
def test_the_fast_path_and_the_fused_attention_give_the_same_states(theirs, variant, monkeypatch):
    path = theirs("bi", {"variant": variant, "share_encoders": False, "output_scaling": 0.7})
    ours = poly_agents.load(path, "float32").ranker
    tokens = ours.frame.wrap(pad([[5, 6, 7, 8], [9], [5, 5, 5, 5, 5, 5]]))
    encoder = ours.context_encoder
    assert (encoder._packed_now(tokens) is not None) == (variant != "prelayernorm")
    plain = encoder._run(encoder.model, tokens).last_hidden_state
    assert_close(encoder(tokens)[tokens.mask], plain[tokens.mask], atol=1e-5, rtol=1e-5)
    monkeypatch.setattr("poly_agents.encoders.backbone.attention", lambda: "sdpa")
    fused = poly_agents.load(path, "float32").ranker.context_encoder
    assert_close(
        fused._run(fused.model, tokens).last_hidden_state[tokens.mask], plain[tokens.mask], atol=1e-5, rtol=1e-5
    )
    half = poly_agents.load(path, "bfloat16").ranker.context_encoder(tokens)
    assert torch.cosine_similarity(half[tokens.mask], plain[tokens.mask]).min() > 0.995


# --- dictionaries ---------------------------------------------------------------------------------------------------

ODD = [
    *("", " ", "   ", "\n", "\n\n", " \n \n", "a\nb", "a \n\n b\n", "ab  cd   ef", "\r\n x\r y", "x" * 500),
    *("ΑΣ ΟΔΟΣ İstanbul STRASSE ẞ ﬁ", "漢字かな交じり文。日本語", "😀😀 👩‍👩‍👧 🇩🇪", "１２３ ½ ² Ⅷ ١٢٣", "ab" * 20),
    *(
        "x̂ é \u200b\u200d \xa0\u2028\u2029 \x1c\x1d\x85 \t tab",
        "ก็ ไทย नमस्ते עִבְרִית العَرَبِيَّة",
        "foo_bar-baz don't I'LL we've",
    ),
    "3.14,5;6:7!8? @@ @@@ </w> lo</w> __newln__",
]
DICTIONARIES = [
    ("re", {}),
    ("re", {"dict_lower": True, "dict_maxtokens": 500}),
    ("split", {"dict_lower": True}),
    ("space", {}),
    ("bpe", {"dict_lower": True, "dict_maxtokens": 800, "dict_endtoken": "__start__"}),
    ("bpe", {"dict_maxtokens": 300}),
    ("bytelevelbpe", {}),
    ("bytelevelbpe", {"bpe_add_prefix_space": False}),
    ("slow_bytelevel_bpe", {}),
    ("gpt2", {"bpe_add_prefix_space": True}),
]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """Real messages, odd texts, and random characters."""
    from chitchat_dataset import MessageDataset

    draw, planes = random.Random(1), [(32, 127), (128, 8192), (0x3000, 0xD000), (0x1F300, 0x1FA00), (10, 11), (32, 33)]
    noise = (
        "".join(chr(draw.randrange(*draw.choice(planes))) for _ in range(draw.randrange(1, 60))) for _ in range(300)
    )
    return [*map(str, islice(MessageDataset(), 3000)), *ODD, *noise]


@pytest.fixture(scope="module")
def merges(lines, tmp_path_factory) -> Path:
    """GPT-2's two files in small, where ParlAI looks for them."""
    folder = tmp_path_factory.mktemp("data") / "gpt2"
    folder.mkdir()
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(lines[:1000], vocab_size=900, show_progress=False)
    vocabulary, merges = trained.save_model(str(folder))
    os.rename(vocabulary, folder / "encoder.json")
    os.rename(merges, folder / "vocab.bpe")
    return folder


@pytest.mark.parametrize(("kind", "options"), DICTIONARIES)
def test_ids_are_those_of_parlai(lines, merges, tmp_path, kind, options):
    path = str(tmp_path / "model.dict")
    opt = {"model": "transformer/biencoder", "dict_file": path, "dict_tokenizer": kind} | options
    files = {"bpe_vocab": str(merges / "encoder.json"), "bpe_merge": str(merges / "vocab.bpe")}
    given = opt | {"datapath": str(merges.parent)} | files
    first = DictionaryAgent(Opt(given))
    if kind in ("re", "split", "space", "bpe"):
        for line in lines[:1000]:
            first.add_to_dict(first.tokenize(line))
    first.save(path, sort=kind in ("re", "split", "space", "bpe"))
    Path(f"{path.removesuffix('.dict')}.opt").write_text(json.dumps(opt))
    if kind in ("gpt2", "slow_bytelevel_bpe"):
        shutil.copy(merges / "encoder.json", f"{path}-vocab.json")
        shutil.copy(merges / "vocab.bpe", f"{path}-merges.txt")
    theirs, ours = DictionaryAgent(Opt(given)), opening.read_tokenizer(path)
    expected = [theirs.txt2vec(line) for line in lines]
    assert ours.ids_of(lines) == expected
    assert ours.ids("\n") == list(ours.steps.turn_ids) == theirs.txt2vec("\n")
    ours.save(str(tmp_path / "ours.dict"))
    again = opening.read_tokenizer(str(tmp_path / "ours.dict"))
    assert (again.ids_of(lines), again.frame, again.identity) == (expected, ours.frame, ours.identity)


def test_the_turns_of_a_context_are_parted_as_in_parlai(theirs):
    path = theirs("bi", {"dict_tokenizer": "space"} | TINY)
    agent = create_agent_from_model_file(path, {"datatype": "valid"})
    for turn in ("hello hi", "how are you", "fine"):
        agent.history.update_history(Message(text=turn))
    assert opening.read_tokenizer(f"{path}.dict").context_ids_of(["hello hi\nhow are you\nfine"]) == [
        agent.history.get_history_vec()
    ]
