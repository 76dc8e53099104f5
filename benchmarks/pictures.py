"""Draw the pictures of README.md and docs/: quality against latency, and the way of the text through each ranker.

    python benchmarks/pictures.py

The numbers come from `results/rankers.json`. Everything is plain SVG, so equal numbers give equal files.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
INK, GREY, GRID, PAPER = "#1f2937", "#6b7280", "#e5e7eb", "#ffffff"
AHEAD, NOW, PAIR = "#0f766e", "#1d4ed8", "#c2410c"
FONT = "font-family=\"system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', Arial, sans-serif\""


def text(
    x: float, y: float, words: str, size: int = 14, color: str = INK, anchor: str = "start", more: str = ""
) -> str:
    """Draw one line of text; `anchor` is start, middle or end."""
    style = f'font-size="{size}" fill="{color}" text-anchor="{anchor}" {more}'.strip()
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, color: str = GRID, width: float = 1) -> str:
    """Draw a straight line."""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{color}" stroke-width="{width}"/>'


def page(width: int, height: int, title: str, parts: list[str]) -> str:
    """Make a whole SVG file on a white card, which reads well on a dark page too."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" {FONT}>',
            f"<title>{escape(title)}</title>",
            f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10" fill="{PAPER}" stroke="{GRID}"/>',
            *parts,
            "</svg>\n",
        ]
    )


# --- quality against latency ------------------------------------------------------------------------------------------


class Label(NamedTuple):
    """The label of a ranker in the chart: its words, and their offset from its point."""

    words: str
    dx: float
    dy: float
    anchor: str = "start"


LABELS = {
    "bi": Label("bi", -9, 1, "end"),
    "poly-64": Label("poly, 64 codes", 10, 2),
    "late": Label("late", 9, 5),
    "mix-a": Label("mix a", 9, 5),
    "mix-b": Label("mix b", -7, 22, "end"),
    "mix-c": Label("mix c", 9, 5),
    "cross, the teacher": Label("cross, trained 14 times longer", -10, 5, "end"),
    "uni": Label("uni", -9, 1, "end"),
    "cross": Label("cross", -9, 9, "end"),
    "bi, 2 layers, backbone": Label("bi, 2 layers of the backbone", 9, 1),
    "bi, 2 layers, infused": Label("bi, 2 layers, infused from cross", 9, 10),
    "bi, 2 layers, random": Label("bi, 2 layers, random", 9, 20),
    "early, no training": Label("early, no training", 9, 1),
    "ed2lm, candidate": Label("ed2lm, either way (100 contexts)", -30, 5, "end"),
    "ed2lm, context": Label("", 0, 0),
}
TOGETHER = {"cross, the teacher", "cross", "uni", "ed2lm, candidate", "ed2lm, context"}
LEFT, RIGHT, TOP, BOTTOM = 56, 664, 108, 448
FASTEST, SLOWEST, BEST = 4.5, 12_000, 70


def chart(results: dict) -> str:
    """Draw hits@1 against milliseconds with 1,000 candidates, a point for each ranker with its 95% interval."""

    def across(ms: float) -> float:
        return LEFT + (RIGHT - LEFT) * math.log(ms / FASTEST) / math.log(SLOWEST / FASTEST)

    def up(percent: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * percent / BEST

    parts = [
        text(24, 34, "The best of 20 responses, after four minutes of training", 19, INK, more='font-weight="600"')
    ]
    for x, color, words in (
        (24, AHEAD, "compares what was encoded ahead"),
        (318, PAIR, "reads context and candidate together"),
    ):
        parts.append(f'<circle cx="{x + 5}" cy="57" r="5" fill="{color}"/>')
        parts.append(text(x + 16, 62, words, 15, color))
    for percent in range(0, BEST + 1, 10):
        parts.append(line(LEFT, up(percent), RIGHT, up(percent)))
        parts.append(text(LEFT - 10, up(percent) + 5, str(percent), 13, GREY, "end"))
    for ms in (10, 100, 1_000, 10_000):
        parts.append(line(across(ms), TOP, across(ms), BOTTOM))
        parts.append(text(across(ms), BOTTOM + 20, f"{ms:,}", 13, GREY, "middle"))
    parts.append(text((LEFT + RIGHT) / 2, BOTTOM + 42, "ms for a context against 1,000 candidates", 14, GREY, "middle"))
    parts.append(text(LEFT - 40, TOP - 10, "hits@1, %", 13, GREY))
    for name, label in LABELS.items():
        row = results["rankers"][name]
        mean, low, high = (up(100 * share) for share in row["hits@1"])
        x, color = across(row["ms"]["1000"]), PAIR if name in TOGETHER else AHEAD
        parts.append(line(x, low, x, high, color, 1.5))
        parts.append(f'<circle cx="{x:.1f}" cy="{mean:.1f}" r="5" fill="{color}"/>')
        parts.append(text(x + label.dx, mean + label.dy, label.words, 15, INK, label.anchor))
    machine = results["machine"].replace(", 1 threads", ", one core")
    parts.append(
        text(24, 511, f"First 1,000 contexts of chitchat's test set, bars: 95% intervals. {machine}.", 12, GREY)
    )
    return page(684, 526, "Quality against latency of every ranker", parts)


# --- the way of the text ----------------------------------------------------------------------------------------------


class Box(NamedTuple):
    """A step of a ranker: its words (two lines at most), its place in columns and rows, and when it is done."""

    words: str
    column: float
    row: float
    color: str = GREY


class Flow(NamedTuple):
    """The steps of a ranker, and the arrows from one to another, by their numbers."""

    boxes: list[Box]
    arrows: list[tuple[int, int]]


def two_sides(views: str, kept: str, meeting: str, encoder: str = "encoder", again: str = "") -> Flow:
    """Make the flow of a system that encodes both sides apart. `again` says how often it reads a text."""
    boxes = [
        Box(f"context{again}", 0, 0),
        Box(encoder, 1, 0, NOW),
        Box(views, 2, 0, NOW),
        Box(f"candidate{again}", 0, 1),
        Box(encoder, 1, 1, AHEAD),
        Box(kept, 2, 1, AHEAD),
        Box(meeting, 3, 0.5, PAIR),
        Box("score", 4, 0.5),
    ]
    return Flow(boxes, [(0, 1), (1, 2), (3, 4), (4, 5), (2, 6), (5, 6), (6, 7)])


def together(candidates: str, *steps: Box) -> Flow:
    """Make the flow of a system that reads context and candidates in one run, and then takes further steps."""
    chain = [(number, number + 1) for number in range(1, len(steps) + 1)]
    return Flow([Box("context", 0, 0), Box(candidates, 0, 1), *steps], [(0, 2), *chain])


FLOWS = {
    "bi": two_sides("one\nvector", "one\nvector", "dot\nproduct"),
    "poly": two_sides("m codes:\nm vectors", "one\nvector", "attention,\ndot product"),
    "late": two_sides("a vector\nper token", "a vector\nper token", "MaxSim"),
    "early": two_sides("mean", "mean", "cosine", "first layers\nof a cross", ",\ntwice"),
    "mix": two_sides("keys and\nvalues", "k vectors", "1 to 3\nlayers"),
    "ed2lm": Flow(
        [
            Box("context", 0, 0),
            Box("candidate", 0, 1),
            Box("encoder", 1, 1, AHEAD),
            Box("a state\nper token", 2, 1, AHEAD),
            Box("decoder", 3, 0.5, PAIR),
            Box("score", 4, 0.5),
        ],
        [(1, 2), (2, 3), (0, 4), (3, 4), (4, 5)],
    ),
    "uni": together(
        "all the\ncandidates",
        Box("encoder,\none run", 1.5, 0.5, NOW),
        Box("mean of\neach", 3, 0.5, NOW),
        Box("all the\nscores", 4, 0.5),
    ),
    "cross": together(
        "candidate",
        Box("encoder", 1.5, 0.5, PAIR),
        Box("first state,\nlinear", 3, 0.5, PAIR),
        Box("score", 4, 0.5),
    ),
    "cascade": Flow(
        [
            Box("context", 0, 0),
            Box("a million\ncandidates", 0, 1, AHEAD),
            Box("retriever", 1.25, 0.5, NOW),
            Box("the best\n100", 2.25, 0.5),
            Box("reranker", 3.25, 0.5, PAIR),
            Box("order", 4.25, 0.5),
        ],
        [(0, 2), (1, 2), (2, 3), (3, 4), (4, 5)],
    ),
}
COLUMN, ROW, WIDE, HIGH, MARGIN = 132, 78, 104, 52, 20
KEY = ((AHEAD, "once for a candidate, ahead"), (NOW, "once for a context"), (PAIR, "for every pair"))


def place(box: Box) -> tuple[float, float]:
    """Return the upper left corner of a box."""
    return MARGIN + box.column * COLUMN, MARGIN + box.row * ROW


def draw(box: Box) -> list[str]:
    """Draw a box with its one or two lines of text."""
    (x, y), words = place(box), box.words.split("\n")
    fill = PAPER if box.color == GREY else box.color
    first = y + HIGH / 2 + 5 - 9 * (len(words) - 1)
    ink = INK if box.color == GREY else PAPER
    return [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{WIDE}" height="{HIGH}" rx="8" fill="{fill}" stroke="{box.color}"/>',
        *(text(x + WIDE / 2, first + 18 * n, word, 15, ink, "middle") for n, word in enumerate(words)),
    ]


def arrow(start: Box, end: Box) -> str:
    """Draw an arrow from the right side of one box to the left side of another."""
    (x1, y1), (x2, y2) = place(start), place(end)
    x1, y1, y2, bend = x1 + WIDE, y1 + HIGH / 2, y2 + HIGH / 2, 12
    path = f"M{x1:.1f},{y1:.1f} C{x2 - bend:.1f},{y1:.1f} {x1 + bend:.1f},{y2:.1f} {x2 - 5:.1f},{y2:.1f}"
    head = f"M{x2 - 8:.1f},{y2 - 4:.1f} L{x2 - 1:.1f},{y2:.1f} L{x2 - 8:.1f},{y2 + 4:.1f} Z"
    return f'<path d="{path}" fill="none" stroke="{GREY}" stroke-width="1.5"/><path d="{head}" fill="{GREY}"/>'


def flow(name: str) -> str:
    """Draw the picture of one ranker."""
    boxes, arrows = FLOWS[name]
    width = round(2 * MARGIN + max(box.column for box in boxes) * COLUMN + WIDE)
    height = 2 * MARGIN + ROW + HIGH + 30
    parts = [arrow(boxes[start], boxes[end]) for start, end in arrows]
    for box in boxes:
        parts += draw(box)
    x = MARGIN
    for color, words in KEY:
        if any(box.color == color for box in boxes):
            parts.append(f'<rect x="{x}" y="{height - 33}" width="12" height="12" rx="3" fill="{color}"/>')
            parts.append(text(x + 18, height - 22, words, 14, INK))
            x += 36 + round(7.2 * len(words))
    return page(width, height, f"The way of the text through {name}", parts)


def pictures() -> dict[Path, str]:
    """Draw every picture, by the file it belongs in."""
    results = json.loads((ROOT / "benchmarks/results/rankers.json").read_text(encoding="utf-8"))
    folder = ROOT / "docs/images"
    return {folder / "rankers.svg": chart(results)} | {folder / f"{name}.svg": flow(name) for name in FLOWS}


def main() -> None:
    """Write them all."""
    for path, picture in pictures().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(picture, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
