"""Learning from a teacher's scores."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from parlai.scripts.train_model import TrainModel
from torch.testing import assert_close

from poly_agents.learning import distill
from poly_agents.learning.distill import ScoresFile
from tests.agents import EXAMPLES, settings, text, train_reports
from tests.rankers import all_rankers


@pytest.mark.parametrize("name", sorted(name for name, kind in all_rankers().items() if not kind.depends_on_pool))
def test_a_teacher_s_scores_are_its_model_s_and_are_kept(trained, name, monkeypatch):
    contexts, texts = [example.context for example in EXAMPLES[:3]], [text(i) for i in range(5)]
    index = torch.tensor([[0, 3, -1], [2, 1, 4], [4, -1, -1]])
    teacher = distill.Teacher(trained[name])
    found = teacher.scores(contexts, texts, index)
    for row, context in enumerate(contexts):
        ranked = {r.text: r.score for r in teacher.model.rank(context, texts)}
        for column, number in enumerate(index[row].tolist()):
            expected = ranked[texts[number]] if number >= 0 else 0.0
            assert found[row, column].item() == pytest.approx(expected, abs=0.05 + 0.01 * abs(expected))
    again = distill.Teacher(trained[name])
    monkeypatch.setattr(type(again.model.ranker), "score", None)  # it would have to score
    assert_close(again.scores(contexts, texts, index), found)


def test_scores_of_other_weights_are_neither_read_nor_mixed_with_new_ones(tmp_path):
    path = str(tmp_path / "scores")
    first = ScoresFile(path, "one")
    first.write({b"a": 1.0})
    assert ScoresFile(path, "one").read({b"a", b"b"}) == {b"a": 1.0}
    second = ScoresFile(path, "two")
    assert second.read({b"a"}) == {}
    first.write({b"a": 3.0})  # a run that began before
    assert first.read({b"a"}) == second.read({b"a"}) == {}
    second.write({b"a": 2.0})
    assert (first.read({b"a"}), second.read({b"a"})) == ({}, {b"a": 2.0})


def test_a_damaged_file_of_scores_is_started_again_and_a_busy_one_is_not(tmp_path, monkeypatch):
    path = tmp_path / "scores"
    path.write_bytes(b"not a database at all" * 100)
    scores = ScoresFile(str(path), "one")
    scores.write({bytes([number]): float(number) for number in range(200)})
    twin = ScoresFile(str(path), "one")
    path.write_bytes(b"not a database at all" * 1000)
    assert scores.read({b"a"}) == {}
    scores.write({b"a": 1.0})
    assert twin.read({b"a"}) == {b"a": 1.0} == scores.read({b"a"})  # it took the new file
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, timeout, **more: connect(*args, timeout=0.1, **more))
    busy = connect(path, isolation_level=None)
    busy.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ValueError, match=r"scores cannot be used \(database is locked\)"):
        ScoresFile(str(path), "one")
    busy.execute("COMMIT")
    assert ScoresFile(str(path), "one").read({b"a"}) == {b"a": 1.0}
    with pytest.raises(ValueError, match="is a folder"):
        ScoresFile(str(tmp_path), "one")


def test_two_students_that_begin_together_share_their_scores(tmp_path):
    files = [ScoresFile(str(tmp_path / "scores"), "one") for _ in range(4)]
    with ThreadPoolExecutor(1) as thread:  # a connection belongs to its thread
        thread.submit(lambda: ScoresFile(str(tmp_path / "scores"), "one").write({b"c": 3.0})).result()
    for number, file in enumerate(files):
        file.write({bytes([number]): float(number)})
    keys = {bytes([number]) for number in range(4)} | {b"c"}
    assert all(len(file.read(keys)) == 5 for file in files)


def test_a_teacher_whose_scores_depend_on_the_pool_is_refused(trained):
    with pytest.raises(ValueError, match="depend on the other candidates"):
        distill.Teacher(trained["uni"])


@pytest.mark.parametrize("loss", ["kl", "margin-mse"])
@pytest.mark.parametrize("name", ["bi", "poly", "mix", "late", "cross"])
def test_every_ranker_learns_from_a_teacher(options, trained, name, loss):
    given = settings(options, name, teacher_model=trained["cross"], distill_loss=loss, distill_weight=1.0)
    TrainModel.main(**given, num_epochs=2, negatives=3, validation_every_n_epochs=-1)
    assert all(0 <= report["mean_loss"] < 1e4 for report in train_reports(options))


def test_a_student_with_no_other_aim_comes_near_its_teacher(options, trained):
    given = settings(options, "bi", teacher_model=trained["poly"], distill_weight=1.0, learningrate=0.003, batchsize=23)
    TrainModel.main(**given, num_epochs=30, validation_every_n_epochs=-1, log_every_n_steps=1)
    losses = [report["mean_loss"] for report in train_reports(options)]
    assert losses[-1] < losses[0] / 2
