"""The rankers, one system in each file. A new file is found by its name; nothing has to be registered.

rankers/poly.py holds PolyRanker    ->    -m poly_agents/poly,  poly_agents.start("poly")
"""

import dataclasses
import importlib
import pkgutil
from pathlib import Path
from typing import Any

from poly_agents.errors import UnknownRankerError
from poly_agents.options import unknown
from poly_agents.scoring.ranker import Ranker
from poly_agents.scoring.ranker_options import RankerOptions


def names() -> list[str]:
    """Return the names of all rankers in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def ranker_class(agent: str) -> type[Ranker]:
    """Return the class of a ranker.

    Args:
        agent: its name, as in `-m poly_agents/NAME`.

    Raises:
        UnknownRankerError: there is no such ranker. The message names the nearest one.

    >>> ranker_class("poly").__name__
    'PolyRanker'
    """
    if agent not in names():
        raise unknown("ranker", agent, names(), UnknownRankerError)
    module = importlib.import_module(f"{__name__}.{agent}")
    return getattr(module, "".join(word.capitalize() for word in agent.split("_")) + "Ranker")


def options_of(agent: str, values: dict[str, Any]) -> RankerOptions:
    """Make the options of a ranker from values by name.

    Raises:
        ValueError: there is no such ranker or option, or a value is not allowed. The message names the nearest name.

    >>> options_of("poly", {"poly_codes": 16}).poly_codes
    16
    """
    kind = ranker_class(agent).Options
    known = {field.name for field in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            raise unknown(f"option of {agent}", name, known)
    return kind(**{name: str(value) if isinstance(value, Path) else value for name, value in values.items()})


def agent_of(kind: type[Ranker]) -> str:
    """Return the name of a ranker class.

    >>> agent_of(ranker_class("poly"))
    'poly'
    """
    return kind.__module__.rpartition(".")[2]
