"""ConvAI2: two crowd workers get to know each other, each with a persona of four or five sentences.

Source   http://parl.ai/downloads/convai2/convai2_fix_723.tgz, the archive of ParlAI's own task
Licence  none is stated; the dialogues are PersonaChat's
Paper    Dinan et al. 2019, https://arxiv.org/abs/1902.00098
Sizes    131,438 train, 7,801 valid; the 6,634 of test are hidden
Format   `<number> <text>`, the number starting at 1 in every conversation: persona lines, then
         `turn TAB reply TAB TAB candidate|candidate|...`
Eval     20 candidates of the file, the reply being the last one
Context  persona lines, then all turns

Variants, as ParlAI names them: `self_original` (the default, also `self`), `self_revised`, `both`, `none`; each may be
`normalized` (capitals, ordinary punctuation; alone it means `normalized_self`), and `:no_cands` after any of them
leaves the candidates out.
"""

from collections.abc import Iterator
from pathlib import Path

from parlai.utils.strings import normalize_reply

from poly_agents.files.download import Download
from poly_agents.tasks import variant
from poly_agents.tasks.response import Example, ResponseTeacher

FILES = (
    Download(
        "http://parl.ai/downloads/convai2/convai2_fix_723.tgz",
        "convai2_fix_723.tgz",
        "d0ae89defe2fd0b0a4221eaa642a457d7d40cef475f54798119c7f3b8dd9361d",
        archive=True,
    ),
)
PERSONAS = {  # variant -> the file's part of the name
    "": "self_original",
    "self": "self_original",
    "self_original": "self_original",
    "self_revised": "self_revised",
    "both": "both_original",
    "none": "none_original",
}
VARIANTS = {  # variant -> persona, whether it is normalized, whether it has candidates
    ":".join(filter(None, ("_".join(filter(None, (normal, name))), end))): (persona, bool(normal), not end)
    for normal in ("", "normalized")
    for name, persona in PERSONAS.items()
    for end in ("", "no_cands")
}
PERSONA_LINES = ("your persona: ", "partner's persona: ")


class Convai2Teacher(ResponseTeacher):
    """`-t poly_agents:convai2`, `-t poly_agents:convai2:none` ..."""

    def read(self, split):
        if split == "test":
            raise ValueError("convai2's test set is hidden, so nobody outside can be measured on it; use -dt valid")
        persona, normal, candidates = VARIANTS[variant(self.opt["task"], VARIANTS)]
        path = self.path(f"{split}_{persona}{'' if candidates else '_no_cands'}.txt")
        return self.conversations(path, normalize if normal else str)

    def conversations(self, path: Path, clean) -> Iterator[Example]:
        """Every reply of a file. What a bad line leaves behind of its conversation goes on without it."""
        context: list[str] = []
        texts: dict[str, str] = {}  # candidates are replies of others: every text is held once
        last = 0
        for number, turn, reply, candidates in self.rows(path, fields):
            if number <= last:
                context = []
            last = number
            context = [*context, *map(clean, turn.split("\n"))] if turn else context
            if reply:
                reply, *candidates = (texts.setdefault(text, text) for text in map(clean, (reply, *candidates)))
                yield Example(context, reply, candidates or None)
                context = [*context, reply]


def fields(line: str) -> tuple[int, str, str, list[str]]:
    """The number of a line, its turn, its reply and the candidates, the last three empty where there are none."""
    number, _, text = line.strip().replace("\\n", "\n").partition(" ")
    if not number.isdecimal():
        raise ValueError(f"a line begins with its number in the conversation, got {line[:20]!r}")
    turn, reply, _, candidates = [*(part.strip() for part in text.split("\t")), "", "", ""][:4]
    found = candidates.split("|") if candidates else []
    if found and reply not in found:
        raise ValueError("the reply is not among the candidates")
    return int(number), turn, reply, found


def normalize(text: str) -> str:
    """Capitals and punctuation as people write them, after the mark of a persona's line."""
    mark = next((mark for mark in PERSONA_LINES if text.startswith(mark)), "")
    return mark + normalize_reply(text.removeprefix(mark))
