"""Read `.opt` files: plain JSON, and no name in them that would make ParlAI import foreign code.

ParlAI imports what the options `model`, `task` and a few others name, and calls it with all options. A file that comes
with a model must not choose freely what that is: `"model": "subprocess:Popen"` would run a command.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poly_agents.errors import InputError
from poly_agents.files.regular import check_regular

LARGEST = 2**24  # bytes of a file
AGENT = r"poly_agents/[a-z][a-z0-9_]*|poly_agents(\.\w+)+:[A-Za-z0-9]+Agent"
UNPICKLES = "tfidf_retriever|retriever_reader|rag|fid"  # agents of ParlAI that run what the files beside a model pickle
AGENT_OF_PARLAI = rf"(?!(parlai\.agents\.)?({UNPICKLES})\b)([a-z][a-z0-9_]*(/[a-z0-9_]+)?|parlai\.agents(\.\w+)+:\w+)"
OUTPUTS = {"ranks_file", "submission"}  # files that an agent would write; whoever evaluates a model names them
CLASS = r"(parlai|poly_agents)(\.\w+)+:\w+"


def read(path: str | Path) -> dict[str, Any]:
    """Read a file of options.

    Returns:
        The options. Tasks and classes that are not ParlAI's or ours are left out, and so are names of files to write.

    Raises:
        ValueError: it is not one JSON object, is larger than 16 MB, or names an agent that is not ParlAI's or ours. The
            message names the file.
    """
    path = Path(path)
    check_regular(path, "file of options")
    size = path.stat().st_size
    if size > LARGEST:
        raise InputError(f"{path} has {size:,} bytes; a file of options has at most {LARGEST:,}")
    try:
        options = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}); older forms can run code and are not read") from error
    if not isinstance(options, dict):
        raise InputError(f"{path} is not an object of options, but {type(options).__name__}")
    return checked(options, str(path))


def checked(options: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Check every name in some options that ParlAI imports, as `read` does. Errors name `source`."""
    kept = {name: value for name, value in options.items() if name not in OUTPUTS}
    known = {name: value for name, value in kept.items() if name not in IMPORTED or IMPORTED[name](value)}
    agent = options.get("model")
    if agent is not None and not is_agent(agent):
        raise InputError(
            f"{source} names the agent {agent!r}, which is neither of poly_agents nor one of ParlAI's own that are "
            "safe to load; if you trust it, give its name with -m"
        )
    if isinstance(options.get("override"), Mapping):
        known["override"] = checked(options["override"], source)
    return known


def typed(name: str) -> bool:
    """Tell whether a name stands on the command line: then it is the user's choice."""
    return any(word == name or word.endswith(f"={name}") for word in sys.argv)


def is_agent(name: Any) -> bool:
    """Tell whether a name is that of an agent of ours or ParlAI's, or was typed by the user.

    >>> is_agent("poly_agents/poly"), is_agent("transformer/biencoder"), is_agent("subprocess:Popen")
    (True, True, False)
    """
    return isinstance(name, str) and (typed(name) or bool(re.fullmatch(f"{AGENT}|{AGENT_OF_PARLAI}", name)))


def is_task(names: Any) -> bool:
    """Tell whether every task of a list, separated by commas, is one of ParlAI's or ours, or was typed by the user.

    >>> is_task("poly_agents:jsonl,convai2"), is_task("parlai.tasks.babi.agents:Task1kTeacher"), is_task("evil.code:T")
    (True, True, False)
    """
    if not isinstance(names, str):
        return False
    firsts = [name.strip().split(":")[0] for name in names.split(",")]
    return typed(names) or all(
        first.startswith(("parlai.tasks.", "poly_agents.tasks."))
        or (first != "projects" and re.fullmatch(r"(#?[\w-]+)?", first) is not None)
        for first in firsts
    )


def is_class(name: Any) -> bool:
    """Tell whether `MODULE:CLASS` is in ParlAI or here, or was typed by the user.

    >>> is_class("parlai.core.dict:DictionaryAgent"), is_class("os:system")
    (True, False)
    """
    return isinstance(name, str) and (typed(name) or bool(re.fullmatch(CLASS, name)))


IMPORTED = {"task": is_task, "evaltask": is_task, "dict_class": is_class, "script_module": is_class}
