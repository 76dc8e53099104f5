"""Fit the lengths of contexts and candidates to the positions that an encoder has."""

import logging
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from poly_agents.errors import InputError
from poly_agents.options import flag
from poly_agents.scoring.ranker import Ranker

LOG = logging.getLogger(__name__)


class Lengths(NamedTuple):
    """How many tokens of a text are kept."""

    text_truncate: int  # of a context, the newest ones
    label_truncate: int  # of a candidate, the first ones


USUAL = Lengths(360, 72)  # Humeau et al. 2020


def fit(ranker: Ranker, wanted: Lengths, given: Collection[str] = ()) -> Lengths:
    """Return lengths for which the encoder of a ranker has enough positions.

    Args:
        ranker: the ranker.
        wanted: what is returned if it fits.
        given: those of `text_truncate` and `label_truncate` that the user chose. They are never changed. Others are
            taken down to what fits, which is logged.

    Raises:
        ValueError: what was given does not fit.
    """
    positions = ranker.context_encoder.positions

    def fits(text: int, label: int) -> bool:
        return ranker.positions_needed(text, label) <= positions

    text, label = wanted
    if fits(text, label):
        return wanted
    if "label_truncate" not in given:  # leave as much to a context as a candidate gets
        label = largest(label, lambda length: fits(text if "text_truncate" in given else length, length))
    if "text_truncate" not in given:
        text = largest(text, lambda length: fits(length, label))
    if not (text and label and fits(text, label)):
        raise InputError(
            f"--text-truncate {wanted.text_truncate} and --label-truncate {wanted.label_truncate} need "
            f"{ranker.positions_needed(*wanted)} positions with the special tokens, the encoder has {positions}; "
            "give smaller ones"
        )
    fitted = Lengths(text, label)
    pairs = zip(Lengths._fields, fitted, wanted, strict=True)
    changed = [f"{flag(name)} is {new} instead of {old}" for name, new, old in pairs if new != old]
    LOG.warning("the encoder has %d positions, so %s", positions, " and ".join(changed))
    return fitted


def for_start(ranker: Ranker, text_truncate: int | None, label_truncate: int | None) -> Lengths:
    """Return the lengths of a new ranker: what is given must fit, None takes the ranker's default or less."""
    given = {"text_truncate": text_truncate, "label_truncate": label_truncate}
    given = {name: length for name, length in given.items() if length is not None}
    for name, length in given.items():
        if type(length) is not int or length < 1:
            raise InputError(f"{flag(name)} must be a whole number from 1, got {length!r}")
    usual = USUAL._asdict() | {name: ranker.defaults[name] for name in USUAL._fields if name in ranker.defaults}
    return fit(ranker, Lengths(**usual | given), given)


def of_header(ranker: Ranker, header: Mapping[str, Any]) -> Lengths:
    """Return the lengths that a model file says, or less if its encoder has fewer positions."""
    return fit(ranker, Lengths(*(header[name] for name in Lengths._fields)))


def largest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number from 1 to `most` that fits, or 0 if none does. All below one that fits must fit.

    >>> largest(9, lambda number: number * number < 30)
    5
    """
    return bisect_left(range(1, most + 1), True, key=lambda number: not fits(number))
