"""Learning from a teacher's scores."""

import pytest
import torch
from parlai.scripts.train_model import TrainModel
from torch.testing import assert_close

from poly_agents.learning import distill
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


def test_scores_of_other_weights_and_damaged_files_are_not_used(tmp_path):
    path = str(tmp_path / "scores")
    first = distill.open_scores(path, "one")
    with first:
        first.execute("INSERT INTO scores VALUES (?, ?)", [b"pair", 1.0])
    assert distill.open_scores(path, "one").execute("SELECT count(*) FROM scores").fetchone() == (1,)
    assert distill.open_scores(path, "two").execute("SELECT count(*) FROM scores").fetchone() == (0,)
    (tmp_path / "damaged").write_bytes(b"not a database at all" * 100)
    assert distill.open_scores(str(tmp_path / "damaged"), "x").execute("SELECT count(*) FROM scores").fetchone() == (0,)


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
