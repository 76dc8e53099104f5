"""Data sets of response selection, one file each: `-t poly_agents:NAME` is `NAMETeacher` of `tasks/NAME.py`."""

import importlib
import pkgutil
import re

from poly_agents.errors import UnknownNameError
from poly_agents.options import unknown


def teacher(name: str) -> type:
    """Import a teacher class: `ChitchatTeacher` is in `poly_agents.tasks.chitchat`.

    Raises:
        UnknownNameError: there is no such task. The message names the nearest one.

    >>> teacher("UbuntuV2Teacher").__module__
    'poly_agents.tasks.ubuntu_v2'
    """
    if name == "DefaultTeacher":  # what ParlAI makes of `-t poly_agents`
        raise UnknownNameError(f"-t poly_agents names no task; give -t poly_agents:NAME, one of: {', '.join(names())}")
    module = re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("Teacher")).lower()
    if module not in names():
        raise unknown("task", module, names(), UnknownNameError)
    return getattr(importlib.import_module(f"poly_agents.tasks.{module}"), name)


def names() -> list[str]:
    """List all tasks, each the NAME of `-t poly_agents:NAME`."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in modules if not name.startswith("_"))
