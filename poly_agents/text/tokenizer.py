"""Text -> ids: a fast HuggingFace tokenizer that adds no special tokens. A newline becomes the separator of turns."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer as Backend

from poly_agents.errors import InputError
from poly_agents.files.atomic import write_text
from poly_agents.options import Options
from poly_agents.text.frame import Frame, read_frame


class Tokenizer:
    """A tokenizer that is saved as one file and needs neither network nor class names to be read again.

    A special token that is spelt out in a text ("[SEP]") stays plain text: nobody can forge a turn.
    """

    def __init__(self, backend: Backend, pad_id: int, turn_id: int):
        backend.no_truncation()
        backend.no_padding()
        self.frame: Frame = read_frame(backend, pad_id)
        backend.encode_special_tokens = True
        self.backend = backend
        self.pad_id = pad_id
        self.turn_id = turn_id

    @classmethod
    def pretrained(cls, source: str) -> "Tokenizer":
        """Load the tokenizer of a HuggingFace model, by name or folder.

        Raises:
            ValueError: it has no fast version, or no token that could separate turns.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(source)
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
        try:
            return cls(Backend.from_str(json.dumps(saved["tokenizer"])), saved["pad_id"], saved["turn_id"])
        except Exception as error:  # the backend raises plain exceptions
            raise InputError(f"{path} is not a tokenizer of poly_agents ({error!r}); restore the file") from error

    def save(self, path: str) -> None:
        """Write the tokenizer as one JSON file."""
        saved = {"pad_id": self.pad_id} | self.settings | {"tokenizer": json.loads(self.backend.to_str())}
        write_text(path, json.dumps(saved, ensure_ascii=False))

    @property
    def settings(self) -> dict[str, Any]:
        """Return what a saved file holds besides the backend."""
        return {"turn_id": self.turn_id}

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
        flat = iter(self.backend.encode_batch_fast([line for text in lines for line in text], add_special_tokens=False))
        rows = []
        for text in lines:
            ids = list(next(flat).ids)
            for _ in text[1:]:
                ids.append(self.turn_id)
                ids.extend(next(flat).ids)
            rows.append(ids)
        return rows

    def context_ids_of(self, contexts: Sequence[str]) -> list[list[int]]:
        """Return the bare ids of many contexts, whose lines are turns."""
        return self.ids_of(contexts)

    def text(self, ids: Sequence[int]) -> str:
        """Turn ids back into text, as near as the vocabulary allows."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=False)

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
        """Return the ids of a prompt: of an entry of the vocabulary ("[unused0]"), or of any text."""
        token = self.token_id(text)
        return tuple(self.ids(text)) if token is None else (token,)

    def token_id(self, prompt: str) -> int | None:
        """Return the id of a prompt that is an entry of the vocabulary, else None."""
        ids = (self.backend.token_to_id(each) for each in (prompt, prompt.strip()))
        return next((number for number in ids if number is not None), None)

    def separates(self, prompt: str) -> bool:
        """Tell whether a prompt and the text after it have the same ids when they are tokenized apart."""
        if not prompt or self.ids(f"{prompt}a") == [*self.prompt(prompt), *self.ids("a")]:
            return True
        return self.token_id(prompt) is not None and self.ids(prompt) != [self.token_id(prompt)]


def read_saved(path: str) -> dict[str, Any]:
    """Read the JSON object that `Tokenizer.save` wrote. Raises ValueError, naming the file."""
    try:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not a tokenizer of poly_agents ({error}); restore the file") from error
    if not isinstance(saved, dict):
        raise InputError(f"{path} is not a tokenizer of poly_agents (no JSON object); restore the file")
    return saved
