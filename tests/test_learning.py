"""Teachers, hard negatives, batches beyond memory, several processes: each against the plain way."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from parlai.scripts.multiprocessing_train import MultiProcessTrain
from parlai.scripts.train_model import TrainModel
from parlai.utils.distributed import find_free_port
from torch import distributed as dist
from torch.testing import assert_close

import poly_agents
from poly_agents import processes
from poly_agents.agents.teachers import Turn
from poly_agents.candidates import pool
from poly_agents.learning import distill, losses, negatives, training
from poly_agents.learning.training import TrainingOptions
from poly_agents.models import layer_sweep
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.tokens import Tokens, pad
from tests.conftest import ROWS, all_rankers, example, make, make_ranker, settings, text

LENGTHS = 7, 2, 13, 5, 3, 8, 1  # contexts
RESPONSES = 3, 11, 1, 6, 2, 4, 9  # lengths of their responses


# --- the losses -----------------------------------------------------------------------------------------------------


def test_kl_is_zero_for_equal_lists_and_torch_s_otherwise():
    torch.manual_seed(1)
    scores, teacher = torch.randn(3, 5) * 3, torch.randn(3, 5) * 3
    assert_close(losses.kl(teacher + 7, teacher, 2.0), torch.zeros(3), atol=1e-6, rtol=0)
    both = (scores / 2).log_softmax(-1), (teacher / 2).log_softmax(-1)
    expected = 4 * torch.nn.functional.kl_div(*both, log_target=True, reduction="none").sum(-1)
    assert_close(losses.kl(scores, teacher, 2.0), expected)


@pytest.mark.parametrize(
    "loss", [partial(losses.kl, temperature=1.0), partial(losses.margin_mse, labels=torch.tensor([1]))]
)
def test_absent_candidates_count_for_nothing(loss):
    scores = torch.tensor([[1.0, 2.0, -torch.inf, 5.0]], requires_grad=True)
    teacher = torch.tensor([[3.0, 1.0, 0.0, 2.0]])
    kept = torch.tensor([0, 1, 3])
    found = loss(scores, teacher)
    assert_close(found, loss(scores[:, kept], teacher[:, kept]))
    found.sum().backward()
    assert scores.grad.isfinite().all()


# --- gradients ------------------------------------------------------------------------------------------------------


def plain(ranker, contexts, candidates, index, labels):
    """The loss of the whole batch in one graph."""
    ranker.zero_grad()
    learnt = ranker.learn(contexts, ranker.encode(candidates), index, labels)
    learnt.loss.mean().backward()
    return learnt.loss.detach(), gradients(ranker)


def gradients(ranker) -> dict:
    return {name: p.grad.clone() for name, p in ranker.named_parameters() if p.grad is not None}


def objective(ranker, contexts, index, labels):
    def rows_of(rows, kept):
        own = Tokens(*(part[rows] for part in contexts))
        return ranker.learn(own, kept, None if index is None else index[rows], labels[rows])

    return rows_of


def batch(texts, own: bool):
    contexts, candidates = pad(texts(*LENGTHS)), pad(texts(*RESPONSES))
    if not own:
        return contexts, candidates, None, torch.arange(len(LENGTHS))
    torch.manual_seed(4)
    index = torch.stack([torch.randperm(len(RESPONSES))[:4] for _ in LENGTHS])
    index[2, 3] = -1
    return contexts, candidates, index, torch.zeros(len(LENGTHS), dtype=torch.long)


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_slices_have_the_loss_and_the_gradients_of_the_whole_batch(ranker, texts, own, size):
    ranker.train()
    contexts, candidates, index, labels = batch(texts, own)
    loss, expected = plain(ranker, contexts, candidates, index, labels)
    ranker.zero_grad()
    found = training.backward(ranker, candidates, len(labels), objective(ranker, contexts, index, labels), size)
    assert_close(found.loss, loss, atol=1e-5, rtol=1e-5)
    assert_same(gradients(ranker), expected)


def assert_same(found: dict, expected: dict) -> None:
    """Equal as a whole to a hundred-thousandth of the gradient's length."""
    assert found.keys() == expected.keys()
    lengths = torch.stack([gradient.norm() for gradient in expected.values()])
    errors = torch.stack([(found[name] - gradient).norm() for name, gradient in expected.items()])
    assert errors.norm() < 1e-5 * lengths.norm()


def test_slices_drop_the_same_states_both_times(tiny, tokenizer, texts):
    """With dropout, what is encoded again for its gradient must be what was scored."""
    ranker = make_ranker(all_rankers()["bi"], tiny, tokenizer, dropout=0.5).train()
    contexts, candidates, index, labels = batch(texts, False)
    torch.manual_seed(8)
    training.backward(ranker, candidates, len(labels), objective(ranker, contexts, index, labels), 3)
    sliced = gradients(ranker)
    torch.manual_seed(8)
    ranker.zero_grad()
    kept = [ranker.encode(Tokens(*part)) for part in zip(*(part.split(3) for part in candidates), strict=True)]
    rows = objective(ranker, contexts, index, labels)
    parts = [rows(slice(start, start + 3), torch.cat(kept)).loss for start in (0, 3, 6)]
    torch.cat(parts).mean().backward()
    assert_same(sliced, gradients(ranker))


# --- several processes ----------------------------------------------------------------------------------------------


KINDS = "bi", "poly", "late"


def work(rank: int, folder: str, model_folder: str, port: int) -> None:
    """One of two processes: its half of the contexts against the candidates of both."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://localhost:{port}", world_size=2, rank=rank)
    saved = torch.load(f"{folder}/batch", weights_only=True)
    half = slice(0, 4) if rank == 0 else slice(4, 8)
    contexts, candidates = Tokens(*(part[half] for part in saved["contexts"])), Tokens(*saved["candidates"])
    found = {}
    for kind in KINDS:
        ranker = make_ranker(all_rankers()[kind], model_folder, Tokenizer.pretrained(model_folder)).train()
        rows = objective(ranker, contexts, None, saved["labels"][half])
        for size in (0, 2):
            ranker.zero_grad()
            learnt = training.backward(ranker, candidates, 4, rows, size)
            processes.average_gradients(ranker.parameters())
            found[f"{kind} {size}"] = {"loss": learnt.loss, "gradients": gradients(ranker)}
    torch.save(found, f"{folder}/rank{rank}")
    dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(tiny, tokenizer, texts, tmp_path):
    contexts, candidates = pad(texts(*LENGTHS, 4)), pad(texts(*RESPONSES))  # seven candidates do not halve
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6, 2])
    torch.save({"contexts": list(contexts), "candidates": list(candidates), "labels": labels}, tmp_path / "batch")
    torch.multiprocessing.spawn(work, (str(tmp_path), tiny, find_free_port()), nprocs=2)
    found = [torch.load(tmp_path / f"rank{rank}", weights_only=True) for rank in (0, 1)]
    for kind in KINDS:
        ranker = make_ranker(all_rankers()[kind], tiny, tokenizer).train()
        loss, expected = plain(ranker, contexts, candidates, None, labels)
        for size in (0, 2):
            parts = [part[f"{kind} {size}"] for part in found]
            assert_close(torch.cat([part["loss"] for part in parts]), loss, atol=1e-5, rtol=1e-5)
            for part in parts:
                assert_same(part["gradients"], expected)


def test_candidates_of_both_processes_are_trained_against(options, capfd):
    """`parlai multiprocessing_train` on the CPU: a loss over twice the batch's candidates, two workers' examples."""
    given = settings(options, "bi", batchsize=4, distributed_world_size=2, max_train_steps=2, verbose=True)
    MultiProcessTrain.main(**given, learningrate=1e-6, validation_every_n_epochs=-1, log_every_n_steps=1)
    reports = train_reports(options)
    assert reports[0]["exs"] == 8
    assert math.log(4) < reports[0]["mean_loss"]  # eight candidates of both, not four
    assert poly_agents.load(options["model_file"]).rank("hi", [text(1), text(2)])


def train_reports(options) -> list[dict]:
    return json.loads(Path(f"{options['model_file']}.trainstats").read_text())["train_reports"]


# --- hard negatives -------------------------------------------------------------------------------------------------


TURNS = [Turn("\n".join(row["context"]), row["response"], None) for row in ROWS]


def ranked(model, turn: Turn) -> list:
    return [r for r in model.rank(turn.context, [t.response for t in TURNS]) if r.text != turn.response]


def test_mined_negatives_are_the_best_wrong_responses(trained, tmp_path):
    model, path = poly_agents.load(trained["bi"], "float32"), str(tmp_path / "mined")
    negatives.mine(path, model, TURNS, 4, -1000.0)
    found = negatives.read(path)
    assert len(found) == len(TURNS)
    for turn in TURNS:
        assert found[turn.context, turn.response] == [r.text for r in ranked(model, turn)[:4]]


def test_a_margin_leaves_out_what_scores_like_the_response(trained, tmp_path):
    model, path = poly_agents.load(trained["bi"], "float32"), str(tmp_path / "mined")
    negatives.mine(path, model, TURNS, 30, 0.5)
    found = negatives.read(path)
    for turn in TURNS:
        own = next(r.score for r in model.rank(turn.context, [t.response for t in TURNS]) if r.text == turn.response)
        expected = [r.text for r in ranked(model, turn) if r.score < own - 0.5]
        assert set(found[turn.context, turn.response]) == set(expected)
    assert 0 < sum(map(len, found.values())) < 22 * len(TURNS)


def test_killed_mining_goes_on_where_it_was(trained, tmp_path, monkeypatch):
    model = poly_agents.load(trained["poly"], "float32")
    whole, path = tmp_path / "whole", tmp_path / "killed"
    monkeypatch.setattr(negatives, "CONTEXTS", 4)
    negatives.mine(str(whole), model, TURNS, 3, 0.0)
    lines = whole.read_text().splitlines(keepends=True)
    (tmp_path / "killed.part").write_text("".join(lines[:9]) + lines[9][:20])
    asked = []
    contexts = type(model).context_ids
    monkeypatch.setattr(type(model), "context_ids", lambda self, rows: asked.extend(rows) or contexts(self, rows))
    negatives.mine(str(path), model, TURNS, 3, 0.0)
    assert path.read_text() == whole.read_text()
    assert len(asked) == len(TURNS) - 8
    assert not (tmp_path / "killed.part").exists()


def test_what_runs_once_per_candidate_does_not_mine(trained, tmp_path):
    with pytest.raises(ValueError, match="mine with a model that caches"):
        negatives.mine(str(tmp_path / "mined"), poly_agents.load(trained["cross"]), TURNS, 3, 0.0)


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
def test_training_mines_anew_every_so_many_epochs(options, trained, name, monkeypatch):
    mined, mine = [], negatives.mine

    def counted(path, model, turns, count, margin):
        mined.append(len(turns))
        mine(path, model, turns, count, margin)

    monkeypatch.setattr(negatives, "mine", counted)
    more = {} if name == "bi" else {"hard_negatives_model": trained["poly"], "hard_negatives_epochs": 100.0}
    given = settings(options, name, batchsize=8, hard_negatives=2, hard_negatives_margin=-1000.0) | more
    TrainModel.main(**given, num_epochs=3, validation_every_n_epochs=-1)
    assert mined == [len(ROWS)] * (3 if name == "bi" else 1)
    found = negatives.read(f"{options['model_file']}.negatives")
    assert all(len(row) == 2 for row in found.values())


def test_a_file_of_negatives_widens_the_pool(options, trained, tmp_path):
    path = str(tmp_path / "mined")
    negatives.mine(path, poly_agents.load(trained["bi"]), TURNS, 3, -1000.0)
    agent = make(options, "bi", datatype="train", hard_negatives=2, hard_negatives_file=path, batchsize=2)
    rows = [agent.clone() for _ in range(2)]
    observations = [
        twin.observe(example(turn.context, turn.response)) for twin, turn in zip(rows, TURNS[:2], strict=True)
    ]
    found = agent._training_pool(agent.batchify(observations))
    hard = negatives.read(path)
    for number, turn in enumerate(TURNS[:2]):
        texts = [found.texts[n] for n in found.row(number)]
        assert texts[:2] == [TURNS[0].response, TURNS[1].response]
        assert texts[2:] == [t for t in hard[turn.context, turn.response][:2] if t not in texts[:2]]


# --- teachers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(name for name, kind in all_rankers().items() if not kind.pooled))
def test_a_teacher_s_scores_are_its_model_s_and_are_kept(trained, name, monkeypatch):
    contexts, texts = [turn.context for turn in TURNS[:3]], [text(i) for i in range(5)]
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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"distill_weight": 1.5}, "--distill-weight must be from 0 to 1, got 1.5"),
        ({"distill_temperature": 0.0}, "--distill-temperature must be above 0"),
        ({"grad_cache": -1}, "--grad-cache must be at least 0"),
        ({"hard_negatives_epochs": 0.0}, "--hard-negatives-epochs must be above 0"),
        ({"distill_loss": "mse"}, "one of kl, margin-mse"),
    ],
)
def test_wrong_options_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**wrong)


# --- commands -------------------------------------------------------------------------------------------------------


def test_the_commands_mine_and_sweep(options, trained, data, tmp_path):
    from parlai.core.script import superscript_main

    task = ["-t", "poly_agents:jsonl", "--jsonl-path", data]
    out = str(tmp_path / "mined")
    superscript_main(["poly_mine", "-mf", trained["bi"], *task, "--out", out, "--hard-negatives", "2"])
    assert len(negatives.read(out)) == len(ROWS)
    layers = tmp_path / "layers"
    models = ["--cross-model", trained["cross"], "--bi-model", trained["bi"]]
    superscript_main(["poly_layers", *models, *task, "--out", str(layers)])
    found = json.loads((layers / "layers.json").read_text())
    assert [row["layer"] for row in found["cross"]] == [0, 1, 2] == [row["layer"] for row in found["bi"]]
    assert (layers / "layers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("layer", [1, 2])
def test_the_sweep_looks_at_the_vectors_of_early(options, trained, texts, layer):
    cross, ids = poly_agents.load(trained["cross"], "float32"), texts(5, 1, 11)
    early = make(options, "early", cross_model=trained["cross"], early_layer=layer).ranker_module
    assert len(early.context_encoder.layers) == layer
    assert_close(early.encode_texts(ids), layer_sweep.layer_vectors(cross, ids)[:, layer], atol=1e-5, rtol=1e-5)
