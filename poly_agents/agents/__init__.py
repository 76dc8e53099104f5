"""The agents that ParlAI asks for. Only this folder and `_parlai/` import ParlAI.

`agent_class("poly")` gives ParlAI's side of a ranker: a `RankerAgent` over `poly_agents.rankers.poly.PolyRanker`. It is
also found by its full name, `-m poly_agents.agents:PolyAgent`, which needs no import hook.
"""

import importlib
import re
from functools import cache

from poly_agents import patches
from poly_agents.errors import UnknownNameError, UnknownRankerError
from poly_agents.options import unknown

try:
    importlib.import_module("parlai.core.opt")
except ImportError as error:
    raise ImportError(
        f"poly_agents needs ParlAI ({error}); type: pip install --no-deps parlai==1.7.2  "
        "(without --no-deps its old pins downgrade numpy)"
    ) from error
for name in patches.PATCHES:  # before any module of this package imports them; the import hook may be off
    patches.apply(importlib.import_module(name))

WITHOUT_RANKER = ("bm25", "cascade")  # agents that are more, or less, than one ranker
OLD_NAMES = {"tfidf": "bm25"}


@cache
def agent_class(name: str) -> type:
    """Return the agent class of a name, as in `-m poly_agents/NAME`.

    Args:
        name: a file name in `poly_agents/rankers`, or `cascade` or `bm25`; `tfidf` is an old name of this one.

    Raises:
        UnknownRankerError: there is no such file. The message names the nearest one.

    This is the one place that makes classes at run time, so that a new ranker is one new file that knows no ParlAI.
    """
    name = OLD_NAMES.get(name, name)
    if name in WITHOUT_RANKER:
        from poly_agents.agents import bm25, cascade

        return {"bm25": bm25.Bm25Agent, "cascade": cascade.CascadeAgent}[name]
    from poly_agents import rankers
    from poly_agents.agents.ranker_agent import RankerAgent

    if name not in rankers.names():
        raise unknown("agent", name, [*rankers.names(), *WITHOUT_RANKER], UnknownRankerError)
    ranker = rankers.ranker_class(name)
    members = {"ranker": ranker, "__module__": __name__, "__doc__": f"`-m poly_agents/{name}`"}
    return type(ranker.__name__.removesuffix("Ranker") + "Agent", (RankerAgent,), members)


def __getattr__(name: str) -> type:
    """Find `PolyAgent` in this module."""
    if not re.fullmatch(r"([A-Z][a-z0-9]*)+Agent", name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    words = re.findall(r"[A-Z][a-z0-9]*", name.removesuffix("Agent"))
    try:
        return agent_class("_".join(words).lower())
    except UnknownRankerError as error:
        raise UnknownNameError(f"module {__name__!r} has no {name}: {error}") from error
