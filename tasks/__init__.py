"""Data sets of response selection, one file each: `-t poly_agents:NAME` is `NAMETeacher` of `tasks/NAME.py`."""

import importlib
import re
from collections.abc import Collection

SHARED = {"response"}


def teacher(name: str) -> type:
    """`ChitchatTeacher` -> that class of `poly_agents.tasks.chitchat`. Raises AttributeError for an unknown one."""
    module = re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("Teacher")).lower()
    try:
        return getattr(importlib.import_module(f"poly_agents.tasks.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name != f"poly_agents.tasks.{module}":
            raise
        raise AttributeError(f"poly_agents has no task {module!r}; its tasks: {', '.join(names())}") from None


def names() -> list[str]:
    """All tasks, by their `-t poly_agents:NAME`: the modules here but for what they share."""
    import pkgutil

    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in modules if name not in SHARED and not name.startswith("_"))


def variant(task: str, known: Collection[str] | None = None) -> str:
    """What follows the name in `poly_agents:NAME:VARIANT`, empty without one. Raises ValueError for one not `known`.

    >>> variant("poly_agents:mutual:plus", ["", "plus"])
    'plus'
    """
    given = ":".join(task.split(":")[2:])
    if known is not None and given not in known:
        raise ValueError(f"the task {task}: there is no variant {given!r}; known: {', '.join(filter(None, known))}")
    return given
