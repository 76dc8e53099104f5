"""BEIR as people's files have it, measured as trec_eval does."""

import json
from pathlib import Path

import pytest
import pytrec_eval
from parlai.scripts.eval_model import EvalModel

from poly_agents.tasks.beir import write_corpus
from tests.data import read

DOCUMENTS = [
    ("1", "red cat"),
    ("2", "blue dog"),
    ("3", "red cat"),
    ("4", ""),
    ("5", "hello hi"),
    ("6", "one two three"),
]
QUERIES = [("q1", "a red cat"), ("q2", "blue"), ("q3", "hello"), ("q4", "five six")]
JUDGED = [
    ("q1", "1", 1),
    ("q1", "9", 2),
    ("q2", "2", 2),
    ("q2", "6", 1),
    ("q3", "4", 1),
    ("q3", "5", 1),
    ("q4", "8", 1),
]
LOST = "3 relevant documents are not in the corpus, or empty there: they count as missed"


def write(folder: Path, documents=DOCUMENTS, queries=QUERIES, judged=JUDGED, start: str = "") -> Path:
    """Write a data set; the corpus begins with `start`."""
    (folder / "qrels").mkdir(exist_ok=True)
    for name, rows in (("corpus", documents), ("queries", queries)):
        lines = [json.dumps({"_id": key, "text": text}) for key, text in rows]
        (folder / f"{name}.jsonl").write_text(start + "\n".join(lines) + "\n", encoding="utf-8")
    rows = [f"{query}\t{document}\t{grade}" for query, document, grade in judged]
    (folder / "qrels/test.tsv").write_text("\n".join([f"{start}query-id\tcorpus-id\tscore", *rows]), encoding="utf-8")
    return folder


def write_run(path: Path, start: str = "") -> Path:
    """Write a run in which no two documents of a query have the same score."""
    ranked = {"q1": "2165", "q2": "6215", "q3": "1526", "q4": "1256"}
    rows = [f"{q} Q0 {d} {n} {9 - n} x" for q, documents in ranked.items() for n, d in enumerate(documents)]
    path.write_text(start + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def evaluate(folder: Path, **options) -> dict[str, float]:
    given = {"model": "poly_agents/bm25", "task": "poly_agents:beir", "data_files": str(folder), "datatype": "test"}
    return {name: float(value) for name, value in EvalModel.main(**given | options).items()}


def of_trec_eval(run: Path) -> dict[str, float]:
    """Means over all judged queries, as the official scripts have them."""
    judged: dict[str, dict[str, int]] = {}
    for query, document, grade in JUDGED:
        judged.setdefault(query, {})[document] = grade
    with run.open() as file:
        found = pytrec_eval.parse_run(file)
    kinds = {"map", "recip_rank", "ndcg_cut_5", "recall_5", "recall_2"}
    figures = pytrec_eval.RelevanceEvaluator(judged, kinds).evaluate(found)
    assert len(figures) == len(judged)
    return {kind: sum(one[kind] for one in figures.values()) / len(figures) for kind in kinds}


def same(report: dict, expected: dict) -> None:
    names = {
        "map": "map",
        "mrr": "recip_rank",
        "ndcg@5": "ndcg_cut_5",
        "recall_share@5": "recall_5",
        "recall_share@2": "recall_2",
    }
    assert {name: report[name] for name in names} == pytest.approx({n: expected[other] for n, other in names.items()})


@pytest.mark.parametrize("how", ["the corpus", "a run"])
def test_measures_equal_those_of_trec_eval_over_documents_that_nobody_has(tmp_path, monkeypatch, how):
    """q1 has one document that is lost, q3 an empty one, q4 none that is there."""
    warned = []
    monkeypatch.setattr("poly_agents.tasks.beir.logging.warning", warned.append)
    folder = write(tmp_path, documents=[row for row in DOCUMENTS if row[0] != "3"])
    out = tmp_path / "out.run"
    if how == "the corpus":
        write_corpus(folder, tmp_path / "corpus.candidates.jsonl")
        options = {"fixed_candidates_path": str(tmp_path / "corpus.candidates.jsonl")}
    else:
        options = {"beir_run": str(write_run(tmp_path / "run.txt"))}
    report = evaluate(folder, submission=str(out), **options)
    assert LOST in warned and report["exs"] == 4
    scores = [line.split() for line in out.read_text().splitlines()]
    assert {row[0] for row in scores} == {"q1", "q2", "q3", "q4"}
    broken = tmp_path / "broken.run"  # trec_eval breaks ties its own way: here they count against the right ones
    right = {(query, document) for query, document, _ in JUDGED}
    lines = [f"{q} Q0 {d} {n} {float(s) - 1e-4 * ((q, d) in right)} x" for q, _, d, n, s, _ in scores]
    broken.write_text("\n".join(lines) + "\n")
    same(report, of_trec_eval(broken))


def test_a_ranker_evaluates_where_a_right_document_is_lost(tiny, tmp_path):
    folder = write(tmp_path)
    write_corpus(folder, tmp_path / "candidates.jsonl")
    options = {"model": "poly_agents/bi", "backbone": tiny, "text_truncate": 31, "label_truncate": 13, "batchsize": 2}
    pool = {"eval_candidates": "fixed", "fixed_candidates_path": str(tmp_path / "candidates.jsonl")}
    report = evaluate(folder, **options, **pool)
    assert report["exs"] == 4 and 0 < report["recall_share@10"] == pytest.approx((0.5 + 1 + 0.5 + 0) / 4)


def test_equal_texts_are_one_candidate_in_a_run_and_in_the_corpus(tmp_path):
    folder = write(tmp_path, judged=[("q1", "3", 1)], queries=QUERIES[:1])
    assert write_corpus(folder, tmp_path / "corpus.candidates.jsonl") == 4
    (first, *_) = map(json.loads, (tmp_path / "corpus.candidates.jsonl").read_text().splitlines())
    assert first == {"text": "red cat", "id": "1", "same": ["3"]}
    (tmp_path / "run.txt").write_text("".join(f"q1 Q0 {d} 1 {9 - int(d)} x\n" for d in "12356"))
    of_corpus = evaluate(
        folder, fixed_candidates_path=str(tmp_path / "corpus.candidates.jsonl"), submission=str(tmp_path / "out")
    )
    of_run = evaluate(folder, beir_run=str(tmp_path / "run.txt"))
    assert of_corpus["hits@1"] == of_run["hits@1"] == of_corpus["p@1"] == of_run["p@1"] == of_corpus["mrr"] == 1
    assert {line.split()[2] for line in (tmp_path / "out").read_text().splitlines()} == {"1", "2", "3", "5", "6"}


def test_of_two_texts_under_one_id_the_last_counts_and_it_is_said(tmp_path, monkeypatch):
    warned = []
    monkeypatch.setattr("poly_agents.tasks.beir.logging.warning", warned.append)
    documents = [("1", "old words"), ("2", "blue dog"), ("1", "red cat"), ("2", "blue dog")]
    folder = write(tmp_path, documents, [*QUERIES[:2], ("q2", "what dog?")], [("q1", "1", 1), ("q2", "2", 1)])
    found = read("beir", "test", folder)
    assert [(e.context, e.response) for e in found] == [(["a red cat"], "red cat"), (["what dog?"], "blue dog")]
    write_corpus(folder, tmp_path / "candidates.jsonl")
    assert [json.loads(line)["text"] for line in (tmp_path / "candidates.jsonl").read_text().splitlines()] == [
        "red cat",
        "blue dog",
    ]
    assert [line.split(" have ")[0] for line in warned] == ["1 documents", "1 queries", "1 documents"]


def test_byte_order_marks_numbers_and_quotes(tmp_path):
    plain = write(tmp_path)
    run = write_run(tmp_path / "run.txt")
    expected = [read("beir", "test", plain), read("beir", "test", plain, beir_run=str(run))]
    marked = tmp_path / "marked"
    marked.mkdir()
    documents = [(int(key) if key != "2" else 2.0, text) for key, text in DOCUMENTS]
    write(marked, documents, judged=[(f'"{q}"', f'"{d}"', g) for q, d, g in JUDGED], start="\ufeff")
    run = write_run(marked / "run.txt", start="\ufeff")
    assert [read("beir", "test", marked), read("beir", "test", marked, beir_run=str(run))] == expected
    lines = [{"query_id": "q1", "documents": [2, "1", 6.0]}]
    (marked / "run.jsonl").write_text("\ufeff" + "\n".join(map(json.dumps, lines)), encoding="utf-8")
    (example,) = read("beir", "test", write(marked, documents, QUERIES[:1]), beir_run=str(marked / "run.jsonl"))
    assert example.candidate_ids == ["2", "1", "6"]


def test_judgements_of_other_queries_are_named(tmp_path):
    folder = write(tmp_path, judged=[("PLAIN-1", "1", 1)])
    with pytest.raises(
        ValueError, match=r"queries\.jsonl has none of the judged queries; the first of these is 'PLAIN-1'"
    ):
        read("beir", "test", folder)


@pytest.mark.parametrize("score", ["nan", "inf", "-inf", "1e999"])
def test_scores_that_are_not_finite_are_refused_by_file_and_line(tmp_path, score):
    run = write_run(tmp_path / "run.txt")
    run.write_text(run.read_text() + f"q1 Q0 6 9 {score} x\n")
    with pytest.raises(ValueError, match=rf"run\.txt:17: a finite number is expected, got {score}"):
        read("beir", "test", write(tmp_path), beir_run=str(run))
