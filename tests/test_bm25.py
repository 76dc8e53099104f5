"""The baseline without weights: its words, its scores, and what it ranks."""

import doctest
import json

import bm25s
import numpy as np
import pytest
from parlai.core.agents import create_agent
from parlai.core.message import Message
from parlai.scripts.eval_model import EvalModel
from parlai.scripts.train_model import TrainModel

from poly_agents.scoring import bm25
from poly_agents.scoring.bm25 import Bm25, count, scores, words
from tests.data import FIXTURES

TEXTS = ["my cat", "my dog", "the red cat", "hello there , my old friend", "我很喜欢打篮球", "打球", "コーヒーが好き"]
CHINESE = [
    ("你喜欢打篮球吗", "我很喜欢打篮球"),
    ("今天天气怎么样", "天气很好"),
    ("这件衣服有货吗", "衣服还有货"),
    ("谢谢", "不用谢"),
]


def test_examples_in_the_documentation_hold():
    assert doctest.testmod(bm25).failed == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Don't STOP, ünïcode!", ["don", "t", "stop", "ünïcode"]),
        ("下载了", ["下", "载", "了", "下载", "载了"]),
        ("ＦＴＶ３", ["ftv3"]),
        ("コーヒー", ["コ", "ー", "ヒ", "ー", "コー", "ーヒ", "ヒー"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("?! ...", []),
    ],
)
def test_words_of_every_script(text, found):
    assert words(text) == found


@pytest.mark.parametrize("context", ["a red cat , my friend", "打篮球", "好", "", "nothing known"])
def test_scores_equal_those_of_bm25s(context):
    counted = count(TEXTS)
    reference = bm25s.BM25(k1=bm25.K1, b=bm25.B, method="lucene")
    reference.index([words(text) for text in TEXTS], show_progress=False)
    asked = [word for word in dict.fromkeys(words(context)) if any(word in words(text) for text in TEXTS)]
    expected = reference.get_scores(asked) if asked else np.zeros(len(TEXTS))
    assert scores(context, Bm25(counted).weights(counted)) == pytest.approx(expected, abs=1e-6)


def tabs(folder, pairs) -> dict:
    """Write pairs in the format of Douban, E-commerce and RRS, each among all responses."""
    for name in ("train.txt", "test.txt"):
        rows = [f"{int(own == other)}\t{turn}\t{other}" for turn, own in pairs for _, other in pairs]
        (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"task": "poly_agents:tabs", "data_files": str(folder), "datatype": "test"}


def test_chinese_is_ranked(tmp_path):
    report = EvalModel.main(model="poly_agents/bm25", **tabs(tmp_path, CHINESE), batchsize=2)
    assert report["hits@1"].value() == 1
    report = EvalModel.main(
        model="poly_agents/tfidf", task="poly_agents:rrs", data_files=str(FIXTURES / "rrs"), datatype="test"
    )
    assert report["exs"].value() > 0 and report["map"].value() > 0


def test_without_a_train_split_words_are_weighed_by_the_candidates(tmp_path):
    given = tabs(tmp_path, CHINESE)
    (tmp_path / "train.txt").unlink()
    assert EvalModel.main(model="poly_agents/bm25", **given)["hits@1"].value() == 1


def agent(**options):
    return create_agent({"model": "poly_agents/bm25"} | options)


def test_a_chat_ranks_the_pool_and_remembers_the_dialogue(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "id": str(n)}) for n, text in enumerate(TEXTS)))
    given = {"task": "interactive", "interactive_mode": True, "datatype": "valid"}
    chat = agent(fixed_candidates_path=str(path), show_candidates=2, **given)
    chat.observe(Message(text="打篮球吗？", episode_done=False))
    assert chat.act()["text"].split("\n")[0] == "我很喜欢打篮球"
    chat.observe(Message(text="my red one", episode_done=False))
    reply = chat.act()
    assert reply["text"].split("\n")[0] == "打球" and len(reply["text"].split("\n")) == 3
    assert "the red cat" in reply["text_candidates"] and "我很喜欢打篮球" not in reply["text_candidates"]
    with pytest.raises(ValueError, match="a chat needs candidates; give -fcp FILE"):
        agent(**given)


def test_a_pool_is_ranked_whole_and_its_ids_are_submitted(tmp_path):
    from poly_agents.tasks.beir import write_corpus

    write_corpus(FIXTURES / "beir/toy", tmp_path / "corpus.jsonl")
    given = {"task": "poly_agents:beir", "data_files": str(FIXTURES / "beir/toy"), "datatype": "test"}
    pool = {"fixed_candidates_path": str(tmp_path / "corpus.jsonl"), "submission": str(tmp_path / "run")}
    report = EvalModel.main(model="poly_agents/bm25", **given, **pool)
    assert report["exs"] == 3 and report["mrr"] > 0
    rows = [line.split() for line in (tmp_path / "run").read_text().splitlines()]
    assert len(rows) == 3 * 4 and {row[2] for row in rows} == {"d1", "d2", "d3", "q2"}
    with pytest.raises(ValueError, match="these examples bring no candidates; give -fcp FILE"):
        EvalModel.main(model="poly_agents/bm25", **given)


def test_there_is_nothing_to_train(data, tmp_path):
    with pytest.raises(ValueError, match="bm25 has no weights to train; evaluate it with eval_model"):
        TrainModel.main(
            model="poly_agents/bm25", task="poly_agents:jsonl", jsonl_path=data, model_file=str(tmp_path / "model")
        )
