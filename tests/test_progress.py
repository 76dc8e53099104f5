"""Progress is a bar on a terminal, and lines in a pipe."""

import io
import sys

from poly_agents import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work() -> None:
    with progress.bar(total=3, unit="cand", desc="encoding") as bar:
        for _ in range(3):
            bar.update()


def test_long_work_writes_whole_lines_into_a_pipe(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0)
    work()
    shown = capsys.readouterr().err
    shares = [line.split("|")[0] for line in shown.split("\n")]
    assert list(dict.fromkeys(shares)) == ["encoding:   0%", "encoding:  33%", "encoding:  67%", "encoding: 100%", ""]
    assert "\r" not in shown


def test_short_work_writes_nothing_into_a_pipe(capsys):
    work()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    work()
    assert "\rencoding: 100%" in sys.stderr.getvalue()
