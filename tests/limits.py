"""Every test has a time limit (pytest-timeout, in `pyproject.toml`), and so has what it starts.

pytest-timeout ends the whole run when a test passes its limit, because nothing less stops a thread that is stuck in C.
Most tests that hang only wait for a process they started. So a little earlier, all processes that a test started are
killed: the test fails with an error of its own, and the run goes on.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path
from threading import Timer

import pytest

SHARE = 0.9  # of the limit, after which the processes are killed
TIMER = pytest.StashKey[Timer]()


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(item, settings) -> None:
    """Start a timer of our own beside that of pytest-timeout."""
    timer = item.stash[TIMER] = Timer(SHARE * settings.timeout, kill, [descendants(os.getpid())])
    timer.daemon = True
    timer.start()


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_cancel_timer(item) -> None:
    """Stop the timer of a test that is over."""
    if TIMER in item.stash:
        item.stash[TIMER].cancel()


def kill(spared: set[int]) -> None:
    """Kill all processes that this one has started, and those that they have, apart from some."""
    for process in descendants(os.getpid()) - spared:
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(process, signal.SIGKILL)


def descendants(process: int) -> set[int]:
    """Return the ids of all processes below one. Only Linux lists them in `/proc`."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, parent, *_ = (
                path.read_text().rpartition(")")[2].split()
            )  # of "7 (a name) S 1 ...", where 1 is the parent
        except OSError:
            continue  # it ended meanwhile
        parents[int(path.parent.name)] = int(parent)
    found, new = set(), {process}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found
