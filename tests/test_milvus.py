"""Candidates in an embedded Milvus: nothing encoded twice, nothing stale used, searches, chats."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from parlai.core.agents import create_agent, create_agent_from_model_file
from parlai.core.params import ParlaiParser
from torch.testing import assert_close

import poly_agents
from poly_agents.candidates import milvus, milvus_writer
from poly_agents.candidates.milvus import Address, MilvusSearch, MilvusStore
from poly_agents.candidates.reading import read_candidates
from poly_agents.candidates.search import Search, SearchOptions
from poly_agents.candidates.writer import Recipe
from poly_agents.models.textranker import TextRanker
from poly_agents.text.tokens import pad
from tests.agents import evaluate, example, text
from tests.stores import Encoder, lines, words

POOL = [{"text": text(number), "id": f"n{number}", "tags": [number, "é\"'"]} for number in range(61)]
CONTEXTS = ["hello how", "my cat\nblue dog", "six"]


@pytest.fixture
def uri(tmp_path) -> str:
    return str(tmp_path / "candidates.db")


def build(uri, candidates, encode, fingerprint="model", **more) -> MilvusStore:
    recipe = Recipe(encode, fingerprint)
    return milvus_writer.build(Address(uri, "replies"), candidates, recipe, progress=False, **more)


def contents(store: MilvusStore) -> dict[str, list]:
    held = [(row, vector.tolist()) for part in store.vectors() for row, vector in zip(*part, strict=True)]
    return {store[int(row)]["text"]: vector for row, vector in held}


def filled(uri, path: str, candidates=POOL) -> TextRanker:
    model = poly_agents.load(path, "float32")
    build(uri, candidates, model.encode, model.fingerprint)
    return model


# --- writing ----------------------------------------------------------------------------------------------------------


def test_every_candidate_keeps_its_vector_its_text_and_all_else_it_has(uri, monkeypatch):
    monkeypatch.setattr(milvus, "CHUNK", 7)
    monkeypatch.setattr(milvus, "ANSWER", 13)
    store = build(uri, iter(POOL), Encoder())
    assert len(store) == len(POOL)
    assert sorted((store[row] for row in range(len(store))), key=lambda c: c["tags"][0]) == POOL
    assert contents(store) == {each["text"]: Encoder()([each["text"]])[0].tolist() for each in POOL}
    rows = store.rows_of([text(7), "not there", f" {text(60)} "])
    assert [store[row]["id"] for row in (rows[0], rows[2])] == ["n7", "n60"] and rows[1] == -1


def test_stored_candidates_are_not_encoded_again(uri, monkeypatch):
    monkeypatch.setattr(milvus, "CHUNK", 7)
    encode = Encoder()
    build(uri, lines(*words(0, 40), *words(10, 30)), encode)
    assert sorted(encode.asked) == sorted(words(0, 40))
    for changed, new in ((words(0, 40), []), (words(0, 50), words(40, 50)), (words(5, 45), [])):
        encode.asked.clear()
        store = build(uri, lines(*changed), encode)
        assert sorted(encode.asked) == sorted(new)
        assert sorted(store.texts) == sorted(changed)
    store = build(uri, lines("one more"), encode, keep=True)
    assert sorted(store.texts) == sorted([*words(5, 45), "one more"])


SLOW = """
import sys, time
from poly_agents.candidates import milvus, milvus_writer
from poly_agents.candidates.writer import Recipe
from tests.stores import Encoder, lines, words
milvus.CHUNK = 5
def slowly(texts):
    print("encoding", flush=True)
    time.sleep(0.05)
    return Encoder()(texts)
address = milvus.Address(sys.argv[1], "replies")
milvus_writer.build(address, lines(*words(0, 200)), Recipe(slowly, "model"), progress=False)
"""


def test_a_killed_build_continues_where_it_was(uri):
    command = [sys.executable, "-c", SLOW, uri]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    for _ in range(9):
        assert process.stdout.readline() == "encoding\n"
    with pytest.raises(ValueError, match="one process at a time"):
        MilvusStore(Address(uri, "replies"))
    time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    encode = Encoder()
    store = build(uri, lines(*words(0, 200)), encode)
    assert 0 < len(encode.asked) <= 200 - 8 * 5
    assert contents(store) == {text: Encoder()([text])[0].tolist() for text in words(0, 200)}


def test_a_stale_or_foreign_collection_is_refused(uri, tmp_path):
    build(uri, lines(*words(0, 20)), Encoder())
    for use in (
        lambda: MilvusStore(Address(uri, "replies"), "other"),
        lambda: build(uri, lines("a"), Encoder(), "other"),
    ):
        with pytest.raises(ValueError, match="made by another model"):
            use()
    with pytest.raises(ValueError, match="holds no collection others"):
        MilvusStore(Address(uri, "others"))
    with pytest.raises(ValueError, match=r"there is no file .*no\.db; fill it with"):
        MilvusStore(Address(str(tmp_path / "no.db"), "replies"))
    milvus.connect(Address(uri, "mine")).create_collection("mine", 3)
    with pytest.raises(ValueError, match="a collection of something else"):
        MilvusStore(Address(uri, "mine"))
    with pytest.raises(ValueError, match="no candidates"):
        milvus_writer.build(Address(uri, "new"), [], Recipe(Encoder(), "model"))
    with pytest.raises(ValueError, match="has 80012 bytes as JSON, Milvus holds 65535 bytes at most; shorten it"):
        build(uri, lines("é" * 40_000), Encoder())
    with pytest.raises(ValueError, match="one vector for each candidate; give a model of bi, poly or early"):
        build(uri, lines("a"), Encoder(ragged=True))


@pytest.mark.parametrize("bad", ["milvus:", "milvus:a.db", "milvus:a.db#", "milvus:#replies", "milvus:folder#replies"])
def test_an_address_is_a_file_or_a_url_and_a_collection(bad):
    assert milvus.parse_address("milvus:./a.db#b") == ("./a.db", "b")
    assert milvus.parse_address("milvus:https://host:19530#b") == ("https://host:19530", "b")
    with pytest.raises(ValueError, match="#COLLECTION"):
        milvus.parse_address(bad)


# --- searching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bi", "poly", "early"])
def test_a_small_pool_is_searched_as_exactly_as_a_store(trained, uri, tmp_path, name):
    model = filled(uri, trained[name])
    exact = Search(model.index(tmp_path / "store", POOL, "float32"), SearchOptions())
    search = MilvusSearch(MilvusStore(Address(uri, "replies"), model.fingerprint))
    contexts = pad(model.context_ids(CONTEXTS))
    for count in (1, 7, 100):
        mine, true = search.best(model.ranker, contexts, count), exact.best(model.ranker, contexts, count)
        assert_close(mine.scores, true.scores, atol=1e-5, rtol=1e-5)
        texts = [[s.store.texts[r] for r in f.rows[1] if r >= 0] for s, f in ((search, mine), (exact, true))]
        assert texts[0] == texts[1] and len(texts[0]) == min(count, len(POOL))
    order = search.store.rows_of(exact.store.texts)
    assert_close(search.scores(model.ranker, contexts)[:, order], exact.scores(model.ranker, contexts))
    assert mine.scored == 1.0


def test_only_candidates_near_a_view_are_scored(trained, uri, monkeypatch):
    monkeypatch.setattr(milvus, "HITS", 1)
    monkeypatch.setattr(milvus, "CHUNK", 5)
    model = filled(uri, trained["poly"])
    search = MilvusSearch(MilvusStore(Address(uri, "replies"), model.fingerprint))
    contexts = pad(model.context_ids(CONTEXTS))
    found = search.best(model.ranker, contexts, 3)
    everything = search.scores(model.ranker, contexts)
    assert 3 / len(POOL) <= found.scored < 1
    assert_close(found.scores, everything.gather(1, found.rows), atol=1e-5, rtol=1e-5)
    assert (found.scores <= everything.topk(3).values + 1e-5).all()
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)


def test_the_other_fields_of_a_candidate_come_back(trained, uri):
    model = filled(uri, trained["bi"])
    hits = model.search("hello how", MilvusSearch(MilvusStore(Address(uri, "replies"), model.fingerprint)), 5)
    ranking = model.rank("hello how", [each["text"] for each in POOL], top=5)
    assert [hit.candidate["text"] for hit in hits] == [ranked.text for ranked in ranking]
    assert all(hit.candidate in POOL for hit in hits)
    assert [hit.score for hit in hits] == pytest.approx([ranked.score for ranked in ranking], abs=1e-4)


# --- in ParlAI --------------------------------------------------------------------------------------------------------


def test_a_chat_and_an_evaluation_on_a_collection_are_those_on_the_file(trained, data, uri, pool_file):
    filled(uri, trained["poly"], read_candidates(pool_file))
    replies = []
    for path in (pool_file, f"milvus:{uri}#replies"):
        more = {"fixed_candidates_path": path, "eval_candidates": "fixed", "show_candidates": 3}
        agent = create_agent_from_model_file(trained["poly"], more | {"interactive_mode": True, "datatype": "valid"})
        for said in ("hello how", "my cat"):
            agent.observe({"text": said, "episode_done": False})
            replies.append(agent.act())
        more = {"eval_candidates": "fixed", "fixed_candidates_path": path}
        replies.append({name: value.value() for name, value in evaluate(trained["poly"], data, **more).items()})
    for file, collection in zip(replies[:2], replies[3:5], strict=True):
        assert collection["text"] == file["text"]
        assert collection["candidate_scores"] == pytest.approx(file["candidate_scores"], abs=1e-5)
    for name in ("mrr", "rank", "hits@5", "loss"):
        assert replies[5][name] == pytest.approx(replies[2][name], abs=1e-5)


def test_a_cascade_retrieves_from_a_collection(trained, uri):
    model = filled(uri, trained["bi"])
    given = {"model": "poly_agents/cascade", "retriever": trained["bi"], "reranker": trained["cross"]}
    given |= {"precision": "float32", "cascade_top": 5, "fixed_candidates_path": f"milvus:{uri}#replies"}
    agent = create_agent(ParlaiParser(True, True).parse_kwargs(**given, datatype="valid"))
    agent.observe(example("hello how", text(3), training=False))
    reply = agent.act()
    few = [ranked.text for ranked in model.rank("hello how", [each["text"] for each in POOL], top=5)]
    assert sorted(reply["text_candidates"]) == sorted(few)
    assert reply["metrics"]["retrieve_recall"].value() == (text(3) in few) and reply["metrics"]["rank"].value() > 0


def test_what_cannot_be_searched_is_refused(trained, data, uri):
    filled(uri, trained["bi"])
    given = {"eval_candidates": "fixed", "fixed_candidates_path": f"milvus:{uri}#replies"}
    with pytest.raises(ValueError, match="made by another model"):
        evaluate(trained["poly"], data, **given)
    with pytest.raises(ValueError, match="Milvus searches its own way"):
        evaluate(trained["bi"], data, **given, search="fast")
    with pytest.raises(ValueError, match="with a trained bi, poly or early"):
        evaluate(trained["cross"], data, **given)
