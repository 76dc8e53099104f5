"""Cut a context to a number of tokens: the oldest turns go, and persona lines stay.

Persona lines come first in a context, so a plain cut from the left takes them before any turn. They are what a model
for personas lives by.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from poly_agents.errors import InputError
from poly_agents.text.turns import PERSONA

PERSONA_SHARE = 0.5  # of the tokens of a context, for a new model; a model file that says nothing has 0


def share_of(header: Mapping[str, Any]) -> float:
    """Return the share of persona lines that the header of a model file says. One of earlier versions has none.

    >>> share_of({"persona_share": 0.3}), share_of({})
    (0.3, 0.0)
    """
    return check_share(header.get("persona_share", 0.0))


def check_share(share: float) -> float:
    """Return a share of persona lines. Raises ValueError if it is not from 0 to 1."""
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise InputError(f"--persona-share must be from 0 to 1, got {share!r}")
    return share


def persona_lines(context: str) -> int:
    """Count the persona lines at the head of a context.

    >>> persona_lines("your persona: i have a cat\\nhi")
    1
    """
    return sum(1 for _ in takewhile(lambda line: line.startswith(PERSONA), context.split("\n")))


def cut_context(ids: Sequence[int], personas: int, separator: int, limit: int, share: float) -> list[int]:
    """Cut the ids of a context.

    Args:
        ids: of the whole context, its lines joined by the separator.
        personas: how many of its first lines are about a persona.
        separator: the id between two lines.
        limit: tokens that are kept.
        share: of the limit, what persona lines may take at most while turns are cut. 0: they are cut as turns are.

    Returns:
        At most `limit` ids: the first persona lines that fit as a whole, then the newest tokens of the turns.

    >>> cut_context([7, 0, 8, 0, 1, 2, 3, 0, 4, 5], 2, separator=0, limit=8, share=0.5)
    [7, 0, 8, 0, 3, 0, 4, 5]
    >>> cut_context([7, 0, 8, 0, 1, 2, 3, 0, 4, 5], 2, separator=0, limit=8, share=0)
    [8, 0, 1, 2, 3, 0, 4, 5]
    """
    if len(ids) <= limit or not personas or not share:
        return list(ids[-limit:])
    ends = [place + 1 for place, number in enumerate(ids) if number == separator][:personas]
    if len(ends) < personas - 1:  # a tokenizer that has other separators
        return list(ids[-limit:])
    turns = len(ids) - ends[-1] if len(ends) == personas else 0  # tokens; without a turn there is no separator after
    room = max(int(limit * share), limit - turns)
    kept = max((end for end in ends if end <= room), default=0)
    return [*ids[:kept], *ids[len(ids) - (limit - kept) :]] if turns else list(ids[:limit])
