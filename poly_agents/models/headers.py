"""Check what a model file says of itself, before anything is built from it.

A header comes with the weights, perhaps from a stranger. It must not decide how much is allocated or where the network
is asked: every size in it has to be borne out by the weights in the same file.
"""

import dataclasses
import math
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from poly_agents.errors import InputError, PolyAgentsError, first_line
from poly_agents.models.lengths import Lengths
from poly_agents.options import Options, has_type, kind_of

LONGEST = 2**20  # tokens of a text
SMALL = 2**16  # a size that is harmless whatever the weights are
LAYERS = re.compile(r"(num_|n_)?(hidden_|decoder_|encoder_)?layers")
SIZES = ("hidden_size", "d_model", "dim", "vocab_size", "intermediate_size", "d_ff", "hidden_dim", "embedding_size")
HEADS = re.compile(r"(num_|n_)(attention_|key_value_|decoder_|encoder_)?heads?")
NO_SIZES = re.compile(r".*(position|theta|window|n_ctx).*")  # numbers of a backbone that no weight need have as a size
MOST = 2**24  # that such a number may be


def check_header(header: Mapping[str, Any], weights: Mapping[str, Tensor], path: str) -> None:
    """Check the header of a model file against its weights.

    Args:
        header: what the file says of itself.
        weights: its tensors by name. Only their shapes are looked at.
        path: the file, for errors.

    Raises:
        ValueError: something is missing, has the wrong type, or is larger than the weights allow. The message names
            the file, the entry and its value.
    """
    check_types(header, path)
    largest = max((max(tensor.shape, default=1) for tensor in weights.values()), default=1)
    for entry, value in header["backbone"].items():
        is_size = entry in SIZES or HEADS.fullmatch(entry)
        most = len(weights) if LAYERS.fullmatch(entry) else largest if is_size else None
        if most is not None and (type(value) is not int or not 1 <= value <= most):
            refuse(path, f"backbone.{entry}", value, f"a number from 1 to {most:,}, as the weights have it")
    for part in ("backbone", "options"):
        for entry, value in numbers(part, header[part]):
            most = MOST if part == "backbone" and NO_SIZES.fullmatch(entry) else max(largest, SMALL)
            if not math.isfinite(value) or (isinstance(value, int) and abs(value) > most):
                refuse(path, entry, value, f"at most {most:,}")


def check_types(header: Mapping[str, Any], path: str) -> None:
    """Check that a header has all its entries, each of its type. Raises ValueError as `check_header` does."""
    for entry, kind, allowed in (
        ("agent", str, "a name"),
        ("options", dict, "an object"),
        ("backbone", dict, "an object"),
    ):
        if not isinstance(header.get(entry), kind):
            refuse(path, entry, header.get(entry), allowed)
    for entry in Lengths._fields:
        value = header.get(entry)
        if type(value) is not int or not 1 <= value <= LONGEST:
            refuse(path, entry, value, f"a number from 1 to {LONGEST:,}")
    if not isinstance(header["backbone"].get("model_type"), str):
        refuse(path, "backbone.model_type", header["backbone"].get("model_type"), "a name")


def check_options(kind: type[Options], values: Mapping[str, Any], path: str) -> None:
    """Check that the options in a header have the types that they were declared with.

    Raises:
        ValueError: one has not. The message names the file and the option.
    """
    for field in dataclasses.fields(kind):
        if field.name in values and not has_type(field, values[field.name]):
            refuse(path, f"options.{field.name}", values[field.name], f"a {kind_of(field).__name__}")


def refuse(path: str, entry: str, value: Any, allowed: str) -> None:
    """Raise ValueError for an entry of the header of a file."""
    raise InputError(
        f"the header of {path} says {entry} {reprlib.repr(value)}, which must be {allowed}; restore the file"
    )


def numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Yield the numbers within a JSON value, each with its place: `backbone.rope_parameters.rope_theta`."""
    waiting = [(name, value)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, int | float):
            yield name, value
        elif isinstance(value, dict | list):
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            waiting.extend((f"{name}.{key}", part) for key, part in parts)


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Name a model file in what is raised on purpose while a model is built from its header."""
    try:
        yield
    except InputError as error:
        if path in str(error):
            raise
        raise InputError(f"{path}: {error}") from error


def described(build: Callable[[], Any], path: str) -> Any:
    """Build the encoder that the header of a model file describes.

    Raises:
        ValueError: there is no such encoder. The message names the file.
    """
    try:
        return build()
    except PolyAgentsError:
        raise
    except Exception as error:  # transformers raises what it likes for a configuration that makes no sense
        raise InputError(
            f"{path} is damaged: no encoder is as its header says ({first_line(error)}); restore the file"
        ) from error
