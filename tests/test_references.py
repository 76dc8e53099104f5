"""Equality with independent implementations that carry the same weights."""

import pytest
import torch
from parlai.agents.transformer.biencoder import BiencoderAgent
from parlai.agents.transformer.polyencoder import PolyencoderAgent
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from poly_agents import zoo
from poly_agents.rankers.bi import BiRanker
from poly_agents.rankers.cross import CrossRanker
from poly_agents.rankers.poly import PolyRanker
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.tokens import pad
from tests.encoders import make_encoder
from tests.rankers import make_ranker

PARLAI = {
    "datatype": "valid",
    "task": "integration_tests:candidate",
    "embedding_size": 26,
    "ffn_size": 37,
    "n_layers": 2,
    "n_heads": 2,
    "n_positions": 97,
    "n_segments": 2,
    "activation": "gelu",
    "variant": "xlm",
    "learn_positional_embeddings": True,
    "embeddings_scale": False,
    "output_scaling": 1.0,
    "share_encoders": True,
    "reduction_type": "mean",
    "dict_file": None,
    "no_cuda": True,
}


@pytest.fixture(scope="session")
def epsilon_as_parlai(tmp_path_factory) -> str:
    """A tiny BERT with ParlAI's layer-norm epsilon, the one thing in which the two architectures differ."""
    return make_encoder(tmp_path_factory.mktemp("bert"), "bert", layer_norm_eps=1e-5)


def parlai_module(agent, **options):
    """ParlAI's own module, without its agent's data."""
    from parlai.core.params import ParlaiParser

    parser = ParlaiParser(True, True)
    agent.add_cmdline_args(parser)
    opt = parser.parse_kwargs(**PARLAI | options)

    class Dictionary(dict):
        null_token = "null"

        def __len__(self):
            return 41

    dictionary = Dictionary(null=0)
    if agent is PolyencoderAgent:
        from parlai.agents.transformer.polyencoder import PolyEncoderModule

        return PolyEncoderModule(opt, dictionary, 0).eval()
    from parlai.agents.transformer.modules import TransformerMemNetModel

    return TransformerMemNetModel(opt, dictionary).eval()


def copy_bert(source, target) -> None:
    """The weights of a transformers BERT into a ParlAI TransformerEncoder."""
    pairs = {
        "embeddings.weight": "embeddings.word_embeddings.weight",
        "position_embeddings.weight": "embeddings.position_embeddings.weight",
        "segment_embeddings.weight": "embeddings.token_type_embeddings.weight",
        "norm_embeddings.weight": "embeddings.LayerNorm.weight",
        "norm_embeddings.bias": "embeddings.LayerNorm.bias",
    }
    parts = {
        "attention.q_lin": "attention.self.query",
        "attention.k_lin": "attention.self.key",
        "attention.v_lin": "attention.self.value",
        "attention.out_lin": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "ffn.lin1": "intermediate.dense",
        "ffn.lin2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    for layer in range(2):
        for theirs, ours in parts.items():
            for kind in ("weight", "bias"):
                pairs[f"layers.{layer}.{theirs}.{kind}"] = f"encoder.layer.{layer}.{ours}.{kind}"
    weights = source.state_dict()
    missing = target.load_state_dict({theirs: weights[ours] for theirs, ours in pairs.items()}, strict=False)
    assert not missing.missing_keys and not missing.unexpected_keys, missing


def framed(tokenizer, ids):
    tokens = tokenizer.frame.wrap(pad(ids))
    return tokens.ids, tokens.mask


@torch.no_grad()
@pytest.mark.parametrize("candidates", [5, 2])
def test_poly_equals_parlai_s_module(epsilon_as_parlai, tokenizer, texts, candidates):
    ours = make_ranker(PolyRanker, epsilon_as_parlai, tokenizer, poly_codes=3)
    theirs = parlai_module(
        PolyencoderAgent,
        polyencoder_type="codes",
        poly_n_codes=3,
        poly_attention_type="basic",
        codes_attention_type="basic",
    )
    for encoder in (theirs.encoder_ctxt, theirs.encoder_cand):
        copy_bert(ours.context_encoder.model, encoder)
    theirs.codes.copy_(ours.codes)
    contexts, pool = texts(9, 4, 12), texts(*(3, 6, 2, 8, 5)[:candidates])
    ids, _ = framed(tokenizer, contexts)
    states, mask, _ = theirs(ctxt_tokens=ids)
    ids, _ = framed(tokenizer, pool)
    _, _, vectors = theirs(cand_tokens=ids.unsqueeze(0))
    expected = theirs(ctxt_rep=states, ctxt_rep_mask=mask, cand_rep=vectors.expand(3, -1, -1))
    assert_close(ours(pad(contexts), pad(pool)), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("reduction", ["mean", "first"])
def test_bi_equals_parlai_s_module(epsilon_as_parlai, tokenizer, texts, reduction):
    ours = make_ranker(BiRanker, epsilon_as_parlai, tokenizer, bi_cosine=False, reduction=reduction)
    theirs = parlai_module(BiencoderAgent, reduction_type=reduction, share_encoders=False)
    copy_bert(ours.context_encoder.model, theirs.context_encoder)
    copy_bert(ours.context_encoder.model, theirs.cand_encoder)
    contexts, pool = texts(9, 4, 12), texts(3, 6, 2, 8, 5)
    context, candidates = theirs(framed(tokenizer, contexts)[0], None, framed(tokenizer, pool)[0].unsqueeze(0))
    assert_close(ours(pad(contexts), pad(pool)), context @ candidates.view(5, -1).T, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_bi_equals_sentence_transformers_on_the_embedded_weights():
    folder = zoo.backbone("minilm")
    tokenizer = Tokenizer.pretrained(folder)
    ours = make_ranker(BiRanker, folder, tokenizer)
    theirs = SentenceTransformer(folder, device="cpu")
    texts = ["hello there, how are you?", "fine", "the cat sat on the mat 🙂", "what is the capital of France " * 9]
    vectors = torch.tensor(theirs.encode(texts, batch_size=2))
    tokens = pad(tokenizer.ids_of(texts))
    assert_close(ours.encode(tokens), vectors, atol=1e-5, rtol=1e-4)
    assert_close(ours(tokens, tokens), 20 * vectors @ vectors.T, atol=1e-4, rtol=1e-4)


CLASSIFIERS = {  # family -> names of its dense layer before the tanh, and of its last one
    "bert": ("bert.pooler.dense", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "mpnet": ("classifier.dense", "classifier.out_proj"),
}


@torch.no_grad()
@pytest.mark.parametrize("family", CLASSIFIERS)
def test_cross_equals_transformers_and_sentence_transformers(encoders, family, tmp_path):
    torch.manual_seed(7)
    classifier = AutoModelForSequenceClassification.from_pretrained(encoders[family], num_labels=1).eval()
    for name in CLASSIFIERS[family]:
        torch.nn.init.normal_(classifier.get_submodule(name).weight, std=0.4)
    tokenizer = Tokenizer.pretrained(encoders[family])
    ours = make_ranker(CrossRanker, encoders[family], tokenizer, cross_head="pooled")
    for layer, name in zip((ours.head[0], ours.head[2]), CLASSIFIERS[family], strict=True):
        layer.load_state_dict(classifier.get_submodule(name).state_dict())
    ours.context_encoder.model.load_state_dict(classifier.base_model.state_dict(), strict=False)
    contexts, candidates = ["hello how are you", "my cat"], ["fine thanks", "what is your name", "blue"]
    scores = ours(pad(tokenizer.ids_of(contexts)), pad(tokenizer.ids_of(candidates)))

    classifier.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(encoders[family])
    plain.save_pretrained(tmp_path)
    for row, context in zip(scores, contexts, strict=True):
        inputs = plain([context] * 3, candidates, padding=True, return_tensors="pt")
        assert_close(row, classifier(**inputs).logits.squeeze(-1), atol=1e-5, rtol=1e-5)
    theirs = CrossEncoder(str(tmp_path), device="cpu", activation_fn=torch.nn.Identity())
    predicted = theirs.predict([(context, text) for context in contexts for text in candidates])
    assert_close(scores.flatten(), torch.tensor(predicted), atol=1e-5, rtol=1e-5)
