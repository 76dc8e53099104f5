"""The table that an evaluation prints: each measure once, and what files were written."""

import doctest
import logging

import pytest
from parlai.scripts.eval_model import EvalModel
from parlai.utils import logging as parlai_logging
from parlai.utils.misc import nice_report

from poly_agents.patches import reports
from poly_agents.patches.reports import table
from tests.agents import ROWS, evaluate

ALIASES = {"accuracy", "p@1", "map", "ndcg@1", "recall_any@1", "recall_share@1"}


@pytest.fixture
def messages(caplog):
    """The log lines of ParlAI."""
    parlai_logging.logger.addHandler(caplog.handler)
    before = parlai_logging.logger.level
    parlai_logging.set_log_level(logging.INFO)
    yield lambda: [record.getMessage() for record in caplog.records]
    parlai_logging.set_log_level(before)
    parlai_logging.logger.removeHandler(caplog.handler)


def test_examples_in_the_documentation_hold():
    assert doctest.testmod(reports).failed == 0


def names(printed: str) -> list[str]:
    return [line.split()[0] for line in printed.splitlines() if line.startswith("   ")]


def test_each_measure_is_printed_once_and_the_report_keeps_all_names(trained, data, capsys, messages):
    report = evaluate(trained["bi"], data)
    printed = names(capsys.readouterr().out)
    assert printed == [
        "hits@1",
        "hits@2",
        "hits@5",
        "hits@10",
        "mrr",
        "ndcg@2",
        "ndcg@5",
        "ndcg@10",
        "rank",
        "loss",
        "exs",
    ]
    assert report.keys() >= ALIASES | {"hits@1", "f1"}
    assert not any("Report for" in message for message in messages())


def test_measures_that_differ_are_all_printed():
    report = {"hits@1": 0.5, "recall_any@1": 0.5, "recall_share@1": 0.25, "p@1": 0.5, "mrr": 0.6, "map": 0.4, "exs": 2}
    assert names(table(report)) == ["hits@1", "recall_share@1", "mrr", "map", "exs"]
    assert names(table(report | {"recall_any@1": 0.75})) == [
        "hits@1",
        "recall_any@1",
        "recall_share@1",
        "mrr",
        "map",
        "exs",
    ]
    assert names(table(report | {"hits@100": 1.0, "ctrunc": 0.0, "clen": 7.0})) == names(table(report))
    assert "ctrunc" in names(table(report | {"ctrunc": 0.25}))


def test_several_tasks_are_columns(trained, data, capsys):
    tasks = [f"poly_agents:jsonl:jsonl_path={data}", f"poly_agents:jsonl:jsonl_path={data}/test.jsonl"]
    evaluate(trained["bi"], data, task=",".join(tasks), confidence=True)
    first, *lines = capsys.readouterr().out.splitlines()[-12:]
    assert first.split()[0] == "all" and len(first.split()) == 3
    assert lines[0].split()[0] == "hits@1" and lines[0].count("[") == 3


def test_a_report_without_a_ranking_looks_as_parlai_s():
    assert nice_report({"loss": 0.5, "f1": 0.25}).split() == [*nice_report({"f1": 0.25, "loss": 0.5}).split()]
    assert "f1" in nice_report({"loss": 0.5, "f1": 0.25})


def test_the_files_that_were_written_are_named(trained, data, tmp_path, messages):
    path = tmp_path / "ranks.jsonl"
    evaluate(trained["bi"], data, ranks_file=str(path))
    assert sum(str(path) in message for message in messages()) >= 1
    assert f"the ranks of every context are in {path}" in messages()
    assert len(path.read_text().splitlines()) == len(ROWS)


def test_the_baseline_s_table_has_its_time(data, capsys):
    EvalModel.main(model="poly_agents/bm25", task="poly_agents:jsonl", jsonl_path=data, datatype="valid")
    assert names(capsys.readouterr().out)[-2:] == ["ms", "exs"]
