"""How a command ends: one sentence for a mistake of its user, no traceback, and the exit codes that a shell expects.

ParlAI lets every exception through, so a misspelt file name ends in a traceback. `console` is put around each command
that is run by its name, `parlai NAME` or `python -m parlai.scripts.NAME`. A script that calls a command from Python
still gets the exceptions.

    exit code   when
    0           all is well, also for `--help`
    1           an error; the sentence is on stderr
    2           the command line cannot be read
    130, 143    ended by Ctrl-C, by SIGTERM
    141         nobody reads the output any more, as in `parlai poly_zoo | head -1`
"""

import errno
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from poly_agents.errors import PolyAgentsError

DEBUG = "POLY_AGENTS_DEBUG"  # environment variable; 1 shows tracebacks, as --debug does
HINT = "--debug shows where"
OF_THE_USER = {
    getattr(errno, name)
    for name in "ENOENT EFBIG EACCES EPERM EISDIR ENOTDIR ENOSPC EDQUOT EROFS ENAMETOOLONG EEXIST EADDRINUSE".split()
}


def console(command: Callable[[], Any]) -> Any:
    """Call a command and end the process as the table above says.

    Raises:
        SystemExit: the command was ended early, or its user made a mistake.
        Exception: any other error, and every error with `--debug`.
    """
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt as stopped:
        print(str(stopped) or "ended by SIGINT", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        if not is_unread(sys.stdout):
            raise
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())  # or the interpreter complains when it flushes at its end
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        sentence = explain(error)
        if sentence is None or is_debug():
            raise
        rank = os.environ.get("RANK", "0")  # torchrun sets it
        where = "" if rank == "0" else f" (rank {rank})"
        print("\n".join([f"error{where}: {sentence}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        sys.exit(1)


def is_debug() -> bool:
    """Tell whether tracebacks were asked for."""
    return "--debug" in sys.argv or os.environ.get(DEBUG, "0") not in ("", "0")


def is_unread(stream) -> bool:
    """Tell whether a stream is a pipe that nobody reads any more."""
    poll = select.poll()
    with suppress(OSError, ValueError):  # not a real file
        poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def explain(error: Exception) -> str | None:
    """Return the sentence for a mistake that a user can mend. None: the error is a fault of a program.

    >>> explain(FileNotFoundError(errno.ENOENT, "No such file or directory", "pool.txt"))
    'No such file or directory: pool.txt'
    >>> explain(KeyError("text")) is None
    True
    """
    from poly_agents.text.printable import printable

    text = str(error).removeprefix("WARNING: ")
    if isinstance(error, PolyAgentsError):
        return printable(text)
    if isinstance(error, OSError) and error.errno in OF_THE_USER:
        named = "" if error.filename is None else f": {error.filename}"
        return printable(f"{error.strerror}{named}")
    if isinstance(error, FileNotFoundError):  # ParlAI raises it with a sentence of its own
        return printable(text)
    place = raised_in(error)
    if place.endswith("parlai/core/loader.py"):  # it imports what -m and -t name
        if isinstance(error, IndexError):
            return "a name ends in ':' or '/'; -m poly_agents/poly and -t poly_agents:chitchat are whole ones"
        return printable(f"there is no such agent or task: {text}; see -m and -t ({HINT})")
    if type(error) is ValueError and place.endswith("parlai/nn/lr_scheduler.py"):
        return printable(text)
    if type(error) is RuntimeError and re.search(r"parlai/(core|scripts)/\w+\.py$", place):
        return printable(f"{text} ({HINT})")
    return None


def raised_in(error: Exception) -> str:
    """Return the file whose code raised an error. That of an import which failed is the one that imported."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    files = [name for name in files if "importlib" not in name]
    return files[-1].replace(os.sep, "/") if files else ""


def patch_script(script) -> None:
    """Run commands that are typed inside `console`. This patch can go when ParlAI's commands end in such a way."""
    superscript, run_args = script.superscript_main, script.ParlaiScript._run_args.__func__

    def superscript_main(args=None):
        return superscript(args) if args is not None else console(superscript)

    def _run_args(cls, args=None):
        return run_args(cls, args) if args is not None else console(lambda: run_args(cls))

    script.superscript_main = superscript_main
    script.ParlaiScript._run_args = classmethod(_run_args)


def patch_parser(params) -> None:
    """Show the help of commands that have required flags, and say what is wrong with a command line in one line.

    ParlAI reads the command line once without `--help`, to find further flags, and that fails if a required one is
    missing. For a flag that does not exist it prints the whole help. This patch can go when ParlAI does neither.
    """
    from poly_agents.options import nearest

    parse = params.ParlaiParser.parse_known_args

    def parse_known_args(self, args=None, namespace=None, nohelp=False):
        required = [action for action in self._actions if action.required and nohelp]
        for action in required:
            action.required = False
        try:
            return parse(self, args, namespace, nohelp)
        finally:
            for action in required:
                action.required = True

    def error(self, message):
        known = list((getattr(self, "_help_subparser", None) or self)._option_string_actions)  # of the command
        unknown = [word.split("=")[0] for word in message.split() if word.startswith("--")]
        hints = [near for word in unknown for near in nearest(word, known, similarity=0.75)]
        if choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            hints = nearest(choice[1], re.findall("'(.*?)'", choice[2]))
        hint = f"; did you mean {' '.join(hints)}?" if hints and (choice or "unrecognized" in message) else ""
        print(f"error: {message}{hint} (--help lists the flags)", file=sys.stderr)
        sys.exit(2)

    params.ParlaiParser.parse_known_args = parse_known_args
    params.ParlaiParser.error = error
