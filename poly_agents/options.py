"""Options as frozen dataclasses. Each field declares its flag, type, default, choices and help, once.

>>> @dataclass(frozen=True)
... class PolyOptions(Options):
...     poly_codes: int = option(64, "context vectors for each dialogue")
>>> PolyOptions.of({"poly_codes": 16, "batchsize": 8})
PolyOptions(poly_codes=16)
"""

import dataclasses
import difflib
import math
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from poly_agents.errors import InputError


def option(default: Any, help: str, choices: tuple[str, ...] | None = None, fallback: Any = None) -> Any:
    """Declare a field of an `Options` class, which is also a flag of the command line.

    A default of None leaves the option open: take the value from the pretrained checkpoint; if it has none, use
    `fallback`.

    Args:
        default: the value if none is given. Its type is the type of the flag.
        help: the text for `--help`.
        choices: the values that are allowed. None allows any.
        fallback: the value of an open option that the checkpoint does not set. Its type is the type of the flag.
    """
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "fallback": fallback})


@dataclass(frozen=True)
class Options:
    """Base of all options. A subclass checks its values in `__post_init__` and raises ValueError for a wrong one."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            choices, value = field.metadata["choices"], getattr(self, field.name)
            if value is None and is_open(field):
                continue
            if not has_type(field, value):
                raise InputError(
                    f"{flag(field.name)} must be of type {kind_of(field).__name__}, got {reprlib.repr(value)}"
                )
            if choices and value not in choices:
                raise InputError(f"{flag(field.name)} must be one of {', '.join(choices)}, got {reprlib.repr(value)}")
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{flag(field.name)} must be a finite number, got {value}")

    @classmethod
    def add_to(cls, parser) -> None:
        """Declare the flags on a parser of ParlAI, or on a group of one."""
        for field in dataclasses.fields(cls):
            help, value = field.metadata["help"], field.default
            if is_open(field):
                value = field.metadata["fallback"]
                help += f"; default: as the pretrained checkpoint says, or else {value!r}"
            parser.add_argument(
                flag(field.name),
                type="bool" if isinstance(value, bool) else type(value),
                default=field.default,
                choices=field.metadata["choices"],
                help=help,
            )

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """Make options from a dictionary. Entries that are not fields are ignored; fields may be missing."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values})

    def fill_open(self, known: dict[str, Any]) -> Self:
        """Return a copy in which no option is open.

        Args:
            known: values that a pretrained checkpoint sets, by name. Open options that it does not set take their
                fallbacks.
        """
        values = {}
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is None:
                value = known.get(field.name)
                values[field.name] = field.metadata["fallback"] if value is None else value
        return dataclasses.replace(self, **values)


def is_open(field: dataclasses.Field) -> bool:
    """Tell whether an option is open by default."""
    return field.default is None


def kind_of(field: dataclasses.Field) -> type:
    """Return the type of an option: that of its default, or of its fallback if it is open."""
    return type(field.metadata["fallback"] if is_open(field) else field.default)


def has_type(field: dataclasses.Field, value: Any) -> bool:
    """Tell whether a value has the type of an option. A whole number is a float too, True is no number."""
    kind = kind_of(field)
    return isinstance(value, (float, int) if kind is float else kind) and isinstance(value, bool) == (kind is bool)


def flag(name: str) -> str:
    """Return the flag of an option.

    >>> flag("poly_codes")
    '--poly-codes'
    """
    return "--" + name.replace("_", "-")


def at_least(options: Options, name: str, minimum: float) -> None:
    """Raise ValueError if an option is smaller than `minimum`. An open option passes."""
    value = getattr(options, name)
    if value is not None and value < minimum:
        raise InputError(f"{flag(name)} must be at least {minimum}, got {value}")


def above(options: Options, name: str, limit: float) -> None:
    """Raise ValueError if an option is not larger than `limit`. An open option passes."""
    value = getattr(options, name)
    if value is not None and value <= limit:
        raise InputError(f"{flag(name)} must be above {limit}, got {value}")


def nearest(name: str, known: Iterable[str], count: int = 1, similarity: float = 0.6) -> list[str]:
    """Return the names that are most like a given one, best first. Capitals and small letters are the same.

    >>> nearest("Polly", ["bi", "poly", "late"])
    ['poly']
    """
    lower = {each.lower(): each for each in known}
    return [lower[found] for found in difflib.get_close_matches(name.lower(), lower, count, similarity)]


def unknown(kind: str, name: object, known: Iterable[str], error: type[InputError] = InputError) -> InputError:
    """Make the error for a name that does not exist. It names the nearest one and lists them all.

    >>> str(unknown("ranker", "polly", ["bi", "poly"]))
    "there is no ranker 'polly'; did you mean 'poly'? There are: bi, poly"
    """
    known = sorted(known)
    near = nearest(str(name), known)
    hint = f"; did you mean {near[0]!r}? There are" if near else "; there are"
    return error(f"there is no {kind} {name!r}{hint}: {', '.join(known)}")
