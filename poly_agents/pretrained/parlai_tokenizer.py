"""ParlAI's dictionaries as fast tokenizers with the same ids, made from `MODEL.dict` and the files beside it.

    --dict-tokenizer        how a text is split                                    files beside `MODEL.dict`
    re, split, space        words of the dictionary
    bpe                     words, then the merges of subword-nmt                  MODEL.dict.codecs
    gpt2, bytelevelbpe,     merges over bytes                                      MODEL.dict-vocab.json,
    slow_bytelevel_bpe                                                             MODEL.dict-merges.txt

Character classes and lower-casing follow Python's `re` and `str.lower`, as in ParlAI; the tokenizers library differs.
A special token that is spelt out in a text is what the dictionary makes of it. With merges over bytes it is plain text.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

from tokenizers import Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, Model, WordLevel
from tokenizers.processors import TemplateProcessing

from poly_agents.errors import InputError
from poly_agents.files import json_files
from poly_agents.options import Options
from poly_agents.pretrained import parlai_weights
from poly_agents.text.frame import Frame
from poly_agents.text.tokenizer import Tokenizer, known_ids, read_as_tokenizer

EMPTY_WORD = "\0"  # stands for the empty word that `space` makes of two spaces; no pre-tokenizer returns one
WORD_END = "</w>"  # ends the last piece of a word in subword-nmt's merges


@dataclass(frozen=True)
class TextSteps:
    """ParlAI's steps on a text besides splitting it. Saved tokenizers and fingerprints hold these names."""

    kind: str  # --dict-tokenizer
    lower: bool  # lower-case the text
    prefix_space: bool  # gpt2: put a space before every text
    known: int  # ids below this one are in the dictionary; merges make pieces that are not
    unknown: int  # the id of such pieces
    turn_ids: tuple[int, ...]  # between the turns of a context (--delimiter)

    def __post_init__(self):
        wrong = [each.name for each in fields(self)[:-1] if type(getattr(self, each.name)) is not each.type]
        if wrong or not all(type(i) is int and 0 <= i < self.known for i in (self.unknown, *self.turn_ids)):
            raise InputError(f"{wrong[0] if wrong else 'an id'} is of another type or outside of the dictionary")

    def prepare(self, text: str) -> str:
        """Return a text as the backend has to be given it."""
        if self.lower:
            text = text.lower()
        if self.kind == "space":
            return " ".join(word or EMPTY_WORD for word in text.strip().split(" "))
        return f" {text}" if self.prefix_space else text


class ParlaiTokenizer(Tokenizer):
    """A tokenizer with the ids of a ParlAI dictionary. Newlines within a text are tokenized as ParlAI does."""

    def __init__(self, backend: Backend, pad_id: int, steps: TextSteps):
        super().__init__(backend, pad_id, turn_id=0)
        self.turn_id = self.frame.single[1].ids[-1]  # the end token; turns are separated by `steps.turn_ids` instead
        self.steps = steps

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any], path: str) -> Self:
        with read_as_tokenizer(path):
            steps = TextSteps(**saved["parlai"] | {"turn_ids": tuple(saved["parlai"]["turn_ids"])})
            backend = Backend.from_str(json.dumps(saved["tokenizer"]))
            return cls(backend, *known_ids(backend, saved, "pad_id"), steps)

    @property
    def size(self) -> int:
        return self.steps.known

    @property
    def settings(self) -> dict[str, Any]:
        return {"parlai": asdict(self.steps)}

    @property
    def identity(self) -> str:
        steps = ", ".join(f"{name}={value!r}" for name, value in asdict(self.steps).items())
        return f"{super().identity} Habits({steps})"  # fingerprints of saved stores hold this word

    def frame_for(self, options: Options, label_truncate: int) -> Frame:
        """Return the frame. ParlAI truncates a candidate after adding its special tokens, so this frame does."""
        return replace(super().frame_for(options, label_truncate), max_candidate_length=label_truncate)

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        prepared = [self.steps.prepare(text) for text in texts]
        encodings = self.backend.encode_batch_fast(prepared, add_special_tokens=False)
        known, unknown = self.steps.known, self.steps.unknown
        return [[i if i < known else unknown for i in encoding.ids] for encoding in encodings]

    def context_ids_of(self, contexts: Sequence[str]) -> list[list[int]]:
        turns = [context.split("\n") for context in contexts]
        flat = iter(self.ids_of([turn for context in turns for turn in context]))
        rows = []
        for context in turns:
            ids = list(next(flat))
            for _ in context[1:]:
                ids += [*self.steps.turn_ids, *next(flat)]
            rows.append(ids)
        return rows


def convert(path: str) -> ParlaiTokenizer:
    """Make a tokenizer from a dictionary of ParlAI.

    Args:
        path: `MODEL.dict`, with `MODEL.opt` and the files of its tokenizer beside it.

    Raises:
        ValueError: the dictionary cannot be converted, or a file is missing or damaged.
    """
    opt = parlai_weights.read_opt(path.removesuffix(".dict"))
    kind = opt.get("dict_tokenizer", "re")
    if kind not in BACKENDS:
        raise InputError(f"{path} was made with --dict-tokenizer {kind}; what can be converted: {', '.join(BACKENDS)}")
    if opt.get("dict_max_ngram_size", -1) > 1:
        raise InputError(f"{path} was made with --dict-max-ngram-size, which cannot be converted")
    names = {name: opt.get(f"dict_{name}token", f"__{name}__") for name in ("null", "start", "end", "unk")}
    words = read_words(path, list(names.values()))
    if opt.get("person_tokens"):
        for word in ("__p1__", "__p2__"):
            words.setdefault(word, len(words))  # ParlAI adds them when it makes the agent
    backend = BACKENDS[kind](path, opt, words, names["unk"])
    start, end = names["start"], names["end"]
    backend.post_processor = TemplateProcessing(
        single=[f"{start}:0", "$A:0", f"{end}:0"],
        pair=[f"{start}:0", "$A:0", f"{end}:0", f"{start}:1", "$B:1", f"{end}:1"],
        special_tokens=[(name, words[name]) for name in (start, end)],
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


# --- files ------------------------------------------------------------------------------------------------------------


def read_words(path: str, special: Iterable[str]) -> dict[str, int]:
    """Read the words of a dictionary and their ids. The special tokens come first, then the lines of the file."""
    words: dict[str, int] = {}
    for word in special:
        words.setdefault(word, len(words))
    lower = next(iter(words)).islower()
    with open(path, encoding="utf-8", errors="ignore") as file:
        for line in file:
            word = unescaped(line.rstrip("\r\n").split("\t")[0])
            if lower and word in ("__UNK__", "__NULL__", "__END__", "__START__"):
                word = word.lower()
            words.setdefault(word, len(words))
    return words


def unescaped(word: str) -> str:
    """Return a word of a dictionary file as ParlAI reads it."""
    for written, meant in ("\\n", "\n"), ("\\t", "\t"), ("\\r", "\r"):
        word = word.replace(written, meant)
    return word


def read_merges(path: str) -> list[tuple[str, str]]:
    """Read the merges of subword-nmt, best first, each once. Raises ValueError for a missing or damaged file."""
    try:
        lines = Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n")
    except OSError as error:
        raise InputError(f"--dict-tokenizer bpe needs {path} ({error}); restore the file") from error
    if not lines[0].startswith("#version: 0.2"):
        raise InputError(f"{path} is not of version 0.2 of subword-nmt's codes, the only one that can be converted")
    merges = dict.fromkeys(tuple(line.strip("\r\n ").split(" ")) for line in lines[1:])
    if wrong := [merge for merge in merges if len(merge) != 2]:
        raise InputError(f"{path} is damaged: {' '.join(wrong[0])!r} are not two pieces; restore the file")
    return list(merges)


# --- backends: each takes the dictionary's path and options, its words, and its unknown token -------------------------


def word_backend(path: str, opt: Mapping, words: dict[str, int], unknown: str) -> Backend:
    """Make a backend for which each piece of a text is a word."""
    model = WordLevel({word or EMPTY_WORD: number for word, number in words.items()}, unknown)
    return pipeline(model, word_splitter(opt.get("dict_tokenizer", "re")))


def bpe_backend(path: str, opt: Mapping, words: dict[str, int], unknown: str) -> Backend:
    """Make a backend with subword-nmt's merges: `hel@@ lo` in the dictionary are the pieces `hel` and `lo</w>`."""
    merges = read_merges(f"{path}.codecs")
    vocabulary: dict[str, int] = {}
    for word, number in words.items():
        vocabulary.setdefault(word.removesuffix("@@") if word.endswith("@@") else word + WORD_END, number)
    pieces = dict.fromkeys(piece for one, two in merges for piece in (one, two, one + two))
    missing = [piece for piece in pieces if piece not in vocabulary]
    vocabulary |= {piece: number for number, piece in enumerate(missing, len(words))}
    model = BPE(vocabulary, merges, unk_token=unknown + WORD_END, end_of_word_suffix=WORD_END)
    backend = pipeline(model, word_splitter("bpe"))
    backend.normalizer = normalizers.Replace("\n", " __newln__ ")
    backend.decoder = decoders.BPEDecoder(suffix=WORD_END)
    return backend


def byte_bpe_backend(path: str, opt: Mapping, words: dict[str, int], unknown: str) -> Backend:
    """Make a backend with merges over bytes. Raises ValueError for a missing file, or files that do not fit."""
    kind = opt["dict_tokenizer"]
    files = [f"{path}-vocab.json", f"{path}-merges.txt"]
    if missing := [file for file in files if not Path(file).is_file()]:
        source = "; they are encoder.json and vocab.bpe in the folder gpt2 of ParlAI's data" if kind == "gpt2" else ""
        raise InputError(f"--dict-tokenizer {kind} needs {' and '.join(missing)}{source}")
    vocabulary = json_files.read(files[0])
    lines = Path(files[1]).read_text(encoding="utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    try:
        ids = {token: words[unescaped(token if kind == "bytelevelbpe" else escaped(token))] for token in vocabulary}
    except KeyError as error:
        raise InputError(f"{path} lacks {error} of {files[0]}; restore both files") from error
    prefix_space = kind == "bytelevelbpe" and opt.get("bpe_add_prefix_space") is not False
    backend = pipeline(BPE(ids, merges), pre_tokenizers.ByteLevel(add_prefix_space=prefix_space))
    backend.decoder = decoders.ByteLevel()
    return backend


BACKENDS = {
    **dict.fromkeys(("re", "split", "space"), word_backend),
    "bpe": bpe_backend,
    **dict.fromkeys(("gpt2", "bytelevelbpe", "slow_bytelevel_bpe"), byte_bpe_backend),
}


def pipeline(model: Model, splitter: pre_tokenizers.PreTokenizer) -> Backend:
    """Make a backend of a model and the step before it."""
    backend = Backend(model)
    backend.pre_tokenizer = splitter
    return backend


def escaped(token: str) -> str:
    """Return a token over bytes as ParlAI's GPT-2 dictionary writes it: bytes that are not plain ASCII as numbers.

    >>> escaped("\u0120hi")
    '\\\\xc4\\\\xa0hi'
    """
    return "".join(chr(b) if 32 <= b <= 127 else "\\" + hex(b).lstrip("0") for b in token.encode())


def word_splitter(kind: str) -> pre_tokenizers.PreTokenizer:
    """Return the step that splits a text into the words of `--dict-tokenizer KIND`."""
    if kind == "space":
        return matches("[^ ]+")
    spaces = characters(r"\s")
    if kind == "split":
        return matches(f"[^{spaces}.,;:!?]+|[.,;:!?]")
    letters = characters(r"\w")
    return matches(f"[{letters}]+|[^{letters}{spaces}]" + ("|\n" if kind == "re" else ""))


def matches(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Return a step that takes every match of a regular expression as a word and drops the text between them."""
    return pre_tokenizers.Split(Regex(pattern), "removed", invert=True)


@cache
def characters(pattern: str) -> str:
    """Return all characters that Python's `re` matches, as ranges for another engine's character class."""
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    runs = (run.span() for run in re.finditer(f"{pattern}+", everything))
    return "".join(f"\\x{{{start:X}}}-\\x{{{end - 1:X}}}" for start, end in runs)
