"""The process in which one side does one job, a piece whenever it is its turn."""

import importlib
import resource
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from parlai.utils import logging
from transformers.utils import logging as transformers_logging

import poly_agents.agents  # noqa: F401  repairs ParlAI where the import hook is off

SIDES = {  # name -> module and class; a process imports only its own, because its memory is measured
    "poly_agents": ("ours", "Ours"),
    "poly_agents, Python": ("ours", "OursPython"),
    "poly_agents, float32": ("ours", "Ours32"),
    "ParlAI": ("parlai", "Parlai"),
    "sentence-transformers": ("sentence_transformers", "SentenceTransformers"),
    "sentence-transformers, bfloat16": ("sentence_transformers", "SentenceTransformers16"),
    "products, bfloat16": ("limits", "Products16"),
    "products, float32": ("limits", "Products32"),
    "memory": ("limits", "Memory"),
}


def set_up(threads: int | None) -> None:
    """Make the process quiet and its random numbers fixed."""
    logging.disable()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.manual_seed(0)
    if threads:
        torch.set_num_threads(threads)


def prepare(pipe: Connection, folder: Path, quick: bool, threads: int | None) -> None:
    """Run `preparation.prepare` and send what it returns."""
    from sides import preparation

    set_up(threads)
    pipe.send(preparation.prepare(folder, quick))


def serve(pipe: Connection, side: str, job: str, argument: str, folder: Path, quick: bool, threads: int | None) -> None:
    """Prepare a job, do a piece of it for every turn received, and send the units of work a second.

    When it receives None it sends the process's peak of memory in bytes and ends.
    """
    set_up(threads)
    module, name = SIDES[side]
    kind = getattr(importlib.import_module(f"sides.{module}"), name)
    run = getattr(kind(folder, quick), job)(argument)
    pipe.send("ready")
    with suppress(EOFError):  # the other end was stopped
        while (turn := pipe.recv()) is not None:
            begun = time.perf_counter()
            units = run(turn)
            pipe.send(units / (time.perf_counter() - begun))
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
