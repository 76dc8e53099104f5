"""What MkDocs does to a page before it renders it: put other Markdown files of the project in, and mend their links.

A line `<!-- include: PATH -->` is replaced by the file at PATH, counted from the root of the project.
"""

import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
INCLUDE = re.compile(r"^<!-- include: (\S+) -->$", re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\(((?!https?:|#)[^)]+)\)")
PAGES = {"tasks/README.md": "data-sets.md", "zoo/README.md": "zoo.md", "README.md": "index.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the plots of the benchmarks to the pictures, so that they need not lie in two places."""
    for plot in sorted((ROOT / "benchmarks/results").glob("*.png")):
        files.append(File.generated(config, f"images/{plot.name}", abs_src_path=str(plot)))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    """Replace every include line. Raises FileNotFoundError if there is no such file, which stops the build."""
    return INCLUDE.sub(lambda match: included(match.group(1)), markdown)


def included(path: str) -> str:
    """The text of a file, without its heading and with links that work from a page of docs/."""
    words = (ROOT / path).read_text(encoding="utf-8")
    words = re.sub(r"\A# .*\n+", "", words)
    return LINK.sub(lambda match: link(match.group(1), match.group(2), PurePosixPath(path).parent), words)


def link(words: str, target: str, folder: PurePosixPath) -> str:
    """A link of a file in `folder`: to the page with the same text or the API, or else its words."""
    place = PurePosixPath(*resolved(folder / target))
    if str(place) in PAGES:
        return f"[{words}]({PAGES[str(place)]})"
    if str(place).startswith("benchmarks/results/"):
        return f"[{words}](results.md)"
    if place.parts[0] in ("tasks", "zoo") and place.suffix == ".py":
        return f"[{words}](api/{place.parts[0]}.md#{place.parts[0]}.{place.stem})"
    return words


def resolved(path: PurePosixPath) -> list[str]:
    """The parts of a path without `..`.

    >>> resolved(PurePosixPath("tasks/../benchmarks/tasks.py"))
    ['benchmarks', 'tasks.py']
    """
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return parts
