"""Ubuntu IRC: who answers whom in the #ubuntu channel, annotated by hand; the source of DSTC7 and DSTC8.

Source     https://github.com/jkkummerfeld/irc-disentanglement
Licence    CC BY 4.0
Paper      Kummerfeld et al. 2019, https://aclanthology.org/P19-1374
Sizes      replies of the official logs: train 36,542 (153 logs), valid 1,459 (10), test 2,639 (10)
Context    up to 8 messages, each an answer to the one before it, oldest first
Candidates 20 in evaluation: the response and 19 responses of the same split, drawn once
Files      the official folder `data` with {train,dev,test}/NAME.annotation.txt ("1002 1004 -": message 1004 answers
           1002) and NAME.raw.txt (one message a line, counted from 0); or the replies as JSON lines
           `{train,dev,test}.jsonl`: {"file", "idx", "context": [[nick, text], ...], "response": [nick, text]}

A message that answers several others counts as an answer to the newest. A message that continues one of the same writer
is context, not a response. Messages often begin with the nick of the person they address, which gives the right
response away. So the nick of anybody in the same log is removed from the start of contexts and responses if a colon,
comma, dash or the like follows it; the nick of a writer of the context is removed without a sign too. Nicks inside a
message stay. `--ubuntu-irc-nicks true` removes none.
"""

import re
import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from poly_agents.agents.teachers.examples import Example, draw_candidates
from poly_agents.agents.teachers.reading import id_at, json_object, list_at
from poly_agents.agents.teachers.response import ResponseTeacher
from poly_agents.errors import InputError

TURNS = 8
ADDRESSED = re.compile(r"[\s@]*([^\s:,;>]+)(\s*[:,;>]+\s*|\s+-+\s+|\s+)")
MESSAGE = re.compile(r"(?:\[[\d:]+\] )?<([^>]+)> (.*)")


class Reply(NamedTuple):
    """A message and the messages before it, each as (nick, text)."""

    log: str
    context: list[tuple[str, str]]
    response: tuple[str, str]


class UbuntuIrcTeacher(ResponseTeacher):
    """`-t poly_agents:ubuntu_irc --data-files FOLDER`"""

    WHERE = "clone https://github.com/jkkummerfeld/irc-disentanglement and give its folder data as --data-files"

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("ubuntu_irc")
        group.add_argument(
            "--ubuntu-irc-nicks", type="bool", default=False, help="keep the nicks at the start of messages"
        )
        return parser

    def read(self, split):
        name = "dev" if split == "valid" else split
        folder = Path(self.opt.get("data_files") or "") / name
        logs = sorted(folder.glob("*.annotation.txt")) if self.opt.get("data_files") else []
        replies = self.annotated(logs) if logs else self.rows(self.path(f"{name}.jsonl"), parse)
        if self.opt.get("ubuntu_irc_nicks"):
            examples = [Example([text for _, text in r.context], r.response[1]) for r in replies]
        else:
            examples = list(without_nicks(list(replies)))
        return examples if split == "train" else draw_candidates(examples, f"ubuntu_irc:{split}")

    def annotated(self, logs: Iterable[Path]) -> Iterator[Reply]:
        """Read the replies of the official files."""
        for path in logs:
            log = path.name.removesuffix(".annotation.txt")
            lines = path.with_name(f"{log}.raw.txt").read_text("utf-8", "replace").split("\n")
            messages = {i: found.groups() for i, line in enumerate(lines) if (found := MESSAGE.match(line))}
            answers: dict[int, int] = {}
            for first, second in self.rows(path, parse_link):
                if first < second and {first, second} <= messages.keys():
                    answers[second] = max(first, answers.get(second, first))
            for number in sorted(answers):
                chain = [number]
                while chain[0] in answers and len(chain) <= TURNS:
                    chain.insert(0, answers[chain[0]])
                *context, response = (messages[place] for place in chain)
                if context[-1][0] != response[0]:
                    yield Reply(log, context, response)


def parse_link(line: str) -> tuple[int, int]:
    """Parse an annotation: the message that is answered, and its answer."""
    first, second, _ = line.split()
    return int(first), int(second)


def parse(line: str) -> Reply:
    """Parse a reply of the JSON lines."""
    row = json_object(line)
    context, response = [message(given) for given in list_at(row, "context")], message(row["response"])
    if not context or not response[1].strip():
        raise InputError("a reply needs a context and a text")
    return Reply(id_at(row, "file"), context, response)


def message(given: Any) -> tuple[str, str]:
    """Return the nick and the text of a message. Raises ValueError if it is not these two."""
    if not isinstance(given, list) or len(given) != 2 or not all(isinstance(part, str) for part in given):
        raise InputError(f"a message is a nick and a text, got {reprlib.repr(given)}")
    return given[0], given[1]


def without_nicks(replies: list[Reply]) -> Iterator[Example]:
    """Remove the nicks at the start of messages, and leave out replies that then are empty."""
    writers: dict[str, set[str]] = {}
    for reply in replies:
        writers.setdefault(reply.log, set()).update(nick.lower() for nick, _ in (*reply.context, reply.response))
    for reply in replies:
        near = {nick.lower() for nick, _ in reply.context}
        texts = [strip(text, near, writers[reply.log]) for _, text in (*reply.context, reply.response)]
        context = [text for text in texts[:-1] if text]
        if context and texts[-1]:
            yield Example(context, texts[-1])


def strip(text: str, near: set[str], known: set[str]) -> str:
    """Remove the nicks at the start of a message: `near` ones, and with a sign behind them all `known` ones.

    >>> strip("bob2, ann - try apt", {"ann"}, {"ann", "bob2"}), strip("ann try apt: it works", {"ann"}, {"ann", "try"})
    ('try apt', 'try apt: it works')
    """
    while found := ADDRESSED.match(f"{text} "):
        nick, sign = found[1].lower(), found[2].strip()
        if nick not in (known if sign else near):
            break
        text = text[found.end() :].strip()
    return text.strip()
