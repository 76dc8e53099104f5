"""Join the turns of a dialogue to one text, the same way in training, evaluation and chats.

Persona lines come first. Every line is a turn. Turns may begin with a mark that says who speaks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from poly_agents.errors import InputError
from poly_agents.text import given

PERSONA = ("your persona:", "partner's persona:")  # these lines were not said by anybody
SPEAKERS = ("A: ", "B: ")  # with --speakers: the one who is answered, and the one who answers


class ResponseExample(NamedTuple):
    """One example of a task: a context with its whole history, and the response."""

    context: str  # turns joined by newlines
    response: str
    candidates: list[str] | None
    others: Sequence[str] = ()  # further right responses


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


@dataclass(frozen=True)
class Dialogue:
    """A context given as its turns. `TextRanker` takes one wherever it takes the text of a context.

    Args:
        turns: oldest first, the newest last. Persona lines come before them (`your persona: i have a cat`). A newline
            within a turn begins another turn.
        speakers: mark who speaks, for a model that was trained with `--speakers true`.

    Raises:
        ValueError: there is no turn, or one of them is not a string. The message names its place.

    >>> Dialogue(["hi", "hello, any pets?"]).text
    'hi\\nhello, any pets?'
    """

    turns: Iterable[str]
    speakers: bool = False

    def __post_init__(self):
        turns = tuple(given.texts(self.turns, "turn"))
        if not turns:
            raise InputError("a dialogue needs at least one turn, got none")
        object.__setattr__(self, "turns", turns)

    @property
    def text(self) -> str:
        """Return the dialogue as one text, as a model reads it."""
        return TurnFormat(self.speakers).text(self.turns)


def context_texts(contexts: Iterable[str | Dialogue]) -> list[str]:
    """Return the texts of contexts. Raises ValueError, which names the place, for one that is no text or dialogue.

    >>> context_texts(["hi", Dialogue(["hi", "hello"])])
    ['hi', 'hi\\nhello']
    """
    found = []
    for place, context in enumerate(given.items(contexts, "context")):
        if given.is_list(context):
            raise InputError(f"context {place} is a list; to give the turns of one context, write Dialogue([...])")
        text = context.text if isinstance(context, Dialogue) else context
        found.append(given.text(text, f"context {place}"))
    return found


def already_said(history: str) -> set[str]:
    """Return the turns of a dialogue, with and without the marks of speakers.

    >>> sorted(already_said("A: hi\\nB: hello"))
    ['A: hi', 'B: hello', 'hello', 'hi']
    """
    lines = history.split("\n")
    return {*lines, *(line.removeprefix(mark) for line in lines for mark in SPEAKERS)}
