"""A distributed run ends, with a sentence, whatever becomes of one of its processes."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from poly_agents import process_group, processes
from poly_agents.process_group import joined, launch, timeout


def join(rank: int, port: int):
    return joined("gloo", f"tcp://localhost:{port}", 2, rank)


def add_ranks(rank: int, port: int) -> float:
    """The sum of all ranks, in every process."""
    with join(rank, port):
        total = torch.tensor(float(rank))
        dist.all_reduce(total)
        return total.item()


def die_before_joining(rank: int, port: int) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    add_ranks(rank, port)


def die_after_joining(rank: int, port: int, how: str) -> None:
    with join(rank, port):
        dist.barrier()
        if rank == 1 and how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 1 and how == "exits":
            sys.exit(3)
        if rank == 1 and how == "fails":
            raise ValueError("worker's own\nreason")
        if rank == 1 and how == "hangs":
            os.kill(os.getpid(), signal.SIGSTOP)
        dist.barrier()


def fail_in_the_first(rank: int, port: int) -> None:
    with join(rank, port):
        dist.barrier()
        if rank == 0:
            raise ValueError("first one's reason")
        dist.barrier()


def start(run):
    """Launch in two processes; nothing of them may be left."""
    try:
        return launch(run, 2)
    finally:
        assert not multiprocessing.active_children()
        assert not dist.is_initialized()


def test_a_worker_that_dies_before_it_joins_ends_the_run_and_the_next_run_works():
    """torch names groups by their count; a failed run must not shift it against that of the next run's workers."""
    with pytest.raises(RuntimeError, match=r"the process of rank 1 was killed by SIGKILL .*, so the run was stopped"):
        start(die_before_joining)
    assert start(add_ranks) == 1.0


@pytest.mark.parametrize(
    ("how", "message", "traceback"),
    [
        ("killed", "rank 1 was killed by SIGKILL", None),
        ("exits", "rank 1 ended with exit code 3", None),
        ("fails", "rank 1 failed with ValueError: worker's own", "in die_after_joining"),
    ],
)
def test_a_worker_that_dies_later_ends_the_run(how, message, traceback):
    with pytest.raises(RuntimeError, match=message) as found:
        start(partial(die_after_joining, how=how))
    notes = getattr(found.value, "__notes__", [])
    assert len(notes) == (traceback is not None) and all(traceback in note for note in notes)


def test_a_worker_that_hangs_is_killed_when_the_time_is_over(monkeypatch):
    monkeypatch.setenv(process_group.TIMEOUT, "3")
    monkeypatch.setattr(process_group, "GRACE", 1.0)
    with pytest.raises(RuntimeError, match=r"did not answer within 3 seconds.*set POLY_AGENTS_TIMEOUT to more"):
        start(partial(die_after_joining, how="hangs"))


def test_an_error_of_the_first_process_ends_the_others_and_stays_what_it_is():
    with pytest.raises(ValueError, match="first one's reason"):
        start(fail_in_the_first)


def leave_a_model(rank: int, port: str) -> None:
    """Free a model after its process group was left. The processes meet in a file, which is faster than at a port."""
    with joined("gloo", f"file://{port}", 1, rank):
        model = DistributedDataParallel(torch.nn.Linear(3, 5))
        dist.all_reduce(torch.ones(7))
    assert not dist.is_initialized() and model.module.bias is not None


def test_a_model_may_outlive_its_process_group(tmp_path):
    """In a process of its own: one that hangs there holds Python's lock, and no time limit of pytest would end it."""
    code = (
        "import gc, sys; from tests.test_process_group import leave_a_model, process_group;"
        "gc.freeze(); [process_group.call(leave_a_model, 0, sys.argv[1] + str(number)) for number in range(100)]"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "file")]
    subprocess.run(line, cwd=Path(__file__).parents[1], check=True, timeout=100)


def test_workers_die_with_the_first_process():
    code = "from tests.test_process_group import launch, sleep\nlaunch(sleep, 2)"
    first = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE)
    worker = int(first.stdout.readline())
    first.kill()
    assert first.wait(100) == -signal.SIGKILL
    assert first.stdout.read() == b""  # its other end is closed once nobody is left to write to it
    assert not Path(f"/proc/{worker}/cmdline").exists() or not Path(f"/proc/{worker}/cmdline").read_bytes()


def sleep(rank: int, port: int) -> None:
    if rank == 1:
        print(os.getpid(), flush=True)
    time.sleep(100)


def test_a_port_that_is_taken_is_refused_at_once():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        with pytest.raises(RuntimeError, match=r"--port \d+ cannot be used .*leave it out to get a free one"):
            launch(add_ranks, 2, taken.getsockname()[1])


def test_one_process_needs_no_worker():
    assert launch(add_alone, 1) == 0.0
    with pytest.raises(ValueError, match="--distributed-world-size must be at least 1, got 0"):
        launch(add_alone, 0)


def add_alone(rank: int, port: int) -> float:
    with joined("gloo", f"tcp://localhost:{port}", 1, rank):
        return float(rank)


def count_threads(rank: int, port: int) -> list[int]:
    with join(rank, port):
        return processes.all_gather(torch.get_num_threads())


def test_the_cores_are_divided_among_the_processes(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    try:
        assert start(count_threads) == [3, 3]
        assert torch.get_num_threads() == 6
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("given", ["0", "-1", "soon", "inf", "nan"])
def test_a_time_limit_is_a_positive_number_of_seconds(given, monkeypatch):
    monkeypatch.setenv(process_group.TIMEOUT, given)
    with pytest.raises(ValueError, match=f"POLY_AGENTS_TIMEOUT must be a positive number of seconds, got '{given}'"):
        timeout()


# --- shared work ----------------------------------------------------------------------------------------------------


def double(number: int, rank: int, wrong: dict[int, int]) -> int:
    if number == wrong.get(rank):
        raise ValueError(f"no {number} in rank {rank}")
    return 2 * number


def double_all(rank: int, port: int, wrong: dict[int, int]) -> list[int]:
    with join(rank, port):
        function = partial(double, rank=rank, wrong=wrong)
        if rank:
            return processes.share_work(function)
        with processes.workers():
            return processes.map_shared(function, [3, 5, 7]) + processes.map_shared(function, [11])


def test_work_is_shared_in_order():
    assert start(partial(double_all, wrong={})) == [6, 10, 14, 22]


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_in_shared_work_ends_the_run(rank):
    with pytest.raises((ValueError, RuntimeError), match=f"no {[3, 5][rank]} in rank {rank}"):
        start(partial(double_all, wrong={rank: [3, 5][rank]}))
