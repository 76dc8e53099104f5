"""Hooks of MkDocs: write the API reference, and include other files of the project in the pages.

A line that is nothing but a link to a Markdown file outside of docs/ is replaced by that file. The API reference has a
page for each folder, with every module of it, so a new file is there by itself.
"""

import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
INCLUDE = re.compile(r"^\[[^\]]*\]\(\.\./([^)]+\.md)\)$", re.MULTILINE)
PLOT = re.compile(r"\]\(\.\./benchmarks/results/([\w-]+\.png)\)")
LINK = re.compile(r"\[([^\]]*)\]\(((?!https?:|#)[^)]+)\)")
PAGES = {"tasks/README.md": "data-sets.md", "zoo/README.md": "zoo.md", "README.md": "index.md"}


REFERENCE = {  # page -> the folder it is about, and what that holds
    "poly_agents": ("poly_agents", "What you import first, and the modules that belong to no folder."),
    "text": ("poly_agents/text", "Text to ids, ids to tokens."),
    "encoders": ("poly_agents/encoders", "Tokens to states."),
    "scoring": ("poly_agents/scoring", "States to scores: the contract of every ranker, formulas, heads."),
    "rankers": ("poly_agents/rankers", "One file per system: paper, formula, options, model."),
    "candidates": (
        "poly_agents/candidates",
        "Pools of candidates in memory, in a store, in Milvus; and the search in them.",
    ),
    "evaluation": ("poly_agents/evaluation", "Measures, ranks and submissions."),
    "learning": ("poly_agents/learning", "The training step, losses, negatives, distillation."),
    "models": ("poly_agents/models", "Opening, building and using models without ParlAI."),
    "pretrained": ("poly_agents/pretrained", "Checkpoints of other libraries."),
    "files": ("poly_agents/files", "Atomic writes, checked downloads, archives, the format of a model file."),
    "export": ("poly_agents/export", "Models as other libraries open them."),
    "agents": ("poly_agents/agents", "The one folder that knows ParlAI."),
    "patches": ("poly_agents/patches", "What is mended in ParlAI as it is imported, and when each patch can go."),
    "teachers": ("poly_agents/agents/teachers", "What every data set builds on: examples, their order, reading files."),
    "tasks": ("tasks", "Data sets. Installed as `poly_agents.tasks`."),
    "zoo": ("zoo", "Checkpoints by name. Installed as `poly_agents.zoo`."),
}


def reference(title: str, folder: str, words: str) -> str:
    """A page of the API reference: every public module of a folder, the folder's own first."""
    paths = [path for path in (ROOT / folder).glob("*.py") if not path.stem.startswith("_")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(paths)]
    return "\n\n".join([f"# {title}", words, *(f"::: {name}" for name in (folder.replace("/", "."), *names)), ""])


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the API reference, and the plots of the benchmarks, which need not lie in two places."""
    for name, (folder, words) in REFERENCE.items():
        files.append(File.generated(config, f"api/{name}.md", content=reference(name, folder, words)))
    for plot in sorted((ROOT / "benchmarks/results").glob("*.png")):
        files.append(File.generated(config, f"images/{plot.name}", abs_src_path=str(plot)))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    """Put files and plots in. Raises FileNotFoundError if there is no such file, which stops the build."""
    markdown = PLOT.sub(r"](images/\1)", markdown)
    return INCLUDE.sub(lambda match: included(match.group(1)), markdown)


def included(path: str) -> str:
    """Return the text of a file, without its heading and with links that work from a page of docs/."""
    words = (ROOT / path).read_text(encoding="utf-8")
    words = re.sub(r"\A# .*\n+", "", words)
    return LINK.sub(lambda match: link(match.group(1), match.group(2), PurePosixPath(path).parent), words)


def link(words: str, target: str, folder: PurePosixPath) -> str:
    """Rewrite a link of a file in `folder` to the page with the same text or the API; otherwise return its words."""
    place = PurePosixPath(*resolved(folder / target))
    if str(place) in PAGES:
        return f"[{words}]({PAGES[str(place)]})"
    if str(place).startswith("benchmarks/results/"):
        return f"[{words}](results.md)"
    if place.parts[0] in ("tasks", "zoo") and place.suffix == ".py":
        return f"[{words}](api/{place.parts[0]}.md#{place.parts[0]}.{place.stem})"
    return words


def resolved(path: PurePosixPath) -> list[str]:
    """Return the parts of a path without `..`.

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
