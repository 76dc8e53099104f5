"""Checkpoints of bi-encoders, written by sentence-transformers and scored by both libraries."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import LayerNorm
from tokenizers import Tokenizer as Backend
from tokenizers import normalizers
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from torch.testing import assert_close
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import poly_agents
from poly_agents import zoo
from poly_agents.models.opening import read_tokenizer
from poly_agents.text.tokenizer import Tokenizer
from tests.agents import make
from tests.sentence_models import CANDIDATES, CONTEXTS, PLAIN, PROMPTS, scores, write


def theirs(model: SentenceTransformer, by: str) -> torch.Tensor:
    contexts, candidates = model.encode_query(CONTEXTS), model.encode_document(CANDIDATES)
    contexts, candidates = torch.tensor(contexts), torch.tensor(candidates)
    if by == "dot":
        return contexts @ candidates.T
    return 20 * torch.nn.functional.cosine_similarity(contexts.unsqueeze(1), candidates, dim=-1)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "mean_sqrt_len_tokens"])
@pytest.mark.parametrize("by", ["cosine", "dot"])
def test_bi_takes_over_pooling_and_similarity(tiny, tmp_path, pooling, by):
    model, folder = write(tmp_path, tiny, pooling=pooling, similarity_fn_name=by)
    ours = poly_agents.start("bi", backbone=folder, **PLAIN)
    assert_close(scores(ours), theirs(model, by), atol=1e-4, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("activation", [torch.nn.Tanh(), torch.nn.Identity()])
def test_bi_takes_over_dense_layer_normalization_and_prompts(tiny, tmp_path, activation):
    dense = Dense(26, 11, bias=activation._get_name() == "Tanh", activation_function=activation)
    model, folder = write(tmp_path, tiny, dense, Normalize(), similarity_fn_name="dot", prompts=PROMPTS)
    ours = poly_agents.start("bi", backbone=folder, **PLAIN)
    assert_close(scores(ours), theirs(model, "cosine"), atol=1e-4, rtol=1e-5)
    assert ours.ranker.options.candidate_prompt == PROMPTS["document"]
    without = poly_agents.start("bi", backbone=folder, candidate_prompt="", **PLAIN)
    assert not torch.allclose(scores(without), scores(ours))


@torch.no_grad()
@pytest.mark.parametrize("family", ["roberta", "mpnet", "distilbert", "electra"])
def test_bi_equals_sentence_transformers_for_every_family(encoders, tmp_path, family):
    model, folder = write(tmp_path, encoders[family], Normalize(), prompts=PROMPTS, pooling="cls")
    assert_close(
        scores(poly_agents.start("bi", backbone=folder, **PLAIN)), theirs(model, "cosine"), atol=1e-4, rtol=1e-5
    )


def test_settings_of_earlier_versions_are_read(tiny, tmp_path):
    write(tmp_path, tiny)
    settings = {"word_embedding_dimension": 26, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    assert poly_agents.start("bi", backbone=str(tmp_path), **PLAIN).ranker.options.reduction == "first"


def test_a_prompt_is_never_cut_off(tiny, tmp_path):
    _, folder = write(tmp_path, tiny, prompts=PROMPTS)
    ours = poly_agents.start("bi", backbone=folder, text_truncate=1, **PLAIN)
    (short,) = ours.context_ids(["hello how are you"])
    assert ours.ranker.frame.context_prompt == tuple(ours.tokenizer.ids("name is"))
    assert len(short) == 1
    assert ours.ranker.positions_needed(1, 1) == 2 + 2 + 1


@torch.no_grad()
def test_what_was_taken_over_is_saved(tiny, tmp_path):
    _, folder = write(tmp_path / "theirs", tiny, Dense(26, 11), pooling="max", prompts=PROMPTS)
    ours = poly_agents.start("bi", backbone=folder, **PLAIN)
    ours.save(str(tmp_path / "model"))
    again = poly_agents.load(str(tmp_path / "model"), "float32")
    assert_close(scores(again), scores(ours), atol=0, rtol=0)
    assert again.ranker.options == ours.ranker.options
    assert again.ranker.frame == ours.ranker.frame


@torch.no_grad()
def test_parlai_trains_on_from_a_folder_and_from_a_model_that_did(tiny, tmp_path, options):
    _, folder = write(tmp_path / "theirs", tiny, Dense(26, 11), pooling="max", prompts=PROMPTS)
    options["backbone"] = {"bi": folder}
    agent = make(options, "bi", datatype="train")
    first = scores(poly_agents.start("bi", backbone=folder, **PLAIN))
    assert_close(scores(agent.text_ranker), first)
    agent.save(options["model_file"])
    assert_close(scores(poly_agents.load(options["model_file"], "float32")), first)
    assert_close(scores(make(options, "bi").text_ranker), first)
    onward = make(options, "bi", init_model=options["model_file"], model_file=str(tmp_path / "onward"))
    assert onward.ranker_module.options.reduction == "max"
    assert_close(scores(onward.text_ranker), first)


def test_what_bi_cannot_do_is_refused(tiny, tmp_path):
    for name, module, pooling, message in [
        ("norm", [LayerNorm(26)], "mean", "made of Transformer, Pooling, LayerNorm; bi takes"),
        ("weighted", [], "weightedmean", "pools by weightedmean; bi knows cls, lasttoken, mean"),
        ("two", [], ("cls", "mean"), "pools by cls and mean; bi knows"),
        ("relu", [Dense(26, 11, activation_function=torch.nn.ReLU())], "mean", "is none of W x"),
    ]:
        _, folder = write(tmp_path / name, tiny, *module, pooling=pooling)
        with pytest.raises(ValueError, match=message):
            poly_agents.start("bi", backbone=folder, **PLAIN)
    assert poly_agents.start("bi", backbone=str(tmp_path / "two"), reduction="first", **PLAIN)
    _, folder = write(tmp_path / "far", tiny, similarity_fn_name="euclidean")
    with pytest.raises(ValueError, match="compares by euclidean; bi knows cosine and dot"):
        poly_agents.start("bi", backbone=folder, **PLAIN)


def test_a_folder_whose_settings_cannot_be_followed_is_refused(tiny, tmp_path):
    _, folder = write(tmp_path, tiny, Dense(26, 11), prompts=PROMPTS)

    def refused(name, message, **changes):
        path = tmp_path / name
        before = path.read_text()
        path.write_text(json.dumps(json.loads(before) | changes))
        with pytest.raises(ValueError, match=message):
            poly_agents.start("bi", backbone=folder, **PLAIN)
        path.write_text(before)

    refused("1_Pooling/config.json", "leaves its prompts out of the pooling", include_prompt=False)
    refused("sentence_bert_config.json", "lowercases before its tokenizer does", do_lower_case=True)
    refused("config_sentence_transformers.json", "joins the prompt 'ca' with the first word", prompts={"query": "ca"})
    save_file({"linear.bias": torch.zeros(11)}, tmp_path / "2_Dense" / "model.safetensors")
    with pytest.raises(ValueError, match="lacks the weights of linear, which its settings promise"):
        poly_agents.start("bi", backbone=folder, **PLAIN)
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(ValueError, match=r"modules\.json is not JSON"):
        poly_agents.start("bi", backbone=folder, **PLAIN)


def test_lowercasing_that_the_tokenizer_does_anyway_is_no_obstacle(tmp_path):
    shutil.copytree(zoo.backbone("minilm"), tmp_path / "model")
    (tmp_path / "model" / "sentence_bert_config.json").write_text('{"max_seq_length": 256, "do_lower_case": true}')
    assert poly_agents.start("bi", backbone=str(tmp_path / "model"), **PLAIN).ranker.options.reduction == "mean"


# --- prompts over SentencePiece ---------------------------------------------------------------------------------------


def sentencepiece(folder: Path, split: bool) -> str:
    """Write a tokenizer of the kind of SentencePiece, with pieces that begin with a mark of the space before them.

    Args:
        folder: where to write.
        split: the space is marked by the pre-tokenizer, as in XLM-R; or by the normalizer, as in Llama.
    """
    words = ["▁query", ":", "▁passage", "▁", "a", "▁a", "▁hello", "hello", "▁cat", "1", "▁1", "I", "▁I", "q", "u", "e"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((word, -float(len(word) < 3)) for word in words)]
    backend = Backend(Unigram(vocabulary, unk_id=2, byte_fallback=False))
    if split:
        backend.pre_tokenizer = Metaspace()
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.post_processor = TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
    ).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("split", [True, False])
def test_a_prompt_and_a_text_have_the_ids_of_the_whole(split, tmp_path):
    folder = sentencepiece(tmp_path, split)
    ours, theirs = Tokenizer.pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ours.save(str(tmp_path / "model.dict"))
    for tokenizer in (ours, read_tokenizer(str(tmp_path / "model.dict"))):
        for prompt in ("query: ", "passage: ", "query: a ", "query:\n "):
            for text in ("hello cat", "a", "1 hello", "cat: q"):
                assert tokenizer.separates(prompt)
                whole = theirs(prompt + text, add_special_tokens=False)["input_ids"]
                assert [*tokenizer.prompt(prompt), *tokenizer.ids(text)] == whole
        assert not tokenizer.separates("query:")  # "query:hello" has no mark before its "hello"


def test_a_model_of_an_earlier_version_keeps_the_ids_of_its_prompt(tmp_path):
    tokenizer = Tokenizer.pretrained(sentencepiece(tmp_path, True))
    tokenizer.save(str(tmp_path / "model.dict"))
    saved = json.loads((tmp_path / "model.dict").read_text(encoding="utf-8"))
    del saved["joint_prompts"], saved["digest"]
    (tmp_path / "model.dict").write_text(json.dumps(saved), encoding="utf-8")
    earlier = read_tokenizer(str(tmp_path / "model.dict"))
    assert earlier.prompt("query: ") == tuple(earlier.ids("query: ")) != tokenizer.prompt("query: ")
    earlier.save(str(tmp_path / "again.dict"))
    assert read_tokenizer(str(tmp_path / "again.dict")).prompt("query: ") == earlier.prompt("query: ")
