"""BEIR and MS MARCO: judged documents, re-ranked or found in a whole corpus."""

import json

import pytest
from parlai.scripts.eval_model import EvalModel

from poly_agents.candidates.reading import read_candidates
from poly_agents.tasks.beir import documents, write_corpus, write_run
from tests.data import FIXTURES, read, shared, spoil, teacher

TOY = FIXTURES / "beir/toy"


def test_beir_s_labels_are_the_relevant_documents_best_judged_first():
    first, second, third = read("beir", "test", TOY)
    assert (first.context, first.response) == (["what falls?"], "Snow It falls in winter.")
    assert (first.others, first.candidates) == (["Rain It falls from clouds."], None)
    assert [second.response, third.response] == ["Sun shines.", "Sun shines."]
    assert read("beir:toy", "valid", FIXTURES / "beir") == [first, second, third]


@pytest.mark.parametrize("run", ["run.txt", "run.jsonl"])
def test_beir_s_run_gives_the_candidates_and_their_grades(run):
    options = {"beir_run": str(FIXTURES / "beir" / run), "ignore_bad_candidates": True}
    first, second, third = read("beir", "test", TOY, **options)
    assert first.candidates == ["Sun shines.", "Rain It falls from clouds."]
    assert first.grades == [0.0, 1.0]
    assert (first.response, first.others) == ("Rain It falls from clouds.", ["Snow It falls in winter."])
    assert second.candidates == ["Sun shines.", "Rain It falls from clouds."]  # without the query's own document
    assert second.grades == [1.0, 0.0]
    assert third.response not in third.candidates
    assert len(read("beir", "test", TOY, **options, beir_top=1)[0].candidates) == 1


def test_a_run_that_was_written_is_read(tmp_path):
    write_run(tmp_path / "run.txt", {"q1": [("d3", 2.5), ("d1", -1.0)], "q2": [("d1", 0.1)]})
    run = teacher("beir", "test", TOY, beir_run=str(tmp_path / "run.txt")).run("test")
    assert run == {"q1": ["d3", "d1"], "q2": ["d1"]}


def test_beir_s_train_adds_what_was_judged_right():
    found = read("beir", "train:ordered", TOY, beir_run=str(FIXTURES / "beir/run.txt"))
    assert found[0].candidates[2:] == ["Snow It falls in winter."] and found[0].grades == [0.0, 1.0, 2.0]
    assert all(example.response in example.candidates for example in found)


def test_beir_s_corpus_is_a_file_of_candidates(tmp_path):
    assert write_corpus(TOY, tmp_path / "corpus.jsonl") == 4  # one of five has no words
    found = list(read_candidates(tmp_path / "corpus.jsonl"))
    assert found == list(documents(TOY))
    assert found[0] == {"text": "Rain It falls from clouds.", "id": "d1"} and found[2]["text"] == "Sun shines."


@pytest.mark.parametrize(
    ("file", "line", "place"),
    [
        ("corpus.jsonl", '{"_id": "x"}', r"corpus\.jsonl:6: there is no 'text'"),
        (
            "queries.jsonl",
            '{"_id": null, "text": "a"}',
            r"queries\.jsonl:5: _id must be a text or a whole number, got None",
        ),
        ("queries.jsonl", '{"_id": 3, "text": ["a"]}', r"queries\.jsonl:5: text must be a text, got \['a'\]"),
        ("qrels/test.tsv", "q1\td1\tinf", r"test\.tsv:7: a finite number is expected, got inf"),
        ("qrels/test.tsv", "q1\td1", r"test\.tsv:7: a row has 3 columns separated by tabs, got 2"),
        ("qrels/test.tsv", "q1\td1\tgood", r"test\.tsv:7: could not convert string to float: 'good'"),
    ],
)
def test_a_bad_row_of_beir_is_named_by_file_and_line(tmp_path, file, line, place):
    folder = spoil(TOY, file, line, tmp_path)
    with pytest.raises(ValueError, match=place):
        read("beir", "test", folder)
    assert teacher("beir", "test", folder, skip_bad_rows=True).skipped == 1


def test_a_bad_run_is_refused(tmp_path):
    path = tmp_path / "run.txt"
    path.write_text("q1 Q0 d1 2 0.5\n")
    with pytest.raises(ValueError, match=r"run\.txt:1: a line of a TREC run has 6 columns, got 5"):
        read("beir", "test", TOY, beir_run=str(path))
    with pytest.raises(ValueError, match="--beir-run: there is no file /nowhere"):
        read("beir", "test", TOY, beir_run="/nowhere")
    with pytest.raises(ValueError, match="--beir-top must be at least 1, got 0"):
        read("beir", "test", TOY, beir_run=str(FIXTURES / "beir/run.txt"), beir_top=0)


def test_a_bad_document_is_named_where_the_corpus_is_written(tmp_path):
    folder = spoil(TOY, "corpus.jsonl", "{", tmp_path / "toy")
    with pytest.raises(ValueError, match=r"corpus\.jsonl:6: "):
        write_corpus(folder, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_the_real_scifact(tmp_path):
    folder = shared("scifact")
    test, train = read("beir", "test", folder), read("beir:scifact", "train:ordered", folder.parent)
    assert (len(test), sum(1 + len(example.others) for example in test)) == (300, 339)
    assert (len(train), sum(1 + len(example.others) for example in train)) == (809, 919)
    assert test[0].context == ["0-dimensional biomaterials show inductive properties."]
    assert test[0].response.startswith("New opportunities: the use of nanotechnologies")
    assert write_corpus(folder, tmp_path / "corpus.jsonl") == 5183
    texts = {json.loads(line)["text"] for line in (tmp_path / "corpus.jsonl").read_text("utf-8").split("\n") if line}
    assert all({example.response, *example.others} <= texts for example in test + train)


def test_msmarco_ranks_what_was_found(caplog):
    first, second, third = read("msmarco", "valid", FIXTURES / "msmarco")
    assert (first.context, first.response) == (["why sing ?"], "Singing is fun .")
    assert (first.candidates, first.grades) == (["Birds sing to mark a place .", "Singing is fun ."], [0.0, 1.0])
    assert second.candidates == ["Birds sing to mark a place .", "Rye is a grain .", "Sow in autumn ."]
    assert (second.response, second.others) == ("Rye is a grain .", [])
    assert (third.response, third.candidates) == ("Sow in autumn .", ["Singing is fun ."])


def test_msmarco_s_triples():
    first, second = read("msmarco", "train:ordered", FIXTURES / "msmarco")
    assert (first.context, first.response) == (["what is rye ?"], "Rye is a grain .")
    assert first.candidates == ["Rye is a grain .", "Rye is a town ."]
    assert second.context == ["why sing ?"]
    assert len(read("msmarco", "train:ordered", FIXTURES / "msmarco", msmarco_triples=1)) == 1
    with pytest.raises(ValueError, match="--msmarco-triples must be at least 1, got 0"):
        read("msmarco", "train:ordered", FIXTURES / "msmarco", msmarco_triples=0)
    with pytest.raises(ValueError, match="test set are hidden: give eval_model --submission FILE"):
        read("msmarco", "test", FIXTURES / "msmarco")


@pytest.mark.parametrize(
    ("file", "split", "line", "place"),
    [
        ("top1000.dev", "valid", "1\t2\tq", r"top1000\.dev:9: a row has 4 columns separated by tabs"),
        ("qrels.dev.small.tsv", "valid", "1\t2\t3", r"qrels\.dev\.small\.tsv:6: a judgement is a query, 0,"),
        ("triples.train.small.tsv", "train:ordered", "q\t\ta", r"triples\.train\.small\.tsv:3: a column is empty"),
    ],
)
def test_a_bad_row_of_msmarco_is_named_by_file_and_line(tmp_path, file, split, line, place):
    folder = spoil(FIXTURES / "msmarco", file, line, tmp_path)
    with pytest.raises(ValueError, match=place):
        read("msmarco", split, folder)
    assert teacher("msmarco", split, folder, skip_bad_rows=True).skipped == 1


def test_real_triples_of_msmarco():
    found = read("msmarco", "train:ordered", shared("ms_marco_toy/triplets/raw.tsv"))
    assert len(found) == 100
    assert found[0].context == ["is a little caffeine ok during pregnancy"]
    assert found[0].candidates[1].startswith("It is generally safe for pregnant women to eat chocolate")


def test_parlai_ranks_the_whole_corpus_of_beir(tiny, tmp_path):
    write_corpus(TOY, tmp_path / "corpus.jsonl")
    report = EvalModel.main(
        model="poly_agents/bi",
        backbone=tiny,
        task="poly_agents:beir:toy",
        data_files=str(FIXTURES / "beir"),
        datatype="test",
        eval_candidates="fixed",
        fixed_candidates_path=str(tmp_path / "corpus.jsonl"),
        text_truncate=31,
        label_truncate=13,
        batchsize=2,
    )
    assert report["exs"] == 3 and 1 <= report["rank"] <= 4


@pytest.mark.parametrize(("task", "folder"), [("beir", TOY), ("msmarco", FIXTURES / "msmarco")])
def test_parlai_re_ranks_where_nothing_right_was_found(tiny, task, folder):
    options = {"beir_run": str(FIXTURES / "beir/run.txt")} if task == "beir" else {}
    report = EvalModel.main(
        model="poly_agents/bi",
        backbone=tiny,
        task=f"poly_agents:{task}",
        data_files=str(folder),
        datatype="valid",
        ignore_bad_candidates=True,
        text_truncate=31,
        label_truncate=13,
        batchsize=2,
        **options,
    )
    assert report["exs"] == 3
