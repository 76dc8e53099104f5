"""Two models in a row: what each does by hand, every source of candidates, chats, figures, and what is refused."""

import doctest
import json

import pytest
from parlai.core.agents import create_agent
from parlai.core.params import ParlaiParser
from parlai.scripts.display_model import DisplayModel
from parlai.scripts.eval_model import EvalModel
from parlai.scripts.train_model import TrainModel
from parlai.utils import logging as parlai_logging

import poly_agents
from poly_agents.agents import cascade
from tests.agents import ROWS, evaluate, example, text
from tests.data import FIXTURES, read

parlai_logging.logger.setLevel("ERROR")
POOL = [text(i) for i in range(29)]


@pytest.fixture
def given(trained, data):
    """What every command here is given; a bi-encoder retrieves, a cross-encoder reranks."""
    return {
        "model": "poly_agents/cascade",
        "retriever": trained["bi"],
        "reranker": trained["cross"],
        "cascade_top": 7,
        "precision": "float32",
        "task": "poly_agents:jsonl",
        "jsonl_path": data,
        "datatype": "valid",
        "batchsize": 5,
    }


def make(given: dict, **changes):
    chat = {"interactive_mode": changes.pop("interactive_mode", False)}  # the script's, no flag
    return create_agent(ParlaiParser(True, True).parse_kwargs(**given | changes) | chat)


def answer(agent, *messages):
    clones = [agent.clone() for _ in messages]
    return agent.batch_act([clone.observe(message) for clone, message in zip(clones, messages, strict=True)])


def by_hand(given: dict, context: str, candidates: list[str], count: int):
    """The few in the reranker's order, and all in the retriever's."""
    retriever, reranker = (poly_agents.load(given[name], "float32") for name in ("retriever", "reranker"))
    found = list(dict.fromkeys(ranked.text for ranked in retriever.rank(context, candidates)))  # a text counts once
    return reranker.rank(context, found[:count]), found


def same(reply, ranking) -> None:
    assert reply["text"] == ranking[0].text
    assert reply["text_candidates"] == [ranked.text for ranked in ranking]
    assert reply["candidate_scores"] == pytest.approx([ranked.score for ranked in ranking], abs=1e-4)


@pytest.mark.parametrize("search", ["exact", "certified", "fast"])
@pytest.mark.parametrize("retriever", ["bi", "poly"])
def test_a_pool_is_searched_and_the_best_ranked_anew(given, trained, pool_file, retriever, search):
    given |= {
        "retriever": trained[retriever],
        "fixed_candidates_path": pool_file,
        "search": search,
        "search_scored": 30,
    }
    agent = make(given)
    contexts = ["hello how", "my cat\nblue dog", "six"]
    replies = answer(agent, *(example(context, text(3), training=False) for context in contexts))
    for context, reply in zip(contexts, replies, strict=True):
        same(reply, by_hand(given, context, POOL, 7)[0])


@pytest.mark.parametrize(
    ("retriever", "reranker"), [("bi", "cross"), ("late", "uni"), ("mix", "poly"), ("poly", "mix")]
)
def test_inline_candidates_are_ranked_by_both(given, trained, retriever, reranker):
    given |= {"retriever": trained[retriever], "reranker": trained[reranker], "cascade_top": 3}
    rows = [POOL[:11], POOL[5:9], [*POOL[20:], POOL[20]]]
    messages = [example(f"hello {row[0]}", row[1], row, training=False) for row in rows]
    for row, reply in zip(rows, answer(make(given), *messages), strict=True):
        same(reply, by_hand(given, f"hello {row[0]}", row, 3)[0])


@pytest.mark.parametrize("source", ["inline", "fixed"])
@pytest.mark.parametrize("size", [1, 5])
def test_the_report_holds_recall_ranks_and_times(given, pool_file, source, size):
    given |= {"cascade_top": 2, "batchsize": size} | ({"fixed_candidates_path": pool_file} if source == "fixed" else {})
    report = {name: metric.value() for name, metric in EvalModel.main(**given).items()}
    recalls, ranks = [], []
    for row in ROWS:
        pool = POOL if source == "fixed" else row["candidates"]
        few, everything = by_hand(given, "\n".join(row["context"]), pool, 2)
        few = [ranked.text for ranked in few]
        recalls.append(row["response"] in few)
        ranks.append(1 + (few if recalls[-1] else everything).index(row["response"]))
    assert report["exs"] == len(ROWS) and 0 < sum(recalls) < len(ROWS)
    assert report["retrieve_recall"] == pytest.approx(sum(recalls) / len(ROWS))
    assert report["rank"] == pytest.approx(sum(ranks) / len(ROWS))
    assert report["mrr"] == pytest.approx(sum(1 / rank for rank in ranks) / len(ROWS))
    assert report["hits@1"] == pytest.approx(sum(rank == 1 for rank in ranks) / len(ROWS))
    assert report["hits@5"] == pytest.approx(report["retrieve_recall"])  # two are all there are
    assert report["retrieve_ms"] > 0 and report["rerank_ms"] > 0


@pytest.mark.parametrize("source", ["inline", "fixed"])
def test_what_is_ranked_anew_whole_is_measured_as_by_the_reranker(given, trained, data, pool_file, tmp_path, source):
    more = {"fixed_candidates_path": pool_file} if source == "fixed" else {}
    more |= {"confidence": True, "hits_at": "1,3,5", "ranks_file": str(tmp_path / "ranks")}
    report = EvalModel.main(**given | more | {"cascade_top": 1000})
    rows = [json.loads(line) for line in (tmp_path / "ranks").read_text().splitlines()]
    alone = evaluate(trained["cross"], data, precision="float32", eval_candidates=source, **more)
    names = [name for name in alone if name.startswith(("rank", "mrr", "map", "p@", "recall_", "ndcg"))]
    assert {"map", "ndcg@3", "recall_any@5_low", "mrr_high"} <= set(names)
    for name in names:
        assert report[name].value() == pytest.approx(alone[name].value(), abs=1e-5), name
    assert len(rows) == len(ROWS)
    for row, own in zip(rows, map(json.loads, (tmp_path / "ranks").read_text().splitlines()), strict=True):
        assert row["positives"][0]["rank"] == own["positives"][0]["rank"] and row["candidates"] == own["candidates"]


def test_right_responses_behind_the_few_are_measured_in_the_retriever_s_order(given, pool_file):
    agent = make(given, cascade_top=2, fixed_candidates_path=pool_file)
    labels = [text(i) for i in (3, 11, 17, 23)]
    message = example("hello how", labels[0], training=False)
    message.force_set("eval_labels", labels)
    few, everything = by_hand(given, "hello how", POOL, 2)
    order = [ranked.text for ranked in few]
    order += [found for found in everything if found not in order]
    ranks = sorted(1 + order.index(label) for label in labels)
    found = answer(agent, message)[0]["metrics"]
    assert found["map"].value() == pytest.approx(sum(i / rank for i, rank in enumerate(ranks, 1)) / 4)
    assert found["recall_share@10"].value() == pytest.approx(sum(rank <= 10 for rank in ranks) / 4)


def test_a_cascade_writes_submissions(given, tmp_path):
    more = {"task": "poly_agents:mutual", "data_files": str(FIXTURES / "mutual"), "datatype": "test", "cascade_top": 2}
    given.pop("jsonl_path")
    EvalModel.main(**given | more, submission=str(tmp_path / "out"), submission_format="mutual")
    found = [line.split("\t") for line in (tmp_path / "out").read_text().splitlines()]
    for (name, *letters), one in zip(found, read("mutual", "test", FIXTURES / "mutual", submission="x"), strict=True):
        few, everything = by_hand(given, "\n".join(one.context), one.candidates, 2)
        order = [ranked.text for ranked in few] + everything[2:]
        assert (name, letters) == (one.id, ["ABCD"[one.candidates.index(each)] for each in order])


def test_examples_in_the_documentation_hold():
    assert doctest.testmod(cascade).failed == 0


def test_a_label_outside_the_pool_counts_in_no_figure_but_hits(given, pool_file):
    reply = answer(make(given, fixed_candidates_path=pool_file), example("hello", "not there", training=False))[0]
    assert reply["metrics"].keys() == {"retrieve_ms", "rerank_ms"}


def test_more_than_the_pool_holds_is_all_of_it(given, pool_file):
    agent = make(given, fixed_candidates_path=pool_file, cascade_top=1000)
    reply = answer(agent, example("hello how", text(3), training=False))[0]
    assert sorted(reply["text_candidates"]) == sorted(POOL) and reply["metrics"]["retrieve_recall"].value() == 1
    same(reply, poly_agents.load(given["reranker"], "float32").rank("hello how", reply["text_candidates"]))


def test_the_pool_lies_beside_the_retriever_or_is_a_store(given, trained, pool_file, tmp_path):
    first = answer(make(given, fixed_candidates_path=pool_file), example("hello", text(3), training=False))[0]
    store = f"{trained['bi']}.pool.store"
    again = answer(make(given, fixed_candidates_path=store), example("hello", text(3), training=False))[0]
    assert again["candidate_scores"] == first["candidate_scores"]
    with pytest.raises(ValueError, match="made by another model"):
        make(given, retriever=trained["poly"], fixed_candidates_path=store)


def test_turns_of_an_episode_are_joined_as_in_training(given):
    agent = make(given)
    turns = [("hello", text(3), False), ("my cat", text(4), True), ("six", text(5), True)]
    contexts = []
    for said, label, done in turns:
        message = example(said, label, POOL, training=False)
        message.force_set("episode_done", done)
        contexts.append(agent.observe(message)["full_text"])
        agent.act()
    assert contexts == ["hello", f"hello\n{text(3)}\nmy cat", "six"]


def test_a_chat_remembers_shows_scores_and_does_not_repeat_itself(given, pool_file):
    agent = make(given, fixed_candidates_path=pool_file, interactive_mode=True, show_candidates=3)
    turns = []
    for said in ("hello how", "my cat", "my cat"):
        seen = agent.observe({"text": said, "episode_done": False})
        assert seen["full_text"] == "\n".join([*turns, said])
        ranking = [
            r for r in by_hand(given, seen["full_text"], POOL, 7)[0] if r.text not in seen["full_text"].split("\n")
        ]
        shown = agent.act()["text"].split("\n")
        assert shown[0] == ranking[0].text and len(shown) == 4 and shown[1].split(None, 1)[1] == shown[0]
        turns += [said, shown[0]]
    agent.reset()
    assert agent.observe({"text": "six", "episode_done": False})["full_text"] == "six"


def test_a_chat_marks_who_speaks(given, pool_file):
    agent = make(given, fixed_candidates_path=pool_file, interactive_mode=True, speakers=True)
    assert agent.observe({"text": "hello how", "episode_done": False})["full_text"] == "A: hello how"
    reply = agent.act()["text"]
    assert agent.observe({"text": "six", "episode_done": False})["full_text"] == f"A: hello how\nB: {reply}\nA: six"
    assert agent.act()["text"] != reply


def test_display_model_shows_scores(given, pool_file, capsys):
    more = {"num_examples": 2, "show_candidates": 2, "display_add_fields": "ranking", "batchsize": 1}
    DisplayModel.main(**given | more, fixed_candidates_path=pool_file)
    assert "[ranking]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retriever": ""}, "give --retriever MODEL_FILE"),
        ({"reranker": ""}, "give --reranker MODEL_FILE"),
        ({"reranker": "/no/model"}, "--reranker /no/model: there is no such file"),
        ({"retriever": "cross"}, "cannot cache candidates"),
        ({"retriever": "uni"}, "cannot cache candidates"),
        ({"cascade_top": 0}, "--cascade-top must be at least 1, got 0"),
        ({"fixed_candidates_path": "/no/file"}, "no such file, and no candidate store"),
        ({"interactive_mode": True}, "a chat needs candidates"),
        ({"datatype": "train"}, "a cascade is not trained"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(given, trained, changes, message):
    if changes.get("retriever"):
        changes = {"retriever": trained[changes["retriever"]]}
    with pytest.raises(ValueError, match=message):
        make(given, **changes)


def test_examples_without_candidates_need_a_pool(given):
    with pytest.raises(ValueError, match="bring no candidates; give -fcp FILE"):
        answer(make(given), example("hello", text(3), training=False))


def test_training_says_what_to_train(given, tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps(ROWS[0]))
    with pytest.raises(ValueError, match="train its two models"):
        TrainModel.main(**given | {"datatype": "train", "model_file": str(tmp_path / "model")})
