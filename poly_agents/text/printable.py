"""Make text safe to print: a terminal obeys what it takes for commands."""

import re

COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Spell out control characters and marks of writing direction. Newlines and tabs stay.

    >>> printable("\x1b[2Jhello\n")
    '\\x1b[2Jhello\n'
    """
    return COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
