"""Tell whether texts are the same but for case, spaces and punctuation."""

import unicodedata
from functools import lru_cache

LEFT_OUT = ("P", "Z", "C", "Sk")  # categories of Unicode: punctuation, spaces, control characters, accents alone


class Letters(dict[int, int | None]):
    """A table for `str.translate` that leaves out what is no letter, number or symbol. It is filled when asked."""

    def __missing__(self, code: int) -> int | None:
        self[code] = None if unicodedata.category(chr(code)).startswith(LEFT_OUT) else code
        return self[code]


_letters = Letters()


@lru_cache(2**16)
def near_key(text: str) -> str:
    """Return what is left of a text without case, spaces and punctuation: texts with equal keys are near copies.

    A text of nothing else is its own key.

    >>> near_key("Well, YES!") == near_key("well yes"), near_key("don't") == near_key("do n't")
    (True, True)
    >>> near_key("yes") == near_key("no"), near_key("?!")
    (False, '?!')
    """
    return unicodedata.normalize("NFKC", text).casefold().translate(_letters) or text.strip()
