"""Data sets of response selection, one file each: `-t poly_agents:NAME` is `NAMETeacher` of `tasks/NAME.py`."""

import importlib
import pkgutil
import re
from collections.abc import Collection

SHARED = {"examples", "order", "reading", "response"}  # modules that are no data sets


def teacher(name: str) -> type:
    """Import a teacher class: `ChitchatTeacher` is in `poly_agents.tasks.chitchat`. Raises AttributeError if unknown.

    >>> teacher("UbuntuV2Teacher").__module__
    'poly_agents.tasks.ubuntu_v2'
    """
    module = re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("Teacher")).lower()
    try:
        return getattr(importlib.import_module(f"poly_agents.tasks.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name != f"poly_agents.tasks.{module}":
            raise
        raise AttributeError(f"poly_agents has no task {module!r}; its tasks: {', '.join(names())}") from None


def names() -> list[str]:
    """List all tasks, each the NAME of `-t poly_agents:NAME`."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in modules if name not in SHARED and not name.startswith("_"))


def variant(task: str, known: Collection[str] | None = None) -> str:
    """Return VARIANT of `poly_agents:NAME:VARIANT`, empty if there is none. Raises ValueError if it is not `known`.

    >>> variant("poly_agents:mutual:plus", ["", "plus"])
    'plus'
    """
    given = ":".join(task.split(":")[2:])
    if known is not None and given not in known:
        raise ValueError(f"the task {task}: there is no variant {given!r}; known: {', '.join(filter(None, known))}")
    return given
