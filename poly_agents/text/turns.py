"""How turns become one text, the same in training, evaluation and chats: persona first, a line each, perhaps marked."""

from collections.abc import Sequence
from typing import NamedTuple

from parlai.core.torch_agent import History

PERSONA = ("your persona:", "partner's persona:")  # how lines of a context begin that nobody said; they come first
SPEAKERS = ("A: ", "B: ")  # with --speakers: who is answered, and who answers


class Format(NamedTuple):
    """How a context becomes one text.

    >>> Format(speakers=True).text(["your persona: i have a cat", "hi", "hello", "any pets?"])
    'your persona: i have a cat\\nA: hi\\nB: hello\\nA: any pets?'
    """

    speakers: bool = False  # whether turns say who speaks: by turns, the newest one being answered

    def text(self, context: Sequence[str]) -> str:
        """Persona lines, then turns, parted by newlines: the tokeniser makes a separator of each."""
        if not self.speakers:
            return "\n".join(context)
        said = sum(not line.startswith(PERSONA) for line in context)
        lines = []
        for line in context:
            if not line.startswith(PERSONA):
                line, said = SPEAKERS[(said - 1) % 2] + line, said - 1
            lines.append(line)
        return "\n".join(lines)


class ChatHistory(History):
    """ParlAI's history of a dialogue. In a chat it marks who speaks, where the model was trained on marks."""

    def __init__(self, opt, **kwargs):
        super().__init__(opt, **kwargs)
        if opt.get("speakers") and opt.get("interactive_mode"):  # a task's texts are marked already
            self.add_person_tokens = True
            self.p1_token, self.p2_token = SPEAKERS

    def _add_person_tokens(self, text, token, add_after_newln=False):
        if token not in SPEAKERS:  # the tokens of a model of ParlAI's own
            return super()._add_person_tokens(text, token, add_after_newln)
        return "\n".join(token + line if line and not line.startswith(PERSONA) else line for line in text.split("\n"))


def said(history: str) -> set[str]:
    """What was said in a dialogue, with and without marks.

    >>> sorted(said("A: hi\\nB: hello"))
    ['A: hi', 'B: hello', 'hello', 'hi']
    """
    lines = history.split("\n")
    return {*lines, *(line.removeprefix(mark) for line in lines for mark in SPEAKERS)}
