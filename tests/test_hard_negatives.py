"""Hard negatives: mined, read from a file, and trained against."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from parlai.scripts.train_model import TrainModel

import poly_agents
from poly_agents._parlai.scripts.poly_mine import PolyMine
from poly_agents.candidates import pool
from poly_agents.learning import negatives
from poly_agents.learning.training import TrainingOptions
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


def test_mining_that_is_killed_goes_on_with_its_own_examples_only(trained, tmp_path):
    model, path = poly_agents.load(trained["bi"], "float32"), tmp_path / "mined"
    negatives.mine(str(path), model, EXAMPLES, 3, -1000.0)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    other = json.loads(lines[5]) | {"context": "another one"}
    for harmed in (
        b"".join(lines[:5]) + negatives.json_line(other) + lines[6],  # the data has changed since
        b"".join(lines[:4]) + lines[4][:9] + b"\x00\xff\n" + lines[5],  # the disk was full for a moment
        b"\xff\xfe" + lines[0],
        b"",
    ):
        Path(f"{path}.part").write_bytes(harmed)
        negatives.mine(str(path), model, EXAMPLES, 3, -1000.0)
        assert path.read_bytes() == whole


def test_two_do_not_mine_into_one_file(trained, tmp_path):
    code = "import sys; from pathlib import Path; from poly_agents.files.atomic import only_writer\n"
    code += "with only_writer(Path(sys.argv[1])): print('mining', flush=True); sys.stdin.read()"
    path = str(tmp_path / "mined")
    other = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "mining\n"
    with pytest.raises(ValueError, match="mined is being written by another process"):
        negatives.mine(path, poly_agents.load(trained["bi"]), EXAMPLES, 3, 0.0)
    other.communicate("")
    negatives.mine(path, poly_agents.load(trained["bi"]), EXAMPLES, 3, -1000.0)
    assert len(negatives.read(path)) == len(EXAMPLES)
    with pytest.raises(ValueError, match="is a folder, and a file would take its place"):
        negatives.mine(str(tmp_path), poly_agents.load(trained["bi"]), EXAMPLES, 3, 0.0)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\ufeff"])
def test_a_mined_file_is_read_back_whatever_is_in_its_texts(trained, tmp_path, mark):
    examples = [ResponseExample(f"one{mark}two", f"cat{mark}dog", None), *EXAMPLES[:4]]
    path = str(tmp_path / "mined")
    negatives.mine(path, poly_agents.load(trained["bi"]), examples, 9, -1000.0)
    found = negatives.read(path)
    assert list(found) == [(each.context, each.response) for each in examples]
    assert sum(f"cat{mark}dog" in row for row in found.values()) == 4


def test_no_right_response_of_a_context_and_no_near_copy_of_one_is_its_negative(trained, tmp_path):
    texts = ["my cat", "My cat!", " my  cat ", "a dog", "A dog.", "blue", "six", "fine thanks", "Fine, thanks"]
    examples = [
        ResponseExample("any pets", "my cat", None),
        ResponseExample("any pets", "a dog", None),
        ResponseExample("Any pets?", "six", None, ["fine thanks"]),
        *(ResponseExample(f"context {number}", text, None) for number, text in enumerate(texts)),
    ]
    path = str(tmp_path / "mined")
    negatives.mine(path, poly_agents.load(trained["bi"]), examples, 20, -1000.0)
    found = negatives.read(path)
    for response in ("my cat", "a dog"):
        assert found["any pets", response] == ["blue"]
    assert found["Any pets?", "six"] == ["blue"]
    assert set(found["context 3", "a dog"]) == set(map(str.strip, texts)) - {"a dog", "A dog."}
    rows = [
        {"context": "any pets", "response": "my cat", "negatives": ["A DOG", "blue", "My  cat."]},
        {"context": "any pets", "response": "a dog", "negatives": ["my cat", "six"]},
    ]
    Path(path).write_text("\n".join(map(json.dumps, rows)))  # as others may have mined it
    assert negatives.read(path) == {("any pets", "my cat"): ["blue"], ("any pets", "a dog"): ["six"]}


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
    pair = '{"context": "a", "response": "b", '
    for row in (f'{pair}"negatives": "no"}}', f'{pair}"negatives": [null]}}', '{"context": 1}', "[" * 100_000):
        (tmp_path / "broken").write_text(row)
        with pytest.raises(ValueError, match="broken, line 1: not an object with context, response, negatives"):
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

    def counted(path, model, examples, *given):
        mined.append(len(examples))
        mine(path, model, examples, *given)

    monkeypatch.setattr(negatives, "mine", counted)
    more = {} if name == "bi" else {"hard_negatives_model": trained["poly"], "hard_negatives_epochs": 100.0}
    given = settings(options, name, batchsize=8, hard_negatives=2, hard_negatives_margin=-1000.0) | more
    TrainModel.main(**given, num_epochs=3, validation_every_n_epochs=-1)
    assert mined == [len(ROWS)] * (3 if name == "bi" else 1)
    found = negatives.read(f"{options['model_file']}.negatives")
    assert all(len(row) == 2 for row in found.values())


def test_a_resumed_run_keeps_what_it_mined_until_mining_is_due_again(trained, tmp_path):
    chosen = TrainingOptions(hard_negatives=2, hard_negatives_margin=-1000.0)
    model, later = (poly_agents.load(trained[name]) for name in ("bi", "poly"))

    def of(options, epochs: float, model) -> bytes:
        run = negatives.HardNegatives(options, str(tmp_path / "model"), lambda: EXAMPLES)
        run.of([], epochs, model)
        return (tmp_path / "model.negatives").read_bytes()

    first = of(chosen, 0.0, model)
    assert of(chosen, 0.5, later) == first  # resumed within an epoch
    assert of(replace(chosen, hard_negatives=3), 0.5, later) != first
    again = of(chosen, 0.0, later)  # another run
    assert again != first and of(chosen, 1.2, model) != again


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
