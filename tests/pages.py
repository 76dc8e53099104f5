"""The pages of the documentation as data: their fenced blocks and their links."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TOP = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md"))]
MARKS = ("needs network", "long")
# a mark, then a fence with its language and title, then the text up to the same fence
FENCE = re.compile(
    r"(?:<!-- (?P<mark>[\w ]+) -->\n)?^(?P<indent> *)```(?P<info>[^\n]*)\n(?P<text>.*?)^\s*```$", re.M | re.S
)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]*)\)|src=\"([^\"]+)\"")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    title: str
    mark: str  # "needs network", "long" or nothing
    text: str

    @property
    def place(self) -> str:
        """Where to find it, as an error says it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The command lines of a sh block, split into words as a shell does."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in its order."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in FENCE.finditer(text):
        language, _, more = match["info"].partition(" ")
        title = re.search(r'title="([^"]+)"', more)
        line = text[: match.start("info")].count("\n") + 1
        body = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.M)
        found.append(Block(page, line, language, title[1] if title else "", match["mark"] or "", body))
    return found


def links(page: Path) -> list[str]:
    """Every link and picture of a page that does not lead to another host."""
    return [link or source for link, source in LINK.findall(without_blocks(page.read_text(encoding="utf-8")))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    text = without_blocks(page.read_text(encoding="utf-8"))
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in re.findall(r"^#+ (.*)$", text, re.M))
    return {heading.strip().replace(" ", "-") for heading in words}


def without_blocks(text: str) -> str:
    """A page's text less its fenced blocks."""
    return FENCE.sub("", text)
