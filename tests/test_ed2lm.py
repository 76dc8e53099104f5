"""ED2LM: equal to transformers' own encoder-decoder and to loops written from the definitions."""

import json
import math
import shutil

import pytest
import torch
from parlai.core.agents import create_agent_from_model_file
from parlai.scripts.eval_model import EvalModel
from parlai.scripts.train_model import TrainModel
from torch.testing import assert_close
from transformers import AutoModelForSeq2SeqLM

from poly_agents.encoders import states
from poly_agents.encoders.encoder_decoder import EncoderDecoder
from poly_agents.files import checkpoint
from poly_agents.models import building
from poly_agents.rankers.ed2lm import Ed2lmOptions, Ed2lmRanker, Reading, complement, loss
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.tokens import pad
from tests.agents import ROWS
from tests.encoders import WORDS, make_encoder, make_encoder_decoder
from tests.rankers import make_ranker

CLOSE = {"atol": 1e-4, "rtol": 1e-5}  # transformers in float32 is itself 1.5e-5 from float64 on these weights
START, END, TRUE, FALSE = 0, 1, 3, 4 + len(WORDS)
MODELS = {  # transformers 5 never scales mT5's logits and always UMT5's, so each is compared where both agree
    "gated": {},
    "gated-untied": {"tied": False},
    "relu": {"feed_forward_proj": "relu"},
    "relu-untied": {"feed_forward_proj": "relu", "tied": False},
    "deep-decoder": {"num_decoder_layers": 3},
    "mt5": {"family": "mt5", "tied": False},
    "umt5": {"family": "umt5"},
}
HEADER = {"agent": "ed2lm", "options": {}, "text_truncate": 9, "label_truncate": 8}


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory) -> str:
    return make_encoder_decoder(tmp_path_factory.mktemp(request.param), **MODELS[request.param])


@pytest.fixture(params=["candidate", "context"])
def make(request):
    """Build a ranker of either orientation."""

    def build(folder: str, **options) -> Ed2lmRanker:
        return make_ranker(Ed2lmRanker, folder, Tokenizer.pretrained(folder), ed2lm_encode=request.param, **options)

    return build


def reference(folder: str, encoded: list[int], decoded: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """log p of each decoded token [T], and of the whole vocabulary after them [V], one text at a time."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    logits = model(
        input_ids=torch.tensor([[*encoded, END]]), decoder_input_ids=torch.tensor([[START, *decoded]])
    ).logits[0]
    log_p = logits.log_softmax(-1)
    return log_p[:-1].gather(-1, torch.tensor(decoded, dtype=torch.long).unsqueeze(-1)).squeeze(-1), log_p[-1]


def in_turn(ranker: Ed2lmRanker, context: list[int], candidate: list[int]) -> tuple[list[int], list[int]]:
    """What is encoded, what is decoded."""
    return (candidate, context) if ranker.options.ed2lm_encode == "candidate" else (context, candidate)


@torch.no_grad()
@pytest.mark.parametrize("score", ["true", "text"])
def test_scores_equal_those_of_transformers(folder, make, texts, score):
    ranker = make(folder, ed2lm_score=score)
    contexts, candidates = texts(23, 150, 1), texts(5, 1, 37, 12)
    expected = torch.empty(3, 4)
    for row, context in enumerate(contexts):
        for column, candidate in enumerate(candidates):
            tokens, after = reference(folder, *in_turn(ranker, context, candidate))
            expected[row, column] = after[TRUE] - after[FALSE] if score == "true" else tokens.mean()
    assert_close(ranker(pad(contexts), pad(candidates)), expected, **CLOSE)


@pytest.mark.parametrize("score", ["true", "text"])
def test_the_loss_equals_a_loop_over_its_definition(folder, make, texts, score):
    ranker = make(folder, ed2lm_score=score, ed2lm_text_weight=0.7, ed2lm_true_weight=1.3, ed2lm_rank_weight=0.4)
    contexts, candidates = texts(9, 4), texts(5, 1, 7)
    index, labels = torch.tensor([[2, 0, 1], [1, 0, -1]]), torch.tensor([1, 0])
    learnt = ranker.training_loss(pad(contexts), ranker.encode(pad(candidates)), index, labels)
    for row, context in enumerate(contexts):
        scores, negatives = [], []
        for column, number in enumerate(index[row].tolist()):
            if number < 0:
                continue
            tokens, after = reference(folder, *in_turn(ranker, context, candidates[number]))
            scores.append(after[TRUE] - after[FALSE] if score == "true" else tokens.mean())
            if column == labels[row]:
                positive = -0.7 * tokens.mean() - 1.3 * after[TRUE]
            else:
                negatives.append(-0.7 * (1 - tokens.exp()).log().mean() - 1.3 * after[FALSE])
        rank = -torch.stack(scores).log_softmax(-1)[labels[row]]
        assert_close(learnt.scores[row, : len(scores)], torch.stack(scores), **CLOSE)
        expected = positive + sum(negatives) / len(negatives) + 0.4 * rank
        assert_close(learnt.loss[row], expected, **CLOSE)
    assert learnt.scores[1, 2] == -torch.inf
    learnt.loss.sum().backward()
    assert all(p.grad.isfinite().all() for p in ranker.parameters())


def test_the_losses_of_a_case_worked_by_hand():
    # The decoder is certain of the vocabulary's halves: each token of the text has p = 1/2, true 1/4, false 1/8.
    half, quarter, eighth = (math.log(p) for p in (1 / 2, 1 / 4, 1 / 8))
    log_p = torch.full((1, 3), half)
    assert_close(complement(log_p), log_p)
    reading = Reading(log_p - log_p, torch.full((1, 3), quarter), torch.full((1, 3), eighth), log_p, complement(log_p))
    # label 1: ln 2 + 2 ln 4 = 5 ln 2; each of the others ln 2 + 2 ln 8 = 7 ln 2
    for present in ([True, True, True], [True, True, False]):
        found = loss(reading, torch.tensor([1]), torch.tensor([present]), text_weight=1.0, true_weight=2.0)
        assert_close(found, torch.tensor([12 * math.log(2)]))
    alone = loss(reading, torch.tensor([1]), torch.tensor([[False, True, False]]), text_weight=1.0, true_weight=2.0)
    assert_close(alone, torch.tensor([5 * math.log(2)]))


def test_a_token_that_is_certain_costs_no_infinite_unlikelihood():
    log_p = torch.tensor([0.0, -1e-9, math.log(0.9)], requires_grad=True)
    complement(log_p).sum().backward()
    assert_close(complement(log_p).exp(), torch.tensor([1e-6, 1e-6, 0.1]))
    assert log_p.grad.isfinite().all()


def test_without_a_weight_for_the_text_its_vocabulary_is_not_looked_at(make, tiny_t5, texts, monkeypatch):
    ranker = make(tiny_t5, ed2lm_text_weight=0.0)
    seen, log_p = [], ranker.context_encoder.log_p
    monkeypatch.setattr(
        ranker.context_encoder, "log_p", lambda hidden, ids: seen.append(len(ids)) or log_p(hidden, ids)
    )
    ranker.training_loss(pad(texts(9, 4)), ranker.encode(pad(texts(5, 1, 7))), None, torch.tensor([0, 2]))
    assert sum(seen) == 6  # the last token of each pair


@torch.no_grad()
def test_what_the_decoder_reads_of_an_encoded_text_is_computed_once(make, tiny_t5, texts):
    ranker = make(tiny_t5)
    rows = []
    for block in ranker.context_encoder.model.decoder.block:
        block.layer[1].EncDecAttention.k.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    ranker(pad(texts(9, 4, 11, 2, 6)), pad(texts(5, 1, 7)))
    assert rows == [3, 3] if ranker.encodes_candidates else [5, 5]


@torch.no_grad()
def test_small_slices_give_the_same_scores_and_losses(make, tiny_t5, texts, monkeypatch):
    ranker = make(tiny_t5)
    contexts, candidates, labels = pad(texts(9, 4, 31, 2)), texts(5, 1, 7, 12, 3), torch.tensor([1, 0, 0, 1])
    for index in (None, torch.tensor([[2, 0, -1], [1, 4, 3], [3, 0, 1], [1, 4, -1]])):
        whole = ranker.training_loss(contexts, ranker.encode(pad(candidates)), index, labels)
        with monkeypatch.context() as small:
            small.setitem(states.TOKEN_BUDGET, "cpu", 17)
            small.setattr("poly_agents.encoders.encoder_decoder.LOGITS", 3 * 41)
            sliced = ranker.training_loss(contexts, ranker.encode(pad(candidates)), index, labels)
        assert_close(sliced.scores, whole.scores, **CLOSE)
        assert_close(sliced.loss, whole.loss, **CLOSE)


def test_dropout_acts_in_training_alone(make, tiny_t5, texts):
    ranker = make(tiny_t5, dropout=0.3)
    contexts, candidates = pad(texts(9, 4)), pad(texts(5, 1))
    assert_close(ranker(contexts, candidates), make(tiny_t5)(contexts, candidates), atol=0, rtol=0)
    encoder = ranker.context_encoder
    attentions = [m for m in encoder.modules() if hasattr(m, "has_relative_attention_bias")]
    assert len(attentions) == 6 and {m.dropout for m in attentions} == {0.3}
    ranker.train()
    assert not torch.equal(ranker(contexts, candidates), ranker(contexts, candidates))


@torch.no_grad()
def test_products_in_bfloat16_stay_near(make, tiny_t5, texts):
    contexts, candidates = pad(texts(9, 4)), pad(texts(5, 1, 8))
    exact, ranker = make(tiny_t5), make(tiny_t5)
    ranker.context_encoder.dtype = torch.bfloat16
    for lowered in (False, True):
        if lowered:
            ranker.lower_precision()
        assert_close(ranker(contexts, candidates), exact(contexts, candidates), atol=0.2, rtol=0.1)


# --- the backbone ---------------------------------------------------------------------------------------------------


def test_a_model_file_holds_each_weight_once_and_gives_its_backbone(folder, make, tmp_path, texts):
    ranker = make(folder)
    saved = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert sum(t.numel() for t in ranker.tensors().values()) == sum(p.numel() for p in saved.parameters())
    path = str(tmp_path / "model")
    checkpoint.write(path, HEADER | {"backbone": ranker.context_encoder.config}, ranker.tensors())
    other = building.pretrained_encoder(EncoderDecoder, path, torch.float32)
    assert other.model.config.answers == [TRUE, FALSE]
    ranker_from_file = Ed2lmRanker(ranker.options, ranker.frame, lambda: other).eval()
    contexts, candidates = pad(texts(9, 4)), pad(texts(5, 1, 8))
    assert_close(ranker_from_file(contexts, candidates), ranker(contexts, candidates), atol=0, rtol=0)


def test_freezing_the_embeddings_leaves_an_output_embedding_of_its_own(tmp_path):
    folder = make_encoder_decoder(tmp_path, tied=False)
    encoder = EncoderDecoder.downloaded(folder, torch.float32)
    encoder.freeze_embeddings()
    assert [name for name, p in encoder.named_parameters() if not p.requires_grad] == ["model.shared.weight"]


def test_any_length_and_fewer_layers(tiny_t5, texts):
    encoder = EncoderDecoder.downloaded(tiny_t5, torch.float32)
    assert encoder.width == 26 and encoder.positions > 10**5
    encoder.cut(1)
    assert len(encoder.layers) == 1 and len(encoder.model.decoder.block) == 2
    assert encoder(pad(texts(600))).shape == (1, 600, 26)
    again = EncoderDecoder.blank(encoder.config, torch.float32)
    assert len(again.layers) == 1 and len(again.model.decoder.block) == 2


def test_other_backbones_are_refused_with_what_to_give(tiny, tmp_path):
    for source in ("bert", "file"):
        if source == "file":
            checkpoint.write(str(tmp_path / "model"), HEADER | {"backbone": {"model_type": "bert"}}, {})
        path = tiny if source == "bert" else str(tmp_path / "model")
        with pytest.raises(ValueError, match=r"is a bert; this ranker needs .*t5, mt5, umt5; .*--backbone google/flan"):
            building.pretrained_encoder(EncoderDecoder, path, torch.float32)
    with pytest.raises(ValueError, match="float16: T5's states outgrow its range; give bfloat16"):
        Ed2lmOptions(precision="float16")


def test_a_vocabulary_without_true_and_false_is_refused(tiny_t5, tmp_path):
    shutil.copytree(tiny_t5, tmp_path / "t5")
    make_encoder(tmp_path / "bert", "bert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "bert" / name, tmp_path / "t5" / name)
    with pytest.raises(ValueError, match=r"both begin with '\[UNK\]' in the vocabulary of .*give a --backbone"):
        EncoderDecoder.downloaded(str(tmp_path / "t5"), torch.float32)


# --- encoded candidates -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_encoded_candidates_are_scored_without_the_encoder_s_layers(tiny_t5, texts, tmp_path):
    ranker = make_ranker(Ed2lmRanker, tiny_t5, Tokenizer.pretrained(tiny_t5))
    path = str(tmp_path / "model")
    checkpoint.write(path, {}, ranker.tensors())
    contexts, candidates = texts(9, 4), texts(5, 1, 8)
    encoded = ranker.encode_ids(candidates)
    expected = ranker.score_ids(contexts, encoded)
    ranker.release(path)
    assert all(p.is_meta for p in ranker.context_encoder.model.encoder.parameters())
    assert_close(ranker.score_ids(contexts, encoded), expected, atol=0, rtol=0)
    assert_close(ranker.encode_ids(candidates).vectors, encoded.vectors, atol=0, rtol=0)
    assert not any(p.is_meta for p in ranker.parameters())
    ranker.release(path)
    assert not any(t.is_meta for t in ranker.tensors().values())


@pytest.mark.parametrize("encode", ["candidate", "context"])
def test_an_agent_with_a_store_has_no_encoder_in_memory(tiny_t5, tmp_path, encode):
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    (tmp_path / "pool.txt").write_text("\n".join(row["response"] for row in ROWS), encoding="utf-8")
    task = {"task": "poly_agents:jsonl", "jsonl_path": str(tmp_path / "all.jsonl"), "loglevel": "error"}
    path = str(tmp_path / "model")
    TrainModel.main(
        model="poly_agents/ed2lm", backbone=tiny_t5, ed2lm_encode=encode, model_file=path, max_train_steps=2, **task
    )
    given = task | {"eval_candidates": "fixed", "fixed_candidates_path": str(tmp_path / "pool.txt")}
    reports = [EvalModel.main(model_file=path, **given) for _ in range(2)]  # the second reads the store of the first
    assert reports[0]["mrr"].value() == reports[1]["mrr"].value() > 0
    agent = create_agent_from_model_file(path, given | {"datatype": "valid"})
    encoder = agent.ranker_module.context_encoder.model.encoder
    assert {p.is_meta for p in encoder.parameters()} == {encode == "candidate"}
    agent.observe({"text": "hello hi", "episode_done": True})
    assert agent.act()["text"] in [row["response"] for row in ROWS]


@torch.no_grad()
def test_a_candidate_costs_its_tokens_times_the_width(tiny_t5, texts):
    ranker = make_ranker(Ed2lmRanker, tiny_t5, Tokenizer.pretrained(tiny_t5))
    assert states.nbytes(ranker.encode_ids(texts(5, 1, 8))) == 3 * 9 * (26 * 4 + 1)  # the longest: 8 tokens and the end
    ranker.context_encoder.dtype = torch.bfloat16
    assert states.nbytes(ranker.encode_ids(texts(5, 1, 8))) == 3 * 9 * (26 * 2 + 1)
