"""A test that hangs ends in bounded time, and with it what it has started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WAITS_FOR_A_CHILD = """
import subprocess

def test_that_waits():
    subprocess.run(["sh", "-c", "echo $$ > child; sh -c 'echo $$ > grandchild; exec sleep 600'; true"], check=True)

def test_that_comes_next():
    pass
"""
STUCK_IN_C = """
import ctypes

def test_that_hangs():
    ctypes.{library}(None).pause()
"""


def run(folder: Path, code: str) -> subprocess.CompletedProcess:
    """Run pytest on a file of tests, each of which has three seconds."""
    (folder / "conftest.py").write_text("from tests.limits import *\n")
    (folder / "test_file.py").write_text(code)
    options = ["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", folder, "-o", "timeout=3"]
    options += ["-o", "timeout_method=thread", "-o", "faulthandler_timeout=5", "-o", "faulthandler_exit_on_timeout=1"]
    line = [sys.executable, "-m", "pytest", *options, "test_file.py"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)


def is_running(process: str) -> bool:
    """Tell a process from one that has ended, which the system may still list as a zombie."""
    stat = Path("/proc", process, "stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_test_that_waits_for_a_process_fails_and_the_others_go_on(tmp_path):
    done = run(tmp_path, WAITS_FOR_A_CHILD)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED and "1 failed, 1 passed" in done.stdout
    for name in ("child", "grandchild"):
        assert not is_running((tmp_path / name).read_text().strip())


@pytest.mark.parametrize("library", ["CDLL", "PyDLL"], ids=["python's lock is free", "python's lock is held"])
def test_a_test_that_is_stuck_in_c_ends_the_run_and_shows_where(tmp_path, library):
    done = run(tmp_path, STUCK_IN_C.format(library=library))
    assert done.returncode != 0 and "Timeout" in done.stdout + done.stderr
    assert "in test_that_hangs" in done.stdout + done.stderr
