"""The zoo as text: for a terminal, and as the tables of zoo/README.md."""

from collections.abc import Mapping, Sequence

from poly_agents.zoo.catalogue import EMBEDDED, HUB, OURS, PARLAI, ZOO, Entry
from poly_agents.zoo.sources import Release


def plain() -> str:
    """List every entry on a line, and on the next lines what was published about it and how it was trained."""
    width = max(map(len, ZOO))
    lines = [f"{'NAME':{width}}  {'AGENT':5}  {'SIZE':>9}  {'LICENCE':14}  WHERE"]
    for name, entry in ZOO.items():
        lines.append(f"{name:{width}}  {entry.agent:5}  {size(entry):>9}  {entry.licence:14}  {entry.source.where}")
        details = [f"{entry.score or 'no score published'}; trained on {entry.trained_on}"]
        if isinstance(entry.source, Release):
            details.append(entry.source.command)
        lines += [f"{'':{width}}  {detail}" for detail in [*details, check(entry)]]
    return "\n".join(lines)


def size(entry: Entry) -> str:
    """Write the size of an entry's weights."""
    return "not known" if entry.megabytes is None else f"{entry.megabytes} MB"


def check(entry: Entry) -> str:
    """Say what the files are compared with when they are fetched."""
    when = "pinned in the catalogue" if entry.source.pinned else "recorded when it first comes, checked from then on"
    return f"{entry.source.digest} {when}"


def markdown() -> str:
    """Write the tables of zoo/README.md, one for each place that checkpoints come from."""
    sections = [
        "### In this project's packages, and trained by it",
        table(("NAME", "agent", "trained on", "size", "licence"), EMBEDDED | OURS, own_row),
        "The commands that train them, all run by `make zoo`:",
        "\n".join(["```", *(entry.source.command for entry in OURS.values()), "```"]),
        "### From ParlAI's zoo",
        table(("NAME", "agent", "trained on", "published score (ParlAI)"), PARLAI, parlai_row),
        "### From HuggingFace's hub",
        table(("NAME", "agent", "trained on", "size", "licence", "published score"), HUB, hub_row),
        verified(),
    ]
    return "\n\n".join(sections)


def verified() -> str:
    """Say which entries were compared with the library that published them, on the real weights."""
    equal = [f"`{name}`" for name, entry in ZOO.items() if entry.equal]
    return (
        f"The scores of {', '.join(equal[:-1])} and {equal[-1]} equal those of sentence-transformers to 1e-4, on the "
        "real\nweights. Of the other entries, models of the same format were loaded here, not the real weights."
    )


def table(head: Sequence[str], entries: Mapping[str, Entry], row) -> str:
    """Write a Markdown table; `row(name, entry)` gives the cells of a line."""
    lines = [head, ["---:" if title == "size" else "---" for title in head]]
    lines += [row(name, entry) for name, entry in entries.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def own_row(name: str, entry: Entry) -> list[str]:
    return [f"`{name}`", f"`{entry.agent}`", entry.trained_on, size(entry), entry.licence]


def parlai_row(name: str, entry: Entry) -> list[str]:
    return [f"`{name}`", f"`{entry.agent}`", entry.trained_on, entry.score]


def hub_row(name: str, entry: Entry) -> list[str]:
    link = f"[`{name}`](https://{entry.source.where})"
    return [link, f"`{entry.agent}`", entry.trained_on, size(entry), entry.licence, entry.score]
