"""Checkpoints of late interaction: of sentence-transformers, PyLate and ColBERT's authors."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from torch.testing import assert_close
from transformers import AutoTokenizer

import poly_agents
from tests.encoders import make_encoder
from tests.sentence_models import CANDIDATES, CONTEXTS, PLAIN, PROMPTS, scores


def late_interaction(model: MultiVectorEncoder) -> torch.Tensor:
    contexts, candidates = model.encode_query(CONTEXTS), model.encode_document(CANDIDATES)
    return torch.stack([torch.stack([(x @ y.T).amax(-1).sum() for y in candidates]) for x in contexts])


def colbert(folder: Path, encoder: str, **options) -> str:
    torch.manual_seed(5)
    dense = Dense(26, 7, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings")
    parts = [Transformer(encoder), dense, MultiVectorMask(), Normalize(module_input_name="token_embeddings")]
    MultiVectorEncoder(modules=parts, device="cpu", **options).save(str(folder))
    return str(folder)


@torch.no_grad()
def test_late_takes_over_a_model_of_sentence_transformers(tiny, tmp_path):
    folder = colbert(tmp_path, tiny, prompts=PROMPTS)
    ours = poly_agents.start("late", backbone=folder, **PLAIN)
    assert ours.ranker.options.late_width == 7
    assert_close(scores(ours), late_interaction(MultiVectorEncoder(folder, device="cpu")), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_late_takes_over_pylate_s_format(tiny, tmp_path):
    """As PyLate writes it: two modules, and marks that are tokens of their own."""
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(["[Q] ", "[D] "])
    encoder = make_encoder(tmp_path / "encoder", "bert", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(encoder)
    folder = colbert(tmp_path / "model", encoder)
    modules = json.loads((tmp_path / "model" / "modules.json").read_text())[:2]
    modules[1]["type"] = "pylate.models.Dense.Dense"
    (tmp_path / "model" / "modules.json").write_text(json.dumps(modules))
    settings = {"model_type": "ColBERT", "query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 32}
    settings |= {"do_query_expansion": False, "skiplist_words": [], "similarity_fn_name": "MaxSim"}
    (tmp_path / "model" / "config_sentence_transformers.json").write_text(json.dumps(settings))
    ours = poly_agents.start("late", backbone=folder, **PLAIN)
    assert ours.ranker.frame.context_prompt == (tokenizer.convert_tokens_to_ids("[Q] "),)
    assert_close(scores(ours), late_interaction(MultiVectorEncoder(folder, device="cpu")), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_late_takes_over_the_format_of_colbert_s_authors(tmp_path):
    """`linear.weight` beside `bert.*`, and marks that are unused entries of the vocabulary."""
    encoder = Path(make_encoder(tmp_path / "encoder", "bert"))
    text = (encoder / "tokenizer.json").read_text()
    (encoder / "tokenizer.json").write_text(text.replace('"five"', '"[unused0]"').replace('"six"', '"[unused1]"'))
    settings = json.loads((encoder / "tokenizer_config.json").read_text()) | {"mask_token": "[PAD]"}
    (encoder / "tokenizer_config.json").write_text(json.dumps(settings))
    weights = {f"bert.{name}": tensor for name, tensor in load_file(encoder / "model.safetensors").items()}
    weights["linear.weight"] = torch.randn(7, 26)
    save_file(weights, encoder / "model.safetensors", {"format": "pt"})
    config = json.loads((encoder / "config.json").read_text()) | {"architectures": ["HF_ColBERT"]}
    (encoder / "config.json").write_text(json.dumps(config))
    (encoder / "artifact.metadata").write_text(json.dumps({"query_token_id": "[unused0]", "mask_punctuation": False}))
    ours = poly_agents.start("late", backbone=str(encoder), **PLAIN)
    assert len(ours.ranker.frame.candidate_prompt) == 1
    model = MultiVectorEncoder(str(encoder), device="cpu")
    model[0].query_expansion = None
    assert_close(scores(ours), late_interaction(model), atol=1e-5, rtol=1e-4)


def test_a_projection_that_is_more_than_a_matrix_is_refused(tiny, tmp_path):
    folder = colbert(tmp_path, tiny)
    settings = json.loads((tmp_path / "1_Dense" / "config.json").read_text())
    (tmp_path / "1_Dense" / "config.json").write_text(json.dumps(settings | {"bias": True}))
    with pytest.raises(ValueError, match="1_Dense is more than a linear map"):
        poly_agents.start("late", backbone=folder, **PLAIN)
    shutil.rmtree(tmp_path / "3_Normalize")
    modules = json.loads((tmp_path / "modules.json").read_text())[:3]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="made of Transformer, Dense, MultiVectorMask; late takes ColBERT's"):
        poly_agents.start("late", backbone=folder, **PLAIN)
    assert poly_agents.start("bi", backbone=tiny, **PLAIN)
