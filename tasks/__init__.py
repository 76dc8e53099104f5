"""Data sets of response selection, one file each: `-t poly_agents:NAME` is `NAMETeacher` of `tasks/NAME.py`."""

import importlib
import pkgutil
import re


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
    return sorted(name for name in modules if not name.startswith("_"))
