"""Hard negatives: mined, read from a file, and trained against."""

import pytest
from parlai.scripts.train_model import TrainModel

import poly_agents
from poly_agents._parlai.scripts.poly_mine import PolyMine
from poly_agents.candidates import pool
from poly_agents.learning import negatives
from poly_agents.text.turns import ResponseExample
from tests.agents import EXAMPLES, ROWS, example, make, settings


def ranked(model, own: ResponseExample) -> list:
    return [r for r in model.rank(own.context, [e.response for e in EXAMPLES]) if r.text != own.response]


def test_mined_negatives_are_the_best_wrong_responses(trained, tmp_path):
    model, path = poly_agents.load(trained["bi"], "float32"), str(tmp_path / "mined")
    negatives.mine(path, model, EXAMPLES, 4, -1000.0)
    found = negatives.read(path)
    assert len(found) == len(EXAMPLES)
    for each in EXAMPLES:
        assert found[each.context, each.response] == [r.text for r in ranked(model, each)[:4]]


def test_a_margin_leaves_out_what_scores_like_the_response(trained, tmp_path):
    model, path = poly_agents.load(trained["bi"], "float32"), str(tmp_path / "mined")
    negatives.mine(path, model, EXAMPLES, 30, 0.5)
    found = negatives.read(path)
    for each in EXAMPLES:
        own = next(r.score for r in model.rank(each.context, [e.response for e in EXAMPLES]) if r.text == each.response)
        expected = [r.text for r in ranked(model, each) if r.score < own - 0.5]
        assert set(found[each.context, each.response]) == set(expected)
    assert 0 < sum(map(len, found.values())) < 22 * len(EXAMPLES)


def test_killed_mining_goes_on_where_it_was(trained, tmp_path, monkeypatch):
    model = poly_agents.load(trained["poly"], "float32")
    whole, path = tmp_path / "whole", tmp_path / "killed"
    monkeypatch.setattr(negatives, "CONTEXTS", 4)
    negatives.mine(str(whole), model, EXAMPLES, 3, 0.0)
    lines = whole.read_text().splitlines(keepends=True)
    (tmp_path / "killed.part").write_text("".join(lines[:9]) + lines[9][:20])
    asked = []
    contexts = type(model).context_ids
    monkeypatch.setattr(type(model), "context_ids", lambda self, rows: asked.extend(rows) or contexts(self, rows))
    negatives.mine(str(path), model, EXAMPLES, 3, 0.0)
    assert path.read_text() == whole.read_text()
    assert len(asked) == len(EXAMPLES) - 8
    assert not (tmp_path / "killed.part").exists()


def test_what_runs_once_per_candidate_does_not_mine(trained, tmp_path):
    with pytest.raises(ValueError, match="mine with a model that caches"):
        negatives.mine(str(tmp_path / "mined"), poly_agents.load(trained["cross"]), EXAMPLES, 3, 0.0)


def test_the_command_mines_ten_by_default(trained):
    given = ["-mf", trained["bi"], "-t", "poly_agents:jsonl", "--out", "mined.jsonl"]
    assert PolyMine.setup_args().parse_args(given)["hard_negatives"] == 10
    assert PolyMine.setup_args().parse_args([*given, "--hard-negatives", "3"])["hard_negatives"] == 3


def test_files_of_negatives_that_are_no_such_thing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file; make it with parlai poly_mine"):
        negatives.read(str(tmp_path / "none"))
    (tmp_path / "broken").write_text('{"context": "a", "response": "b", "negatives": []}\n{"context"')
    with pytest.raises(ValueError, match="broken, line 2"):
        negatives.read(str(tmp_path / "broken"))


def test_each_context_meets_its_own_negatives_once():
    found = pool.shared(["a", "b", "c"], [[1], [2], [3]], ["a", "b", "c"])
    found = pool.add(found, ["x", "b", "y"], [[4], [2], [5]], [["x", "b"], [], ["y"]])
    assert found.texts == ["a", "b", "c", "x", "y"]
    assert found.index.tolist() == [[0, 1, 2, 3], [0, 1, 2, -1], [0, 1, 2, 4]]
    assert found.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["bi", "cross"])
def test_training_mines_again_every_so_many_epochs(options, trained, name, monkeypatch):
    mined, mine = [], negatives.mine

    def counted(path, model, examples, count, margin):
        mined.append(len(examples))
        mine(path, model, examples, count, margin)

    monkeypatch.setattr(negatives, "mine", counted)
    more = {} if name == "bi" else {"hard_negatives_model": trained["poly"], "hard_negatives_epochs": 100.0}
    given = settings(options, name, batchsize=8, hard_negatives=2, hard_negatives_margin=-1000.0) | more
    TrainModel.main(**given, num_epochs=3, validation_every_n_epochs=-1)
    assert mined == [len(ROWS)] * (3 if name == "bi" else 1)
    found = negatives.read(f"{options['model_file']}.negatives")
    assert all(len(row) == 2 for row in found.values())


def test_a_file_of_negatives_widens_the_pool(options, trained, tmp_path):
    path = str(tmp_path / "mined")
    negatives.mine(path, poly_agents.load(trained["bi"]), EXAMPLES, 3, -1000.0)
    agent = make(options, "bi", datatype="train", hard_negatives=2, hard_negatives_file=path, batchsize=2)
    rows = [agent.clone() for _ in range(2)]
    observations = [
        twin.observe(example(each.context, each.response)) for twin, each in zip(rows, EXAMPLES[:2], strict=True)
    ]
    found = agent.training_candidates.of(agent.batchify(observations), agent.candidates, 0, 0.0)
    hard = negatives.read(path)
    for number, each in enumerate(EXAMPLES[:2]):
        texts = [found.texts[n] for n in found.row(number)]
        assert texts[:2] == [EXAMPLES[0].response, EXAMPLES[1].response]
        assert texts[2:] == [t for t in hard[each.context, each.response][:2] if t not in texts[:2]]
