"""Models of ParlAI's own rankers, made and saved by ParlAI itself: the same scores, rankings and metrics here."""

import json
from pathlib import Path

import pytest
import torch
from parlai.core.agents import create_agent
from parlai.core.params import ParlaiParser
from parlai.scripts.train_model import TrainModel
from torch.testing import assert_close

import poly_agents
from poly_agents.candidates.search import Search, SearchOptions
from poly_agents.files import checkpoint
from poly_agents.models import opening
from poly_agents.text.tokens import pad
from tests.agents import evaluate, text
from tests.parlai_made import CANDIDATES, NAMES, PUBLISHED, TINY, scores, their_scores, wide
from tests.rankers import all_rankers, make_ranker

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
CONTEXTS = [
    ["hello"],
    ["hello , how are you ?", "fine thanks", "what is your name"],
    ["one two three four five six one two three", "four five six one two three four five six . unheard of"],
    ["Hello  SEARCH_MODES\nare you", "blue cat, red dog"],
]


@pytest.mark.parametrize(("agent", "options"), VARIANTS, ids=IDS)
def test_scores_and_rankings_are_those_of_parlai(made_by_parlai, agent, options):
    path = made_by_parlai(agent, options)
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


@pytest.mark.parametrize(
    ("agent", "options"), [*((agent, wide(agent)) for agent in NAMES), VARIANTS[PERSONS]], ids=[*NAMES, "persons"]
)
def test_metrics_are_those_of_parlai(made_by_parlai, data, agent, options):
    path = made_by_parlai(agent, options)
    expected = evaluate(path, data, eval_candidates="inline")
    found = evaluate(path, data, eval_candidates="inline", model=f"poly_agents/{agent}", precision="float32")
    for name in ("exs", "hits@1", "hits@5", "mrr"):
        assert float(found[name]) == pytest.approx(float(expected[name])), name
    assert 0 < float(found["hits@1"]) < 1


@pytest.fixture(scope="session")
def trained_there(data, tmp_path_factory) -> str:
    """A poly-encoder that ParlAI has trained for some steps: its file also holds an optimiser and a scheduler."""
    path = str(tmp_path_factory.mktemp("trained_there") / "model")
    task = {"task": "poly_agents:jsonl", "jsonl_path": data, "batchsize": 4, "model_file": path}
    steps = {"max_train_steps": 6, "learningrate": 1e-2, "validation_every_n_secs": 0.01, "validation_max_exs": 4}
    options = TINY | wide("poly") | {"candidates": "batch", "eval_candidates": "inline"}
    TrainModel.main(model="transformer/polyencoder", **task, **options, **steps)
    return path


def test_a_model_that_parlai_trained_evaluates_the_same(trained_there, data):
    expected = evaluate(trained_there, data, eval_candidates="inline")
    found = evaluate(trained_there, data, eval_candidates="inline", model="poly_agents/poly", precision="float32")
    assert float(found["mrr"]) == pytest.approx(float(expected["mrr"]))
    assert_close(
        scores(trained_there),
        their_scores(trained_there, ["hello", "how are you"], CANDIDATES),
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize("agent", NAMES)
def test_training_goes_on_from_a_model_of_parlai(made_by_parlai, data, tmp_path, agent):
    path, new = made_by_parlai(agent, wide(agent)), str(tmp_path / "model")
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


def test_a_model_of_parlai_is_never_trained_in_place(made_by_parlai, data):
    with pytest.raises(ValueError, match="stays as it is; to train on, give --init-model"):
        TrainModel.main(
            model="poly_agents/bi",
            model_file=made_by_parlai("bi", {}),
            task="poly_agents:jsonl",
            jsonl_path=data,
            max_train_steps=1,
        )


@pytest.mark.parametrize("how", ["model_file", "init_model"])
def test_another_agent_than_the_file_s_is_refused_by_name(made_by_parlai, data, how):
    given = {"model": "poly_agents/bi", "task": "poly_agents:jsonl", "jsonl_path": data, "datatype": "valid"}
    opt = ParlaiParser(True, True).parse_kwargs(**given, **{how: made_by_parlai("poly", {"poly_n_codes": 1})})
    with pytest.raises(ValueError, match="is a transformer/polyencoder of ParlAI: give -m poly_agents/poly"):
        create_agent(opt)


@pytest.mark.parametrize("agent", NAMES)
def test_a_converted_model_is_ours_and_scores_the_same(made_by_parlai, tmp_path, agent):
    from parlai.scripts.poly_convert import PolyConvert

    path, out = made_by_parlai(agent, wide(agent)), str(tmp_path / "ours" / "model")
    PolyConvert.main(model_file=path, out=out)
    assert_close(scores(out), scores(path), atol=0, rtol=0)
    assert sorted(file.name for file in Path(out).parent.iterdir()) == ["model", "model.dict", "model.opt"]
    assert json.loads(Path(f"{out}.opt").read_text())["model"] == f"poly_agents/{agent}"
    assert checkpoint.read_header(out)["options"]["precision"] == "auto"
    with pytest.raises(ValueError, match="there is a file already"):
        PolyConvert.main(model_file=path, out=path)


@pytest.mark.parametrize("name", ["mix", "late", "early", "uni", "bi"])
def test_other_rankers_run_on_an_encoder_of_parlai(made_by_parlai, name):
    path = made_by_parlai("cross", wide("cross"))
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
def test_a_store_is_searched_by_any_attention(made_by_parlai, tmp_path, attention, search):
    options = {"variant": "xlm", "poly_attention_type": attention, "poly_n_codes": 5}
    model = poly_agents.load(made_by_parlai("poly", options), "float32")
    pool = [text(number) for number in range(200)]
    within = Search(model.index(tmp_path / "store", pool, progress=False), SearchOptions(search=search))
    found = model.search("hello\nhow are you", within, 7)
    expected = model.rank("hello\nhow are you", pool, 7)
    assert_close([each.score for each in found], [each.score for each in expected], atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["xlm", "aiayn", "prelayernorm"])
def test_the_fast_path_and_the_fused_attention_give_the_same_states(made_by_parlai, variant, monkeypatch):
    path = made_by_parlai("bi", {"variant": variant, "share_encoders": False, "output_scaling": 0.7})
    ours = poly_agents.load(path, "float32").ranker
    tokens = ours.frame.wrap(pad([[5, 6, 7, 8], [9], [5, 5, 5, 5, 5, 5]]))
    encoder = ours.context_encoder
    assert (encoder.packed_now(tokens) is not None) == (variant != "prelayernorm")
    plain = encoder._run(encoder.model, tokens).last_hidden_state
    assert_close(encoder(tokens)[tokens.mask], plain[tokens.mask], atol=1e-5, rtol=1e-5)
    monkeypatch.setattr("poly_agents.encoders.backbone.attention", lambda: "sdpa")
    fused = poly_agents.load(path, "float32").ranker.context_encoder
    assert_close(
        fused._run(fused.model, tokens).last_hidden_state[tokens.mask], plain[tokens.mask], atol=1e-5, rtol=1e-5
    )
    half = poly_agents.load(path, "bfloat16").ranker.context_encoder(tokens)
    assert torch.cosine_similarity(half[tokens.mask], plain[tokens.mask]).min() > 0.995
