"""Text -> ids: a fast HuggingFace tokenizer that adds no special tokens. A newline becomes the separator of turns."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from poly_agents.errors import InputError, first_line
from poly_agents.files import json_files
from poly_agents.files.atomic import write_text
from poly_agents.files.digests import bytes_digest
from poly_agents.files.regular import read_bytes
from poly_agents.options import Options
from poly_agents.text.frame import Frame, Piece, read_frame

UNKNOWN = "\u2603"  # a character that few vocabularies have
PROBES = ("a", "I", "1")  # texts after a prompt
DIGEST_START = re.compile(rb'\{"digest": "([0-9a-f]{32})", ')  # how a saved tokenizer begins, since it has a digest


class Tokenizer:
    """A tokenizer that is saved as one file and needs neither network nor class names to be read again.

    A special token that is spelt out in a text ("[SEP]") stays plain text: nobody can forge a turn.
    """

    read_digest = ""  # the digest of the file it was read from, if it has one

    def __init__(self, backend: Backend, pad_id: int, turn_id: int, joint_prompts: bool = True):
        backend.no_truncation()
        backend.no_padding()
        self.frame: Frame = read_frame(backend, pad_id)
        backend.encode(UNKNOWN)  # fails for a vocabulary without its own unknown token
        backend.encode_special_tokens = True
        self.backend = backend
        self.pad_id = pad_id
        self.turn_id = turn_id
        self.joint_prompts = joint_prompts  # False for models that were saved when prompts were tokenized alone

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a copy. That of a backend forgets what to do with special tokens that are spelt out in a text."""
        vars(self).update(state)
        self.backend.encode_special_tokens = True

    @classmethod
    def pretrained(cls, source: str) -> "Tokenizer":
        """Load the tokenizer of a HuggingFace model, by name or folder.

        Raises:
            ValueError: it has no fast version, or no token that could separate turns.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
        except Exception as error:  # which one depends on the files and on the version of transformers
            raise InputError(
                f"the tokenizer of the backbone {source} cannot be loaded ({first_line(error)}); give a folder, a "
                "model file, or a name of HuggingFace's hub"
            ) from error
        if not tokenizer.is_fast:
            raise InputError(f"{source} has only a slow tokenizer; convert it to a tokenizer.json first")
        turn_id = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        if turn_id is None:
            raise InputError(f"the tokenizer of {source} has no separator and no end token to put between turns")
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        return cls(Backend.from_str(tokenizer.backend_tokenizer.to_str()), pad_id, turn_id)

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any], path: str) -> Self:
        """Make a tokenizer from the content of a file that `save` wrote. Raises ValueError, naming the file."""
        with read_as_tokenizer(path):
            backend = Backend.from_str(json.dumps(saved["tokenizer"]))
            ids = known_ids(backend, saved, "pad_id", "turn_id")
            return cls(backend, *ids, saved.get("joint_prompts", False) is True)

    def separate_pairs(self) -> None:
        """Put the separator between the two texts of a pair, where the tokenizer puts nothing.

        Tokenizers of decoders often add no special tokens. Then nothing would tell where the candidate begins.
        """
        (before, _, after), separator = self.frame.pair, self.backend.id_to_token(self.turn_id)

        def tokens(piece: Piece) -> list[str]:
            names = (self.backend.id_to_token(number) for number in piece.ids)
            return [f"{name}:{segment}" for name, segment in zip(names, piece.segments, strict=True)]

        pieces = before, after, *self.frame.single
        special = {number for piece in pieces for number in piece.ids} | {self.turn_id}
        one, two = self.frame.pair_segments
        self.backend.post_processor = TemplateProcessing(
            single=[*tokens(pieces[2]), f"$A:{self.frame.text_segment}", *tokens(pieces[3])],
            pair=[*tokens(before), f"$A:{one}", f"{separator}:{one}", f"$B:{two}", *tokens(after)],
            special_tokens=[(self.backend.id_to_token(number), number) for number in sorted(special)],
        )
        self.frame = read_frame(self.backend, self.pad_id)

    def save(self, path: str) -> None:
        """Write the tokenizer as one JSON file. Its first entry is the digest of the others."""
        write_text(path, f'{{"digest": "{self.digest}", {self._content[1:]}')

    @property
    def digest(self) -> str:
        """Return the digest that begins a saved file. The header of a model file holds it too."""
        return bytes_digest(self._content.encode())

    @property
    def _content(self) -> str:
        saved = {"pad_id": self.pad_id} | self.settings | {"tokenizer": json.loads(self.backend.to_str())}
        return json.dumps(saved, ensure_ascii=False)

    @property
    def settings(self) -> dict[str, Any]:
        """Return what a saved file holds besides the backend."""
        return {"turn_id": self.turn_id, "joint_prompts": self.joint_prompts}

    @property
    def identity(self) -> str:
        """Return a text that differs between any two tokenizers that tokenize differently."""
        return f"{self.pad_id} {self.turn_id} {self.backend.to_str()}"

    def ids(self, text: str) -> list[int]:
        """Return the bare ids of one text. The only special token in them is the separator between its lines."""
        return self.ids_of([text])[0]

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the bare ids of many texts, tokenized in bulk."""
        lines = [text.split("\n") for text in texts]
        empty = [] if self.frame.single_length else [self.turn_id]  # an encoder needs at least one token
        flat = iter(self.backend.encode_batch_fast([line for text in lines for line in text], add_special_tokens=False))
        rows = []
        for text in lines:
            ids = list(next(flat).ids)
            for _ in text[1:]:
                ids.append(self.turn_id)
                ids.extend(next(flat).ids)
            rows.append(ids or empty)
        return rows

    def context_ids_of(self, contexts: Sequence[str]) -> list[list[int]]:
        """Return the bare ids of many contexts, whose lines are turns."""
        return self.ids_of(contexts)

    def text(self, ids: Sequence[int]) -> str:
        """Turn ids back into text, as near as the vocabulary allows."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=False)

    @property
    def size(self) -> int:
        """Return how many ids there are: one more than the largest."""
        return 1 + max(self.backend.get_vocab().values(), default=-1)

    @property
    def lowercases(self) -> bool:
        """Tell whether capitals and small letters have the same ids."""
        normalizer = self.backend.normalizer
        return normalizer is not None and normalizer.normalize_str("A") == "a"

    # --- prompts ------------------------------------------------------------------------------------------------------

    def frame_for(self, options: Options, label_truncate: int) -> Frame:
        """Return the frame with the prompts of `options`, for candidates of at most `label_truncate` bare tokens."""
        prompts = {name: getattr(options, name, None) or "" for name in ("context_prompt", "candidate_prompt")}
        return replace(self.frame, **{name: self.prompt(text) for name, text in prompts.items()})

    def prompt(self, text: str) -> tuple[int, ...]:
        """Return the ids to put before those of a text.

        Args:
            text: the prompt: an entry of the vocabulary ("[unused0]"), or any text.

        Returns:
            The ids that a text with this prompt begins with, where the ids of the text follow. SentencePiece makes
            "▁query", ":" and "▁hello" of "query: hello": the space of the prompt belongs to the first word. The ids of
            the prompt alone, if the tokenizer joins its end with a text (see `separates`).
        """
        if not text:
            return ()
        token = self.token_id(text)
        if token is not None:
            return (token,)
        if not self.joint_prompts:
            return tuple(self.ids(text))
        before = self.ids_before(text)
        return tuple(self.raw_ids(text)) if before is None else before

    def ids_before(self, prompt: str) -> tuple[int, ...] | None:
        """Return the ids before those of a text in the ids of prompt and text, or None if the two share a token."""
        end, found = len(prompt.rstrip()), set()
        for text in PROBES:
            whole, own = self.backend.encode(prompt + text, add_special_tokens=False), self.raw_ids(text)
            count = len(whole.ids) - len(own)
            is_apart = 0 <= count < len(whole.ids) and whole.ids[count:] == own and whole.offsets[count][0] >= end
            found.add(tuple(whole.ids[:count]) if is_apart else None)
        return found.pop() if len(found) == 1 else None

    def raw_ids(self, text: str) -> list[int]:
        """Return the ids of a text in which a newline is a character as any other."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def token_id(self, prompt: str) -> int | None:
        """Return the id of a prompt that is an entry of the vocabulary, else None."""
        ids = (self.backend.token_to_id(each) for each in (prompt, prompt.strip()))
        return next((number for number in ids if number is not None), None)

    def separates(self, prompt: str) -> bool:
        """Tell whether a prompt and the text after it have the same ids when they are tokenized apart."""
        if not prompt or (self.joint_prompts and self.ids_before(prompt) is not None):
            return True
        if not self.joint_prompts and self.ids(f"{prompt}a") == [*self.prompt(prompt), *self.ids("a")]:
            return True
        return self.token_id(prompt) is not None and self.ids(prompt) != [self.token_id(prompt)]


@contextmanager
def read_as_tokenizer(path: str) -> Iterator[None]:
    """Make whatever goes wrong with the content of a file a ValueError that names the file."""
    try:
        yield
    except BaseException as error:  # the backend raises plain exceptions, and panics, which are none
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise InputError(f"{path} is not a tokenizer of poly_agents ({error!r}); restore the file") from error


def known_ids(backend: Backend, saved: Mapping[str, Any], *names: str) -> list[int]:
    """Return entries of a saved tokenizer that are ids. Raises ValueError for one that the vocabulary does not have."""
    for name in names:
        if type(saved[name]) is not int or (saved[name] and backend.id_to_token(saved[name]) is None):
            raise InputError(f"{name} {saved[name]!r} is no id of its vocabulary")
    return [saved[name] for name in names]


def read_saved(path: str) -> dict[str, Any]:
    """Read the JSON object that `Tokenizer.save` wrote. Raises ValueError, naming the file."""
    data = read_bytes(path, "tokenizer")
    start = DIGEST_START.match(data)
    if start and start[1].decode() != bytes_digest(b"{" + data[start.end() :]):
        raise InputError(f"{path} is damaged: it is not what was written; restore the file")
    saved = json_files.parse(data, f"{path}, the tokenizer,")
    if not isinstance(saved, dict):
        raise InputError(f"{path} is not a tokenizer of poly_agents (no JSON object); restore the file")
    return saved
