"""The zoo as a table: for a terminal, and for zoo/README.md."""

from poly_agents.zoo.catalogue import ZOO, Entry
from poly_agents.zoo.sources import Hub, Release


def size(entry: Entry) -> str:
    return "not known" if entry.megabytes is None else f"{entry.megabytes} MB"


def check(entry: Entry) -> str:
    """What an arrival is held against."""
    kind = "commit" if isinstance(entry.source, Hub) else "sha256"
    return f"{kind}, pinned" if entry.source.pinned else f"{kind}, recorded when it first comes"


def plain() -> str:
    """A line an entry, and one of what was published of it."""
    long = max(map(len, ZOO))
    lines = [f"{'NAME':{long}}  {'AGENT':5}  {'SIZE':>9}  {'LICENCE':14}  WHERE"]
    for name, entry in ZOO.items():
        lines.append(f"{name:{long}}  {entry.agent:5}  {size(entry):>9}  {entry.licence:14}  {entry.source.where}")
        lines += [f"{'':{long}}  {told}" for told in _told(entry)]
    return "\n".join(lines)


def _told(entry: Entry) -> list[str]:
    command = entry.source.command if isinstance(entry.source, Release) else ""
    return [told for told in (f"{entry.score or 'no score published'}; trained on {entry.trained_on}", command) if told]


def markdown() -> str:
    """The table of zoo/README.md, and the commands that make what is ours."""
    lines = [
        "| NAME | agent | trained on | size | licence | published score | where | checked by | state |",
        "| --- | --- | --- | ---: | --- | --- | --- | --- | --- |",
    ]
    for name, entry in ZOO.items():
        cells = [f"`{name}`", f"`{entry.agent}`", entry.trained_on, size(entry), entry.licence, entry.score]
        lines.append("| " + " | ".join([*cells, entry.source.where, check(entry), entry.state]) + " |")
    made = {name: entry.source.command for name, entry in ZOO.items() if isinstance(entry.source, Release)}
    lines += ["", "The commands that make what is not published yet, all of them run by `make zoo`:", "", "```"]
    return "\n".join([*lines, *made.values(), "```"])
