"""Rankers that start where their backbone stands: they rank as the bi-encoder over it does, before any training."""

import pytest
import torch

import poly_agents
from poly_agents.candidates import pool as pools
from poly_agents.encoders import arrow, layers
from poly_agents.encoders.backbone import Backbone
from poly_agents.errors import InputError
from poly_agents.export import export
from poly_agents.models import building, opening
from poly_agents.models.textranker import TextRanker
from poly_agents.rankers import options_of
from poly_agents.tasks import chitchat
from poly_agents.text.near import near_key
from poly_agents.text.tokens import Tokens, pad
from tests.encoders import make_encoder

CONTEXTS = 200
STARTS = [("cross", {}), ("uni", {}), ("poly", {}), ("late", {}), *(("mix", {"mix": kind}) for kind in "abc")]
APART = -1e4


def hits(model: TextRanker) -> float:
    """Return hits@1 on the first contexts of chitchat's valid split, each with 20 candidates."""
    examples = chitchat.examples("valid", 4)[:CONTEXTS]
    ranked = model.rank_many(["\n".join(e.context) for e in examples], [list(e.candidates) for e in examples], 1)
    right = [best[0].text == example.response for best, example in zip(ranked, examples, strict=True)]
    return sum(right) / len(right)


def untrained(agent: str, **options) -> TextRanker:
    torch.manual_seed(0)
    return poly_agents.start(agent, 40, 16, **options)


@pytest.fixture(scope="module")
def bi() -> float:
    return hits(untrained("bi"))


@pytest.mark.parametrize(("agent", "options"), STARTS, ids=[f"{a}-{''.join(o.values())}" for a, o in STARTS])
def test_an_untrained_ranker_is_as_good_as_the_untrained_bi_encoder(bi, agent, options):
    assert hits(untrained(agent, **options)) >= bi - 0.01


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "mpnet"])
def test_texts_kept_apart_have_the_states_of_single_texts(family, tmp_path):
    encoder = Backbone.downloaded(make_encoder(tmp_path, family), torch.float32).eval()
    contexts, candidates = pad([[5, 6, 7, 8, 9], [10, 11]]), pad([[12, 13], [14], [15, 16, 17], [18, 19]])
    pools = Tokens(*(part.view(2, 2, -1) for part in candidates))
    biases = torch.full((len(encoder.layers), encoder.model.config.num_attention_heads), APART)
    with torch.no_grad():
        context, candidate = arrow.run(encoder, layers.read(encoder.model), contexts, pools, False, biases, 0.0)
        alone = [encoder(part) for part in (contexts, candidates)]
    for states, expected, mask in zip((context, candidate), alone, (contexts.mask, candidates.mask), strict=True):
        torch.testing.assert_close(states.vectors.view_as(expected)[mask], expected[mask])


def test_a_context_reads_its_candidates_as_much_as_one_of_them(tmp_path):
    encoder = Backbone.downloaded(make_encoder(tmp_path, "bert"), torch.float32).eval()
    context, biases = pad([[5, 6, 7]]), torch.full((2, 2), -1.0)
    with torch.no_grad():
        parts = layers.read(encoder.model)
        pools = [Tokens(*(part.unsqueeze(0) for part in pad([[8, 9]] * count))) for count in (1, 3)]
        states = [arrow.run(encoder, parts, context, pool, False, biases, 0.0) for pool in pools]
    torch.testing.assert_close(states[0][0].vectors, states[1][0].vectors)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "mpnet"])
def test_pairs_without_padding_have_the_states_of_padded_ones(family, tmp_path):
    encoder = Backbone.downloaded(make_encoder(tmp_path, family), torch.float32).eval()
    contexts, candidates = pad([[5, 6, 7, 8, 9], [10, 11], [12, 13]]), pad([[12], [14, 15, 16, 17], [14, 15, 16, 18]])
    single = Tokens(*(part.unsqueeze(1) for part in candidates))
    biases = torch.randn(len(encoder.layers), encoder.model.config.num_attention_heads)
    with torch.no_grad():
        packed = arrow.run(encoder, layers.read(encoder.model), contexts, single, False, biases, 0.0)
    padded = arrow.run(
        encoder, layers.read(encoder.model), contexts, single, False, biases, 0.0
    )  # with gradients nothing is packed
    for one, other in zip(packed, padded, strict=True):
        torch.testing.assert_close(one.vectors[one.mask], other.vectors[other.mask].detach())


def start_of(agent: str, source: str, **options) -> str:
    """Return the start of a ranker over a backbone."""
    tokenizer = opening.pretrained_tokenizer(source)
    return building.start(
        agent, options_of(agent, {"backbone": source, **options}), source, tokenizer, "cpu"
    ).options.start


def test_the_default_follows_from_the_backbone(tmp_path):
    plain = make_encoder(tmp_path / "plain", "bert")
    for agent, start in (("bi", "backbone"), ("poly", "paper")):
        model = poly_agents.start(agent, 20, 10, backbone=plain)
        model.save(str(tmp_path / agent))
        assert start_of("cross", str(tmp_path / agent)) == start
    assert start_of("cross", plain) == "paper"
    assert start_of("cross", plain, start="backbone") == "backbone"
    assert start_of("uni", str(tmp_path / "bi"), start="paper") == "paper"


def test_a_bi_encoder_that_compares_otherwise_is_no_start(tmp_path):
    plain = make_encoder(tmp_path / "plain", "bert")
    for number, options in enumerate(
        [{"bi_cosine": False}, {"reduction": "first"}, {"bi_dense": 5}, {"share_encoders": False}]
    ):
        poly_agents.start("bi", 20, 10, backbone=plain, **options).save(str(tmp_path / f"bi{number}"))
        assert start_of("cross", str(tmp_path / f"bi{number}")) == "paper", options


def test_a_model_keeps_its_start(tmp_path):
    plain = make_encoder(tmp_path / "plain", "bert")
    candidates = ["hi how are you", "my cat", "fine thanks"]
    for agent in ("cross", "uni", "poly", "mix", "late"):
        options = {"mix_layers": "1,2"} if agent == "mix" else {}
        model = poly_agents.start(agent, 20, 10, backbone=plain, start="backbone", precision="float32", **options)
        model.save(str(tmp_path / agent))
        loaded = poly_agents.load(str(tmp_path / agent), "float32")
        assert loaded.ranker.options.start == "backbone"
        assert loaded.rank("hello", candidates) == model.rank("hello", candidates)


def test_hard_negatives_are_the_hardest_of_a_random_few_and_never_right():
    texts = [f"text {number}" for number in range(40)]
    labels = texts[:6]
    shared = pools.shared(texts, [[number] for number in range(40)], labels)
    right = [{near_key(text)} for text in labels]
    right[0].add(near_key("Text 39!"))  # the hardest of all is right for the first context
    hardness = torch.arange(40.0).expand(6, -1)
    allowed = pools.without_right(shared, right)
    hardest = pools.sample(allowed, 4, 1, hardness, "hardest")
    assert hardest.index[0].tolist() == [0, 38, 37, 36, 35] and hardest.index[1].tolist() == [1, 39, 38, 37, 36]
    mixed = pools.sample(allowed, 4, 1, hardness, "mixed")
    assert mixed.index[:, 0].tolist() == list(range(6)) and mixed.labels.tolist() == [0] * 6
    assert all(len(set(row)) == 5 for row in mixed.index.tolist())
    assert 39 not in mixed.index[0].tolist()
    drawn = pools.sample(allowed, 4, 1)
    assert mixed.index[:, 1:4].float().mean() > drawn.index[:, 1:].float().mean()
    many = torch.cat([pools.sample(allowed, 4, seed, hardness, "mixed").index[1] for seed in range(200)])
    assert len(set(many.tolist())) == 40  # the last one is random


def test_few_candidates_are_all_negatives():
    pool = pools.shared(["a", "b", "c"], [[1], [2], [3]], ["a", "b"])
    assert pools.sample(pool, 4, 1, torch.zeros(2, 3), "mixed") is pool


@pytest.mark.parametrize("agent", ["cross", "late"])
def test_what_no_other_library_does_is_not_exported(agent, tmp_path):
    plain = make_encoder(tmp_path / "plain", "bert")
    model = poly_agents.start(agent, 20, 10, backbone=plain, start="backbone", precision="float32")
    with pytest.raises(InputError, match="train one with --start paper"):
        export(model, "onnx", tmp_path / "out")
