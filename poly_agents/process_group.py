"""Process groups in which nobody waits forever for a process that is gone.

The processes of a run find each other through a store, a small server that listens on a port. Then they talk to each
other directly. `launch` starts such a run on this machine:

- It holds the store itself, on a port the system picks, from before the first worker starts until the run ends. The
  port cannot be taken by another program in between.
- It watches the workers. When one dies, it closes the store, so that no process waits there for the dead one. A
  process that already talks to the dead one sees the closed connection.
- It stops all workers before it returns or raises, and its error names the process that failed.
- It divides the cores among the processes. Otherwise each would start a thread for every core, and the threads would
  spend most of the time waiting for each other.

A process that is alive but does not answer is given up after `timeout()`.
"""

import atexit
import gc
import multiprocessing.connection
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from torch import distributed as dist

from poly_agents.errors import InputError, PolyAgentsError

HOST = "localhost"
TIMEOUT = "POLY_AGENTS_TIMEOUT"  # environment variable, in seconds
HOURS = 2  # without it; one process may mine negatives or write a model for long while the others wait
GRACE = 5.0  # seconds in which a worker can end by itself once another process has failed
CLIENTS_ONLY = "TORCHELASTIC_USE_AGENT_STORE"  # torch: no process of the run holds the store, not even the first


class ProcessError(PolyAgentsError, RuntimeError):
    """Another process of a run failed, was killed or does not answer."""


def timeout() -> timedelta:
    """Return how long a process waits for another one that does not answer.

    Raises:
        ValueError: the environment variable POLY_AGENTS_TIMEOUT is not a positive number of seconds.
    """
    given = os.environ.get(TIMEOUT, str(HOURS * 3600))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"{TIMEOUT} must be a positive number of seconds, got {given!r}")
    return timedelta(seconds=seconds)


# A model in DistributedDataParallel can outlive its process group. If it is the last to refer to the group, it waits
# for gloo's threads while it holds Python's lock. A thread that still frees the tensor of the last collective waits for
# that lock, so the process hangs for good (https://github.com/pytorch/pytorch/issues/56297). Python's own object of a
# group frees it without the lock, so it is kept here until the model is gone.
_left: list[dist.ProcessGroup] = []
atexit.register(_left.clear)


@contextmanager
def joined(backend: str, init_method: str = "env://", world_size: int = -1, rank: int = -1) -> Iterator[None]:
    """Be in the default process group inside.

    Args:
        backend: "gloo" or "nccl".
        init_method: where the store is, as in `torch.distributed.init_process_group`.
        world_size: number of processes. -1: from the environment, as torchrun sets it.
        rank: number of this process. -1: from the environment.
    """
    try:
        dist.init_process_group(backend, init_method, timeout(), world_size, rank)
    except Exception:
        # torch has counted this group already. It names groups by the count, so the next group of this process would
        # have another name than in fresh processes, and all of them would wait for keys that nobody writes.
        dist.distributed_c10d._world.group_count = 0
        raise
    _left.append(dist.group.WORLD)
    try:
        yield
    finally:
        dist.destroy_process_group()


def launch(run: Callable[..., Any], world_size: int, port: int | None = None) -> Any:
    """Call `run(rank=RANK, port=PORT)` in as many processes as `world_size` says, and return what rank 0 returns.

    Args:
        run: can be pickled. It joins a process group through the store at `tcp://localhost:PORT`.
        world_size: number of processes. This one is rank 0, the others are spawned.
        port: port of the store. None: a free one.

    Raises:
        ProcessError: another process failed, or did not answer within `timeout()`. The error names it.
        Exception: what `run` raised in this process.
    """
    if world_size < 1:
        raise InputError(f"--distributed-world-size must be at least 1, got {world_size}")
    threads = torch.get_num_threads()
    share = threads if "OMP_NUM_THREADS" in os.environ else max(1, threads // world_size)
    os.environ[CLIENTS_ONLY] = "True"
    torch.set_num_threads(share)
    try:
        with Workers(run, world_size, port, share) as workers:
            try:
                result = call(run, 0, workers.port)
            except Exception as error:
                if not is_lost_connection(repr(error)):
                    raise
                workers.wait(GRACE)
                raise workers.failure() from error
            workers.wait(timeout().total_seconds())
        if workers.failures:
            raise workers.failure()
        return result
    finally:
        torch.set_num_threads(threads)
        del os.environ[CLIENTS_ONLY]


class Workers:
    """The processes of ranks 1, 2, ... of a run, and the store through which all ranks find each other.

    As a context manager it stops the workers at its end.
    """

    def __init__(self, run: Callable[..., Any], world_size: int, port: int | None, threads: int):
        self.failures: dict[int, str] = {}  # rank -> how it ended, in the order in which they did
        self.tracebacks: dict[int, str] = {}
        self.store = open_store(port)
        self.port = self.store.port
        self.context = torch.multiprocessing.start_processes(
            work, (run, self.port, threads), world_size - 1, join=False, start_method="spawn"
        )
        self.watcher = Thread(target=self._watch, daemon=True)
        self.watcher.start()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception) -> None:
        """Give the workers time to end by themselves, then end them."""
        self.store = None
        self.wait(GRACE)
        for process in self.context.processes:
            process.terminate()
        self.wait(GRACE)
        for process in self.context.processes:
            process.kill()
        self.wait(GRACE)

    def _watch(self) -> None:
        """Note every worker that fails, and close the store when the first one does."""
        alive = {process.sentinel: rank for rank, process in enumerate(self.context.processes, 1)}
        while alive:
            for sentinel in multiprocessing.connection.wait(list(alive)):
                rank = alive.pop(sentinel)
                process = self.context.processes[rank - 1]
                process.join()
                if process.exitcode != 0:
                    self._note(rank, process.exitcode, Path(self.context.error_files[rank - 1]))
                    self.store = None

    def _note(self, rank: int, code: int, error_file: Path) -> None:
        if error_file.is_file():
            self.tracebacks[rank] = pickle.loads(error_file.read_bytes())
            error_file.unlink()
            self.failures[rank] = f"failed with {last_error(self.tracebacks[rank])}"
        elif code > 0:
            self.failures[rank] = f"ended with exit code {code}"
        elif code == -signal.SIGKILL:
            self.failures[rank] = "was killed by SIGKILL (was there enough memory?)"
        else:
            self.failures[rank] = f"was killed by {signal.Signals(-code).name}"

    def wait(self, seconds: float) -> None:
        """Wait until all workers have ended."""
        self.watcher.join(seconds)

    def failure(self) -> ProcessError:
        """Name the worker that failed first. One that only lost its connection to another is not to blame."""
        if not self.failures:
            return ProcessError(
                f"another process did not answer within {timeout().total_seconds():g} seconds, so the run was stopped; "
                f"set {TIMEOUT} to more seconds if it was only slow"
            )
        blamed = [rank for rank, how in self.failures.items() if not is_lost_connection(how)] or list(self.failures)
        rank = blamed[0]
        error = ProcessError(f"the process of rank {rank} {self.failures[rank]}, so the run was stopped")
        if rank in self.tracebacks and not last_error(self.tracebacks[rank]).startswith("poly_agents."):
            error.add_note(self.tracebacks[rank])
        return error


def work(index: int, run: Callable[..., Any], port: int, threads: int) -> None:
    """Be a worker. It never outlives the first process, not even if that one is killed."""
    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)
    torch.set_num_threads(threads)
    call(run, index + 1, port)


def call(run: Callable[..., Any], rank: int, port: int) -> Any:
    """Do the work of one process, and free its process group once nothing else refers to it."""
    result = run(rank=rank, port=port)
    gc.collect()
    _left.clear()
    return result


def open_store(port: int | None) -> dist.TCPStore:
    """Listen for the processes of a run."""
    try:
        return dist.TCPStore(HOST, port or 0, is_master=True, timeout=timeout(), wait_for_workers=False)
    except dist.DistNetworkError as error:
        raise ProcessError(f"--port {port} cannot be used ({error}); leave it out to get a free one") from error


def last_error(trace: str) -> str:
    """Return the error a traceback ends with, without the frames and without further lines of a long message.

    >>> last_error("Traceback (most recent call last):\\n  File a, line 1\\n    b()\\nValueError: c\\nd")
    'ValueError: c'
    """
    lines = trace.rpartition("Traceback (most recent call last):")[2].splitlines()
    return next(line for line in lines if line.strip() and not line.startswith(" "))


def is_lost_connection(error: str) -> bool:
    """Tell whether an error is about the connection to another process. gloo has no exception class of its own."""
    marks = ("third_party/gloo", "DistNetworkError", "DistStoreError", "DistBackendError")
    return any(mark in error for mark in marks)
