"""Check the texts that a program gives: lists of any kind go in, plain lists of strings come out.

A value that is no text is refused with its place: "candidate 3 is None". Places are counted from 0, as in Python.
"""

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

from poly_agents.errors import InputError


def texts(values: Iterable[str], kind: str, of: str = "") -> list[str]:
    """Return texts as a list of strings.

    Args:
        values: any iterable of strings: a list, a tuple, a set, a generator, an array, a column of a table.
        kind: what one of them is called: candidate, context, turn.
        of: where the list itself belongs, for errors.

    Raises:
        ValueError: it is no such iterable, or one of its values is no text. The message names its place.

    >>> texts((word for word in ("hi", "hello")), "turn")
    ['hi', 'hello']
    """
    return [text(value, f"{kind} {place}{of}") for place, value in enumerate(items(values, kind, of))]


def items(values: Iterable[Any], kind: str, of: str = "") -> list[Any]:
    """Return what an iterable holds. Arguments and errors are those of `texts`, but the values are not looked at."""
    check_list(values, f"{kind}s is a list of strings{of}")
    return list(values)


def check_list(values: Any, expected: str) -> None:
    """Raise ValueError, which begins with what was expected, unless a value is an iterable of one dimension."""
    if isinstance(values, str):
        raise InputError(f'{expected}, got one string; write ["..."] for a single one')
    if not is_list(values):
        raise InputError(f"{expected}, got {short(values)}")
    if getattr(values, "ndim", 1) > 1:
        raise InputError(f"{expected}, got {values.ndim} dimensions ({type(values).__name__}); give one column")


def text(value: str, place: str) -> str:
    """Return a text as a plain string. Raises ValueError, which begins with the place, if it is none."""
    if not isinstance(value, str):
        raise InputError(f"{place} is {short(value)}; give a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{place} has half a surrogate pair at character {error.start}, which is no text; "
            "read it again in its right encoding, or with errors='replace'"
        ) from error
    return str.__str__(value)  # an array has strings of its own kind


def is_list(value: Any) -> bool:
    """Tell whether a value is an iterable that can hold texts. A string is not, and neither is a dictionary."""
    if isinstance(value, str | bytes | Mapping):
        return False
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0  # an array of numpy can be one number


def short(value: Any) -> str:
    """Return a value as an error shows it, in a few words.

    >>> short(None), short(float("nan")), short(["a"])
    ('None', 'nan', "['a']")
    """
    return " ".join(reprlib.repr(value).split())
