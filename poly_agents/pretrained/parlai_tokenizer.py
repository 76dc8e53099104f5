"""ParlAI's dictionaries as fast tokenisers: the same ids, from `MODEL.dict` and what lies beside it.

    re, split, space        words of the dictionary                                MODEL.dict
    bpe                     subword-nmt's merges over words                        MODEL.dict.codecs
    gpt2, bytelevelbpe,     merges over bytes                                      MODEL.dict-vocab.json,
    slow_bytelevel_bpe                                                             MODEL.dict-merges.txt

What is a letter, a space or a small letter is asked of Python, as ParlAI does; the tokenisers library has its own mind.
Special tokens that are spelt out in a text are what the dictionary makes of them; with merges over bytes, plain text.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

from tokenizers import Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, Model, WordLevel
from tokenizers.processors import TemplateProcessing

from poly_agents.options import Options
from poly_agents.pretrained import parlai_weights
from poly_agents.text.frame import Frame
from poly_agents.text.tokenizer import Tokenizer

NOTHING = "\0"  # stands for the empty word of `space`, which no pre-tokeniser gives
END = "</w>"  # subword-nmt's mark of a word's last piece


@dataclass(frozen=True)
class TextSteps:
    """What ParlAI does to a text before its tokeniser and after it."""

    kind: str
    lower: bool
    prefix_space: bool  # gpt2: always one before the text
    known: int  # ids from here on are pieces that the merges make and the dictionary lacks
    unknown: int  # their id
    turn_ids: tuple[int, ...]  # of --delimiter, between the turns of a context


class ParlaiTokenizer(Tokenizer):
    """A text is taken whole: its newlines are the dictionary's business."""

    def __init__(self, backend: Backend, pad_id: int, steps: TextSteps):
        super().__init__(backend, pad_id, 0)
        self.turn_id = self.frame.single[1].ids[-1]  # what a dictionary has for an end; turns are parted by `turn_ids`
        self.steps = steps
        self.prepare = text_function(steps)

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any], path: str) -> Self:
        """Make a tokenizer from the content of a file that `save` wrote. Raises ValueError, naming the file."""
        try:
            steps = TextSteps(**saved["parlai"] | {"turn_ids": tuple(saved["parlai"]["turn_ids"])})
            return cls(Backend.from_str(json.dumps(saved["tokenizer"])), saved["pad_id"], steps)
        except Exception as error:  # the backend raises plain exceptions
            raise ValueError(f"{path} is not a tokenizer of poly_agents ({error!r}); restore the file") from error

    @property
    def settings(self) -> dict[str, Any]:
        return {"parlai": asdict(self.steps)}

    @property
    def identity(self) -> str:
        name = "Habits"  # the class was called so; stores that were made then stay valid
        return f"{super().identity} {repr(self.steps).replace(type(self.steps).__name__, name, 1)}"

    def frame_for(self, options: Options, label_truncate: int) -> Frame:
        """ParlAI cuts a candidate after its special tokens are around it."""
        return replace(super().frame_for(options, label_truncate), longest=label_truncate)

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self.backend.encode_batch_fast([self.prepare(text) for text in texts], add_special_tokens=False)
        known, unknown = self.steps.known, self.steps.unknown
        return [[i if i < known else unknown for i in encoding.ids] for encoding in encodings]

    def context_ids_of(self, contexts: Sequence[str]) -> list[list[int]]:
        lines = [context.split("\n") for context in contexts]
        flat = iter(self.ids_of([line for context in lines for line in context]))
        found = []
        for context in lines:
            ids = next(flat)
            for _ in context[1:]:
                ids = [*ids, *self.steps.turn_ids, *next(flat)]
            found.append(ids)
        return found


def text_function(steps: TextSteps) -> Callable[[str], str]:
    """What is done to a text in Python."""
    if steps.kind == "space":
        own = lambda text: " ".join(word or NOTHING for word in text.strip().split(" "))  # noqa: E731
    elif steps.prefix_space:
        own = lambda text: f" {text}"  # noqa: E731
    else:
        own = lambda text: text  # noqa: E731
    return (lambda text: own(text.lower())) if steps.lower else own


def convert(path: str) -> ParlaiTokenizer:
    """From `MODEL.dict`. Raises ValueError, in one sentence, for a dictionary that cannot be converted."""
    opt = parlai_weights.read_opt(path.removesuffix(".dict"))
    kind = opt.get("dict_tokenizer", "re")
    if kind not in BACKENDS:
        raise ValueError(f"{path} was made with --dict-tokenizer {kind}; what can be converted: {', '.join(BACKENDS)}")
    if opt.get("dict_max_ngram_size", -1) > 1:
        raise ValueError(f"{path} was made with --dict-max-ngram-size, which cannot be converted")
    names = {name: opt.get(f"dict_{name}token", f"__{name}__") for name in ("null", "start", "end", "unk")}
    words = read_words(path, list(names.values()))
    if opt.get("person_tokens"):
        for word in ("__p1__", "__p2__"):
            words.setdefault(word, len(words))  # ParlAI adds them when it makes the agent
    backend = BACKENDS[kind](path, opt, words, names["unk"])
    special = [(name, words[name]) for name in (names["start"], names["end"])]
    before, after = names["start"], names["end"]
    backend.post_processor = TemplateProcessing(
        single=[f"{before}:0", "$A:0", f"{after}:0"],
        pair=[f"{before}:0", "$A:0", f"{after}:0", f"{before}:1", "$B:1", f"{after}:1"],
        special_tokens=special,
    )
    steps = TextSteps(
        kind=kind,
        lower=bool(opt.get("dict_lower", False)),
        prefix_space=kind in ("gpt2", "slow_bytelevel_bpe") and bool(opt.get("bpe_add_prefix_space")),
        known=len(words),
        unknown=words[names["unk"]],
        turn_ids=(),
    )
    tokenizer = ParlaiTokenizer(backend, words[names["null"]], steps)
    tokenizer.steps = replace(steps, turn_ids=tuple(tokenizer.ids(opt.get("delimiter", "\n"))))
    return tokenizer


def read_words(path: str, special: Iterable[str]) -> dict[str, int]:
    """The words of a dictionary and their ids: the special ones first, then as the file has them."""
    words: dict[str, int] = {}
    for word in special:
        words.setdefault(word, len(words))
    lower = next(iter(words)).islower()
    with open(path, encoding="utf-8", errors="ignore") as file:
        for line in file:
            word = line.rstrip("\r\n").split("\t")[0]
            for written, meant in ("\\n", "\n"), ("\\t", "\t"), ("\\r", "\r"):
                word = word.replace(written, meant)
            if lower and word in ("__UNK__", "__NULL__", "__END__", "__START__"):
                word = word.lower()
            words.setdefault(word, len(words))
    return words


# --- backends -------------------------------------------------------------------------------------------------------


def of_words(path: str, opt: Mapping, words: dict[str, int], unknown: str) -> Backend:
    """Each piece of a text is a word."""
    model = WordLevel({word or NOTHING: number for word, number in words.items()}, unknown)
    return pipeline(model, pieces(opt.get("dict_tokenizer", "re")))


def pieces(kind: str) -> pre_tokenizers.PreTokenizer:
    """How a text is split."""
    if kind == "space":
        return found("[^ ]+")
    spaces = characters(r"\s")
    if kind == "split":
        return found(f"[^{spaces}.,;:!?]+|[.,;:!?]")
    letters = characters(r"\w")
    return found(f"[{letters}]+|[^{letters}{spaces}]" + ("|\n" if kind == "re" else ""))


def of_merged_words(path: str, opt: Mapping, words: dict[str, int], unknown: str) -> Backend:
    """subword-nmt's: `hel@@ lo` in the dictionary are the pieces `hel` and `lo</w>`."""
    merges = read_codes(f"{path}.codecs")
    vocabulary: dict[str, int] = {}
    for word, number in words.items():
        vocabulary.setdefault(word.removesuffix("@@") if word.endswith("@@") else word + END, number)
    lacking = dict.fromkeys(piece for one, two in merges for piece in (one, two, one + two) if piece not in vocabulary)
    vocabulary |= {piece: number for number, piece in enumerate(lacking, len(words))}
    backend = pipeline(BPE(vocabulary, merges, unk_token=unknown + END, end_of_word_suffix=END), pieces("bpe"))
    backend.normalizer = normalizers.Replace("\n", " __newln__ ")
    backend.decoder = decoders.BPEDecoder(suffix=END)
    return backend


def of_merged_bytes(path: str, opt: Mapping, words: dict[str, int], unknown: str) -> Backend:
    kind = opt["dict_tokenizer"]
    files = [f"{path}-vocab.json", f"{path}-merges.txt"]
    if lacking := [file for file in files if not Path(file).is_file()]:
        source = "; they are encoder.json and vocab.bpe in the folder gpt2 of ParlAI's data" if kind == "gpt2" else ""
        raise ValueError(f"--dict-tokenizer {kind} needs {' and '.join(lacking)}{source}")
    vocabulary = json.loads(Path(files[0]).read_text(encoding="utf-8"))
    lines = Path(files[1]).read_text(encoding="utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    written = (lambda token: token) if kind == "bytelevelbpe" else escaped
    try:
        ids = {token: words[as_read(written(token))] for token in vocabulary}
    except KeyError as error:
        raise ValueError(f"{path} lacks {error} of {files[0]}; restore both files") from error
    spaced = kind == "bytelevelbpe" and opt.get("bpe_add_prefix_space") is not False
    backend = pipeline(BPE(ids, merges), pre_tokenizers.ByteLevel(add_prefix_space=spaced))
    backend.decoder = decoders.ByteLevel()
    return backend


BACKENDS = {
    **dict.fromkeys(("re", "split", "space"), of_words),
    "bpe": of_merged_words,
    **dict.fromkeys(("gpt2", "bytelevelbpe", "slow_bytelevel_bpe"), of_merged_bytes),
}


def pipeline(model: Model, split: pre_tokenizers.PreTokenizer) -> Backend:
    backend = Backend(model)
    backend.pre_tokenizer = split
    return backend


def read_codes(path: str) -> list[tuple[str, str]]:
    """The merges of subword-nmt, best first, each once."""
    try:
        lines = Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n")
    except OSError as error:
        raise ValueError(f"--dict-tokenizer bpe needs {path} ({error}); restore the file") from error
    if not lines[0].startswith("#version: 0.2"):
        raise ValueError(f"{path} is not of version 0.2 of subword-nmt's codes, the only one that can be converted")
    merges = dict.fromkeys(tuple(line.strip("\r\n ").split(" ")) for line in lines[1:])
    if wrong := [merge for merge in merges if len(merge) != 2]:
        raise ValueError(f"{path} is damaged: {' '.join(wrong[0])!r} are not two pieces; restore the file")
    return list(merges)


def escaped(token: str) -> str:
    """A token over bytes as ParlAI's GPT-2 helper names it: whatever is not plain ASCII as its bytes."""
    return "".join(chr(b) if 32 <= b <= 127 else "\\" + hex(b).lstrip("0") for b in token.encode())


def as_read(word: str) -> str:
    """A word once it has been written to a dictionary and read back."""
    for meant, written in ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r"):
        word = word.replace(written, meant)
    return word


@cache
def characters(pattern: str) -> str:
    """All characters that Python's `re` finds, as ranges for another engine's."""
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    runs = (run.span() for run in re.finditer(f"{pattern}+", everything))
    return "".join(f"\\x{{{start:X}}}-\\x{{{end - 1:X}}}" for start, end in runs)


def found(pattern: str) -> pre_tokenizers.PreTokenizer:
    """What a regular expression finds, without what is between."""
    return pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
