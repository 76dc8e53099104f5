"""Losses, and the gradients of slices and of several processes, against those of the whole batch."""

import math
import multiprocessing
import time
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
import torch
from parlai.scripts.multiprocessing_train import MultiProcessTrain
from torch.testing import assert_close

import poly_agents
from poly_agents import processes
from poly_agents.learning import losses, training
from poly_agents.learning.training import TrainingOptions
from poly_agents.process_group import joined, launch
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.tokens import Tokens, pad
from tests.agents import settings, text, train_reports
from tests.rankers import all_rankers, make_ranker

LENGTHS = 7, 2, 13, 5, 3, 8, 1  # contexts
RESPONSES = 3, 11, 1, 6, 2, 4, 9  # lengths of their responses


def test_kl_is_zero_for_equal_scores_and_otherwise_that_of_torch():
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
    present = torch.tensor([0, 1, 3])
    found = loss(scores, teacher)
    assert_close(found, loss(scores[:, present], teacher[:, present]))
    found.sum().backward()
    assert scores.grad.isfinite().all()


def plain(ranker, contexts, candidates, index, labels):
    """Compute loss and gradients of the whole batch in one graph."""
    ranker.zero_grad()
    learned = ranker.training_loss(contexts, ranker.encode(candidates), index, labels)
    learned.loss.mean().backward()
    return learned.loss.detach(), gradients(ranker)


def gradients(ranker) -> dict:
    return {name: p.grad.clone() for name, p in ranker.named_parameters() if p.grad is not None}


def objective(ranker, contexts, index, labels):
    def rows_of(rows, encoded):
        own = Tokens(*(part[rows] for part in contexts))
        return ranker.training_loss(own, encoded, None if index is None else index[rows], labels[rows])

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
    encoded = [ranker.encode(Tokens(*part)) for part in zip(*(part.split(3) for part in candidates), strict=True)]
    rows = objective(ranker, contexts, index, labels)
    parts = [rows(slice(start, start + 3), torch.cat(encoded)).loss for start in (0, 3, 6)]
    torch.cat(parts).mean().backward()
    assert_same(sliced, gradients(ranker))


KINDS = "bi", "poly", "late"


def train_half(rank: int, port: int, folder: Path, model_folder: str) -> None:
    """Train one of two processes: its half of the contexts against the candidates of both."""
    saved = torch.load(folder / "batch", weights_only=True)
    half = slice(0, 4) if rank == 0 else slice(4, 8)
    contexts, candidates = Tokens(*(part[half] for part in saved["contexts"])), Tokens(*saved["candidates"])
    found = {}
    with joined("gloo", f"tcp://localhost:{port}", 2, rank):
        for kind in KINDS:
            ranker = make_ranker(all_rankers()[kind], model_folder, Tokenizer.pretrained(model_folder)).train()
            rows = objective(ranker, contexts, None, saved["labels"][half])
            for size in (0, 2):
                ranker.zero_grad()
                learned = training.backward(ranker, candidates, 4, rows, size)
                processes.average_gradients(ranker.parameters())
                found[f"{kind} {size}"] = {"loss": learned.loss, "gradients": gradients(ranker)}
    torch.save(found, folder / f"rank{rank}")


def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(tiny, tokenizer, texts, tmp_path):
    contexts, candidates = pad(texts(*LENGTHS, 4)), pad(texts(*RESPONSES))  # seven candidates do not halve
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6, 2])
    torch.save({"contexts": list(contexts), "candidates": list(candidates), "labels": labels}, tmp_path / "batch")
    launch(partial(train_half, folder=tmp_path, model_folder=tiny), 2)
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


def test_parlai_s_training_ends_when_a_worker_dies(options):
    def kill() -> None:
        while not (workers := multiprocessing.active_children()):
            time.sleep(0.05)
        workers[0].kill()

    given = settings(options, "bi", distributed_world_size=2, max_train_steps=2)
    Thread(target=kill, daemon=True).start()
    with pytest.raises(RuntimeError, match="rank 1 was killed by SIGKILL"):
        MultiProcessTrain.main(**given)
    assert not multiprocessing.active_children()


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
