"""One model in many threads gives every call its own scores; encodings die with the weights they were made by."""

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import poly_agents
from poly_agents.candidates.memory import Memory
from poly_agents.encoders.states import tensors
from poly_agents.models.ranking import Ranked
from poly_agents.models.textranker import TextRanker
from tests.agents import text
from tests.conftest import WORDS

THREADS, CALLS = 16, 96


@pytest.fixture
def tiny_switch_interval():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def questions() -> list[tuple[str, list[str]]]:
    """Contexts with candidates, some of them the same again."""
    draw = random.Random(3)
    pools = [[" ".join(draw.choices(WORDS, k=draw.randint(1, 5))) for _ in range(size)] for size in (2, 3, 5, 7)]
    return [(" ".join(draw.choices(WORDS, k=4)), draw.choice(pools)) for _ in range(CALLS)]


def scores(ranking: list[Ranked]) -> dict[int, float]:
    return {ranked.index: ranked.score for ranked in ranking}


@pytest.mark.parametrize("name", ["bi", "cross", "ed2lm", "late", "mix", "poly", "uni", "early"])
def test_every_thread_gets_its_own_scores(trained, name, tiny_switch_interval):
    model, asked = poly_agents.load(trained[name], "float32"), questions()
    wanted = [scores(model.rank(*question)) for question in asked]
    with ThreadPoolExecutor(THREADS) as pool:
        rankings = list(pool.map(lambda question: scores(model.rank(*question)), asked))
    for ranking, one in zip(rankings, wanted, strict=True):
        assert ranking == pytest.approx(one, abs=1e-4)


@pytest.mark.parametrize("name", ["bi", "late", "poly"])
def test_every_thread_finds_its_own_candidates(trained, name, tmp_path, tiny_switch_interval):
    model, asked = poly_agents.load(trained[name], "float32"), [context for context, _ in questions()]
    store = model.index(tmp_path, [text(number) for number in range(11)], progress=False)
    wanted = [model.search(context, store, 3) for context in asked]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda context: model.search(context, store, 3), asked))
    for own, one in zip(found, wanted, strict=True):
        assert [each.candidate for each in own] == [each.candidate for each in one]
        assert [each.score for each in own] == pytest.approx([each.score for each in one], abs=1e-4)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["bi", "poly", "late", "mix"])
def test_encodings_die_with_their_weights(trained, name, fused):
    model = poly_agents.load(trained[name], "float32")
    ranker, memory, candidates = model.ranker, Memory(), ["hello how", "my cat", "six"]
    ids = model.candidate_ids(candidates)
    before, held = model.rank("hello", candidates), tensors(memory.encode(ranker, ids))[0]
    optimizer = torch.optim.AdamW(ranker.train().parameters(), lr=0.1, fused=fused)
    sum(part.float().square().sum() for part in ranker.parameters()).backward()
    optimizer.step()
    after = model.rank("hello", candidates)
    assert scores(after) != pytest.approx(scores(before), abs=1e-3)
    assert scores(after) == pytest.approx(scores(TextRanker(ranker, model.tokenizer, 31, 13).rank("hello", candidates)))
    assert not torch.equal(tensors(memory.encode(ranker, ids))[0], held)


@pytest.mark.parametrize("name", ["bi", "poly", "late", "mix", "cross"])
def test_a_change_that_torch_does_not_count_is_a_change(trained, name):
    model, candidates = poly_agents.load(trained[name], "float32"), ["hello how", "my cat", "six"]
    before, fingerprint = model.rank("hello", candidates), model.fingerprint
    for weight in model.ranker.parameters():
        weight.data.mul_(1.1)
    fresh = poly_agents.load(trained[name], "float32")
    fresh.ranker.load_state_dict(model.ranker.state_dict())
    after = model.rank("hello", candidates)
    assert scores(after) != pytest.approx(scores(before), abs=1e-3) and model.fingerprint != fingerprint
    assert scores(after) == pytest.approx(scores(fresh.rank("hello", candidates)), abs=1e-4)


def test_another_length_of_candidates_makes_other_encodings(trained):
    model, candidates = poly_agents.load(trained["bi"], "float32"), ["hello how my cat", "my cat six hello"]
    model.rank("hello", candidates)
    model.label_truncate = 1
    after = model.rank("hello", candidates)
    assert scores(after) == scores(TextRanker(model.ranker, model.tokenizer, 31, 1).rank("hello", candidates))


def test_a_changed_list_of_candidates_is_another_list(trained):
    model = poly_agents.load(trained["bi"], "float32")
    texts = ["hello how", "my cat"]
    model.encode(texts)
    texts.append("six")
    assert len(model.encode(texts)) == 3
