"""Options as frozen dataclasses: each field declares its flag, type, default, choices and help, once."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self


def option(default: Any, help: str, choices: tuple[str, ...] | None = None, fallback: Any = None) -> Any:
    """A field of an `Options` class that is also a flag of the command line.

    With None for a default it is left open: what the pretrained weights say, or else `otherwise`.
    """
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "fallback": fallback})


@dataclass(frozen=True)
class Options:
    """What a model can be told. The command line is made from the fields: `poly_codes` is `--poly-codes`."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            choices, value = field.metadata["choices"], getattr(self, field.name)
            if choices and value not in choices and not (value is None and is_open(field)):
                raise ValueError(f"{flag(field.name)} must be one of {', '.join(choices)}, got {value!r}")

    @classmethod
    def add_to(cls, parser) -> None:
        """Declare the flags on ParlAI's parser, or on a group of it."""
        for field in dataclasses.fields(cls):
            plain = field.metadata["fallback"] if is_open(field) else field.default
            told = f"; default: as the pretrained weights say, or else {plain!r}" if is_open(field) else ""
            parser.add_argument(
                flag(field.name),
                type="bool" if isinstance(plain, bool) else type(plain),
                default=field.default,
                choices=field.metadata["choices"],
                help=field.metadata["help"] + told,
            )

    @classmethod
    def of(cls, values: dict) -> Self:
        """From any mapping that holds at least some of the fields; the others keep their defaults."""
        return cls(**{f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values})

    def fill_open(self, known: dict[str, Any]) -> Self:
        """With all that was left open as it is in `known`, or else as it is `otherwise`."""
        left = [field for field in dataclasses.fields(self) if getattr(self, field.name) is None]
        found = {field.name: known.get(field.name) for field in left}
        return dataclasses.replace(
            self, **{f.name: f.metadata["fallback"] if found[f.name] is None else found[f.name] for f in left}
        )


def is_open(field: dataclasses.Field) -> bool:
    """Whether an option is left open by default."""
    return field.default is None


def flag(name: str) -> str:
    """`poly_codes` -> `--poly-codes`."""
    return "--" + name.replace("_", "-")


def at_least(options: Options, name: str, least: int) -> None:
    """Refuse a smaller number, by the name of its flag."""
    value = getattr(options, name)
    if value is not None and value < least:
        raise ValueError(f"{flag(name)} must be at least {least}, got {value}")
