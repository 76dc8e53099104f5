"""Reddit: replies to comments, from dumps of comments; what Humeau et al. 2020 pre-train on.

Source   dumps as pushshift.io made them, RC_YYYY-MM, plain or .zst, .bz2, .gz
Licence  none is given: the comments are their authors'
Paper    Baumgartner et al. 2020, https://arxiv.org/abs/2001.08435; the filters are those of Roller et al. 2020,
         https://arxiv.org/abs/2004.13637
Sizes    those of the files; about 174 million pairs in Humeau et al.
Format   a JSON object a line: `id`, `parent_id` (`t1_` a comment, `t3_` a submission), `link_id`, `body`, `author`,
         `subreddit`, older ones before newer ones
Eval     20 candidates: the reply and 19 replies of the same split
Context  the comments that lead to the reply, the newest `--history-turns`

A comment and all replies to it are left out if its author is a known bot, if its subreddit is known not to be English,
if it was deleted, if it has fewer than 5 characters, more than 2,048 characters without a space or more than 128 words
(the paper counts BPE tokens), if it contains a URL, if it does not begin with an ASCII character, or if it is deeper
than 7 in its thread. Only the newest `--reddit-window` comments are held in memory; a reply to an older one is left
out. A thread is in one split as a whole: 1 in 100 is valid, 1 in 100 test.
"""

import re
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from poly_agents.agents.teachers.examples import Example, draw_candidates
from poly_agents.agents.teachers.reading import id_at, json_object, text_at
from poly_agents.agents.teachers.response import ResponseTeacher
from poly_agents.errors import InputError

BOTS = {"automoderator", "autotldr", "remindmebot", "totesmessenger", "wikitextbot", "imguralbumbot"}
FOREIGN = set(
    "argentina brasil chile croatia de denmark france italy mexico norge polska portugal quebec romania serbia suomi "
    "sweden thenetherlands turkey".split()
)
GONE = {"[deleted]", "[removed]"}
URL = re.compile(r"https?://|www\.", re.IGNORECASE)
WINDOW = 1_000_000
DEPTH, SHORTEST, LONGEST, WORDS = 7, 5, 2048, 128


class Comment(NamedTuple):
    """A comment, the one it answers and its thread; the text is empty if the comment is left out."""

    name: str
    parent: str
    thread: str
    text: str


class RedditTeacher(ResponseTeacher):
    """`-t poly_agents:reddit --data-files PATH`"""

    WHERE = "give the folder that holds the dumps of comments (RC_2019-07.zst ...) as --data-files, or one dump"
    history_turns = 4

    @classmethod
    def add_cmdline_args(cls, parser, partial_opt=None):
        super().add_cmdline_args(parser, partial_opt)
        group = parser.add_argument_group("reddit")
        group.add_argument(
            "--reddit-window", type=int, default=WINDOW, help="how many of the newest comments are held in memory"
        )
        group.add_argument(
            "--reddit-pairs", type=int, default=0, help="how many replies of a split to read; 0 reads all"
        )
        return parser

    def read(self, split):
        pairs = islice(self.pairs(split), self.opt["reddit_pairs"] or None)
        return pairs if split == "train" else draw_candidates([*pairs], f"reddit:{split}")

    def pairs(self, split: str) -> Iterator[Example]:
        """Yield every reply of a split with the comments that lead to it, in the order of the files."""
        turns, window = self.positive("history_turns", self.history_turns), self.positive("reddit_window", WINDOW)
        known: OrderedDict[str, tuple[str, ...]] = OrderedDict()  # comment -> all turns up to it
        for path in self.dumps():
            for comment in self.rows(path, parse):
                before = () if comment.parent.startswith("t3_") else known.get(comment.parent)
                if before is None or not comment.text or len(before) > DEPTH:
                    continue
                known[comment.name] = (*before, comment.text)
                if len(known) > window:
                    known.popitem(last=False)
                if before and part(comment.thread) == split:
                    yield Example(before[-turns:], comment.text)

    def dumps(self) -> list[Path]:
        """Find the dumps, sorted by their names."""
        path = Path(self.opt.get("data_files") or "")
        found = [path] if path.is_file() else sorted(path.glob("RC_*"))
        if not self.opt.get("data_files") or not found:
            raise InputError(f"--data-files {path}: there is no RC_* in it; {self.WHERE}")
        return found


def parse(line: str) -> Comment:
    """Parse a line of a dump. Raises ValueError or KeyError for a bad one."""
    row = json_object(line)
    text = " ".join(text_at(row, "body").split())
    author, subreddit = (text_at(row, key).lower() if row.get(key) else "" for key in ("author", "subreddit"))
    kept = (
        author not in BOTS | GONE
        and subreddit not in FOREIGN
        and text not in GONE
        and len(text) >= SHORTEST
        and (len(text) <= LONGEST or " " in text)
        and text.count(" ") < WORDS
        and text[0].isascii()
        and not URL.search(text)
    )
    name, parent, thread = (id_at(row, key) for key in ("id", "parent_id", "link_id"))
    return Comment(f"t1_{name}", parent, thread, text if kept else "")


def part(thread: str) -> str:
    """Return the split of a thread.

    >>> part("t3_7")
    'train'
    """
    return {0: "valid", 1: "test"}.get(zlib.crc32(thread.encode()) % 100, "train")
