"""Options as frozen dataclasses: each field declares its flag, type, default, choices and help, once."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self


def option(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    """A field of an `Options` class that is also a flag of the command line."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class Options:
    """What a model can be told. The command line is made from the fields: `poly_codes` is `--poly-codes`."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            choices, value = field.metadata["choices"], getattr(self, field.name)
            if choices and value not in choices:
                raise ValueError(f"{flag(field.name)} must be one of {', '.join(choices)}, got {value!r}")

    @classmethod
    def add_to(cls, parser) -> None:
        """Declare the flags on ParlAI's parser, or on a group of it."""
        for field in dataclasses.fields(cls):
            kind = "bool" if isinstance(field.default, bool) else type(field.default)
            parser.add_argument(
                flag(field.name),
                type=kind,
                default=field.default,
                choices=field.metadata["choices"],
                help=field.metadata["help"],
            )

    @classmethod
    def of(cls, values: dict) -> Self:
        """From any mapping that holds at least some of the fields; the others keep their defaults."""
        return cls(**{f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values})


def flag(name: str) -> str:
    """`poly_codes` -> `--poly-codes`."""
    return "--" + name.replace("_", "-")


def at_least(options: Options, name: str, least: int) -> None:
    """Refuse a smaller number, by the name of its flag."""
    if getattr(options, name) < least:
        raise ValueError(f"{flag(name)} must be at least {least}, got {getattr(options, name)}")
