"""Ubuntu IRC: who answers whom in the #ubuntu channel, annotated by hand; the source of DSTC7 and DSTC8.

Source     https://github.com/jkkummerfeld/irc-disentanglement
Licence    CC BY 4.0
Paper      Kummerfeld et al. 2019, https://aclanthology.org/P19-1374
Sizes      replies: train 31,021, valid 1,214
Context    up to 8 messages, each an answer to the one before it, oldest first
Candidates 20 in evaluation: the response and 19 of the same split, drawn once
Files      the official folder `data` with {train,dev,test}/NAME.annotation.txt ("1002 1004 -": message 1004 answers
           1002) and NAME.raw.txt (one message a line, counted from 0); or the replies as JSON lines
           `{train,dev}.jsonl`: {"file", "idx", "context": [[nick, text], ...], "response": [nick, text]}

A message that answers several counts as an answer to the newest; one that goes on with its writer's own is context
alone. Messages open with the nick they are meant for, which gives the right response away: every nick of the same log,
with a colon, comma, dash or the like behind it, is taken from the head of contexts and responses, and one of the
context's writers without a sign too. Nicks inside a message stay. `--ubuntu-irc-nicks true` leaves all as it is.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from poly_agents.tasks.response import Example, ResponseTeacher, draw_candidates

WHERE = "git clone https://github.com/jkkummerfeld/irc-disentanglement and give its folder data as --data-files"
TURNS = 8
ADDRESSED = re.compile(r"[\s@]*([^\s:,;>]+)(\s*[:,;>]+\s*|\s+-+\s+|\s+)")
MESSAGE = re.compile(r"(?:\[[\d:]+\] )?<([^>]+)> (.*)")


class Reply(NamedTuple):
    """A message and those before it, each as (nick, text)."""

    log: str
    context: list[tuple[str, str]]
    response: tuple[str, str]


class UbuntuIrcTeacher(ResponseTeacher):
    """`-t poly_agents:ubuntu_irc --data-files FOLDER`"""

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("ubuntu_irc")
        group.add_argument("--ubuntu-irc-nicks", type="bool", default=False, help="leave the nicks of who is answered")
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
        """The replies of the official files."""
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
    first, second, _ = line.split()
    return int(first), int(second)


def parse(line: str) -> Reply:
    row = json.loads(line)
    context = [(str(nick), str(text)) for nick, text in row["context"]]
    nick, text = row["response"]
    if not context or not str(text).strip():
        raise ValueError("a reply needs a context and a text")
    return Reply(row["file"], context, (nick, text))


def without_nicks(replies: list[Reply]) -> Iterator[Example]:
    """The replies without the nicks they open with; what was nothing else is left out."""
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
    """A message without the nicks at its head.

    >>> strip("bob2, ann - try apt", {"ann"}, {"ann", "bob2"}), strip("ann try apt: it works", {"ann"}, {"ann", "try"})
    ('try apt', 'try apt: it works')
    """
    while found := ADDRESSED.match(f"{text} "):
        nick, sign = found[1].lower(), found[2].strip()
        if nick not in (known if sign else near):
            break
        text = text[found.end() :].strip()
    return text.strip()
