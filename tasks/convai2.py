"""ConvAI2: two crowd workers get to know each other, each with a persona of four or five sentences.

Source   http://parl.ai/downloads/convai2/convai2_fix_723.tgz, the archive of ParlAI's own task
Licence  CC BY 4.0
Paper    Dinan et al. 2019, https://arxiv.org/abs/1902.00098
Sizes    131,438 train, 7,801 valid; the 6,634 of test are hidden
Format   `<number> <text>`; the number starts at 1 in every conversation; persona lines come first, then
         `turn TAB reply TAB TAB candidate|candidate|...`
Eval     20 candidates of the file, the reply is the last one
Context  persona lines, then all turns

The variants have ParlAI's names: `self_original` (the default, also `self`), `self_revised`, `both`, `none`. With
`normalized_` in front, texts have capitals and ordinary punctuation; `normalized` alone means `normalized_self`. With
`:no_cands` behind, the files without candidates are read.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from poly_agents.agents.teachers.examples import Example
from poly_agents.agents.teachers.response import ResponseTeacher, normalize_reply, variant
from poly_agents.errors import InputError
from poly_agents.files.download import Download

PERSONAS = {  # variant -> its part of the file's name
    "": "self_original",
    "self": "self_original",
    "self_original": "self_original",
    "self_revised": "self_revised",
    "both": "both_original",
    "none": "none_original",
}
PERSONA_LINES = ("your persona: ", "partner's persona: ")


class Convai2Teacher(ResponseTeacher):
    """`-t poly_agents:convai2`, `-t poly_agents:convai2:none` ..."""

    FILES = (
        Download(
            "http://parl.ai/downloads/convai2/convai2_fix_723.tgz",
            "convai2_fix_723.tgz",
            "d0ae89defe2fd0b0a4221eaa642a457d7d40cef475f54798119c7f3b8dd9361d",
            archive=True,
        ),
    )

    def read(self, split):
        if split == "test":
            raise InputError("convai2's test set is hidden, so nobody outside can be measured on it; use -dt valid")
        name = variant(self.opt["task"], variants())
        is_normalized, persona, ending = parts(name)
        path = self.path(f"{split}_{PERSONAS[persona]}{ending}.txt")
        return self.conversations(path, normalize if is_normalized else str)

    def conversations(self, path: Path, clean: Callable[[str], str]) -> Iterator[Example]:
        """Make an example of every reply in a file. A conversation goes on after a bad line, without that line."""
        context: list[str] = []
        texts: dict[str, str] = {}  # candidates are replies of other examples: hold every text once
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


def variants() -> list[str]:
    """List the variants.

    >>> len(variants()), variants()[:3], variants()[-1]
    (24, ['', 'self', 'self_original'], 'normalized_none:no_cands')
    """
    plain = list(PERSONAS)
    named = [*plain, *(f"normalized_{name}".strip("_") for name in plain)]
    return [*named, *(f"{name}:no_cands".strip(":") for name in named)]


def parts(name: str) -> tuple[bool, str, str]:
    """Split the name of a variant: whether it is normalized, its persona, and the ending of its file's name.

    >>> parts("normalized_both:no_cands"), parts("no_cands")
    ((True, 'both', '_no_cands'), (False, '', '_no_cands'))
    """
    persona = name.removesuffix("no_cands").removesuffix(":")
    is_normalized = persona.startswith("normalized")
    persona = persona.removeprefix("normalized").removeprefix("_")
    return is_normalized, persona, "_no_cands" if name.endswith("no_cands") else ""


def fields(line: str) -> tuple[int, str, str, list[str]]:
    """Split a line into its number, turn, reply and candidates; the last three are empty if the line lacks them."""
    number, _, text = line.strip().replace("\\n", "\n").partition(" ")
    if not number.isdecimal():
        raise InputError(f"a line begins with its number in the conversation, got {line[:20]!r}")
    turn, reply, _, candidates = [*(part.strip() for part in text.split("\t")), "", "", ""][:4]
    found = candidates.split("|") if candidates else []
    if found and reply not in found:
        raise InputError("the reply is not among the candidates")
    return int(number), turn, reply, found


def normalize(text: str) -> str:
    """Write capitals and punctuation as people do; the prefix of a persona line stays as it is."""
    prefix = next((prefix for prefix in PERSONA_LINES if text.startswith(prefix)), "")
    return prefix + normalize_reply(text.removeprefix(prefix))
