"""Join the turns of a dialogue to one text, the same way in training, evaluation and chats.

Persona lines come first. Every line is a turn. Turns may begin with a mark that says who speaks.
"""

from collections.abc import Sequence
from typing import NamedTuple

PERSONA = ("your persona:", "partner's persona:")  # these lines were not said by anybody
SPEAKERS = ("A: ", "B: ")  # with --speakers: the one who is answered, and the one who answers


class ResponseExample(NamedTuple):
    """One example of a task: a context with its whole history, and the response."""

    context: str  # turns joined by newlines
    response: str
    candidates: list[str] | None


class TurnFormat(NamedTuple):
    """How a context becomes one text.

    >>> TurnFormat(speakers=True).text(["your persona: i have a cat", "hi", "hello", "any pets?"])
    'your persona: i have a cat\\nA: hi\\nB: hello\\nA: any pets?'
    """

    speakers: bool = False  # mark who speaks; speakers alternate, and the newest turn is the one to be answered

    def text(self, context: Sequence[str]) -> str:
        """Join persona lines and turns by newlines. The tokenizer makes a separator of each newline."""
        if not self.speakers:
            return "\n".join(context)
        turns_left = sum(not line.startswith(PERSONA) for line in context)
        lines = []
        for line in context:
            if not line.startswith(PERSONA):
                line, turns_left = SPEAKERS[(turns_left - 1) % 2] + line, turns_left - 1
            lines.append(line)
        return "\n".join(lines)


def already_said(history: str) -> set[str]:
    """Return the turns of a dialogue, with and without the marks of speakers.

    >>> sorted(already_said("A: hi\\nB: hello"))
    ['A: hi', 'B: hello', 'hello', 'hi']
    """
    lines = history.split("\n")
    return {*lines, *(line.removeprefix(mark) for line in lines for mark in SPEAKERS)}
