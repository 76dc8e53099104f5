"""Check what a model file says of itself, before anything is built from it.

A header comes with the weights, perhaps from a stranger. It must not decide how much is allocated or where the network
is asked: every size in it has to be borne out by the weights in the same file.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from poly_agents.errors import InputError

LENGTHS = ("text_truncate", "label_truncate")
LONGEST = 2**20  # tokens of a text
SMALL = 2**16  # a size that is harmless whatever the weights are
LAYERS = re.compile(r"(num_|n_)?(hidden_|decoder_|encoder_)?layers")
SIZES = (
    "hidden_size",
    "d_model",
    "dim",
    "vocab_size",
    "intermediate_size",
    "d_ff",
    "hidden_dim",
    "embedding_size",
    "d_kv",
)


def check_header(header: Any, weights: Mapping[str, Tensor], path: str) -> None:
    """Check the header of a model file against its weights.

    Args:
        header: what the file says of itself.
        weights: its tensors by name. Only their shapes are looked at.
        path: the file, for errors.

    Raises:
        ValueError: something is missing, has the wrong type, or is larger than the weights allow. The message names
            the file, the entry and its value.
    """

    def refuse(entry: str, value: Any, allowed: str) -> None:
        raise InputError(f"the header of {path} says {entry} {value!r}, which must be {allowed}; restore the file")

    if not isinstance(header, dict):
        refuse("", header, "an object")
    for entry, kind, allowed in (
        ("agent", str, "a name"),
        ("options", dict, "an object"),
        ("backbone", dict, "an object"),
    ):
        if not isinstance(header.get(entry), kind):
            refuse(entry, header.get(entry), allowed)
    for entry in LENGTHS:
        value = header.get(entry)
        if type(value) is not int or not 1 <= value <= LONGEST:
            refuse(entry, value, f"a number from 1 to {LONGEST:,}")
    largest = max((max(tensor.shape, default=1) for tensor in weights.values()), default=1)
    for entry, value in header["backbone"].items():
        most = len(weights) if LAYERS.fullmatch(entry) else largest if entry in SIZES else None
        if most is not None and (type(value) is not int or not 1 <= value <= most):
            refuse(f"backbone.{entry}", value, f"a number from 1 to {most:,}, as the weights have it")
    if not isinstance(header["backbone"].get("model_type"), str):
        refuse("backbone.model_type", header["backbone"].get("model_type"), "a name")
    for entry, value in header["options"].items():
        if type(value) is int and abs(value) > max(largest, SMALL):
            refuse(f"options.{entry}", value, f"at most {max(largest, SMALL):,}")
