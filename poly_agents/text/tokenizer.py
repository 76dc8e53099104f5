"""text -> ids: a fast transformers tokeniser, bare. Turns are separated by a newline, which becomes the separator."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from poly_agents.files.atomic import write_text
from poly_agents.options import Options
from poly_agents.text.tokens import Frame, read_frame


class Tokenizer:
    """One file holds it whole: `save` writes it, `Tokenizer(path)` reads it, no network and no class names.

    A special token spelt out in a text ("[SEP]") stays plain text: a user cannot forge a turn.
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
    def pretrained(cls, folder: str) -> "Tokenizer":
        """The tokeniser of a HuggingFace model, by name or folder, or that of a model file of ours."""
        if Path(folder).is_file():
            return cls.load(f"{folder}.dict")
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        if not tokenizer.is_fast:
            raise ValueError(f"{folder} has only a slow tokeniser; convert it to a tokenizer.json first")
        turn_id = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        if turn_id is None:
            raise ValueError(f"the tokeniser of {folder} has neither a separator nor an end token to part turns with")
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        return cls(Backend.from_str(tokenizer.backend_tokenizer.to_str()), pad_id, turn_id)

    @classmethod
    def load(cls, path: str) -> "Tokenizer":
        """Read what `save` wrote, or the dictionary of a model of ParlAI's own."""
        from poly_agents.pretrained import parlai_tokenizer, parlai_weights

        if parlai_weights.owns(path.removesuffix(".dict")):
            return parlai_tokenizer.convert(path)
        try:
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
            if "parlai" in saved:
                return parlai_tokenizer.ParlaiTokenizer.of(saved)
            return cls(Backend.from_str(json.dumps(saved["tokenizer"])), saved["pad_id"], saved["turn_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a tokeniser of poly_agents ({error}); restore the file") from error

    def save(self, path: str) -> None:
        saved = {"pad_id": self.pad_id} | self.about | {"tokenizer": json.loads(self.backend.to_str())}
        write_text(path, json.dumps(saved, ensure_ascii=False))

    @property
    def about(self) -> dict[str, Any]:
        """What is to be known besides the backend."""
        return {"turn_id": self.turn_id}

    @property
    def identity(self) -> str:
        """What tells it from any other."""
        return f"{self.pad_id} {self.turn_id} {self.backend.to_str()}"

    def ids(self, text: str) -> list[int]:
        """Bare ids of one text, no special tokens but the separator between its lines."""
        return self.ids_of([text])[0]

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Bare ids of many texts, tokenised in bulk."""
        lines = [text.split("\n") for text in texts]
        flat = iter(self.backend.encode_batch_fast([line for text in lines for line in text], add_special_tokens=False))
        found = []
        for text in lines:
            ids = list(next(flat).ids)
            for _ in text[1:]:
                ids.append(self.turn_id)
                ids.extend(next(flat).ids)
            found.append(ids)
        return found

    def prompt(self, text: str) -> tuple[int, ...]:
        """Ids of what stands before texts: a mark, which is an entry of the vocabulary ("[unused0]"), or any text."""
        mark = self.mark(text)
        return tuple(self.ids(text)) if mark is None else (mark,)

    def frame_for(self, options: Options, label_truncate: int) -> Frame:
        """The frame, with the prompts of those systems that have any, for candidates of at most so many tokens."""
        given = {name: getattr(options, name, None) or "" for name in ("context_prompt", "candidate_prompt")}
        return replace(self.frame, **{name: self.prompt(text) for name, text in given.items()})

    def parts(self, prompt: str) -> bool:
        """Whether a prompt and what follows it have the same ids tokenised together and apart, or it is a mark."""
        if not prompt or self.ids(f"{prompt}a") == [*self.prompt(prompt), *self.ids("a")]:
            return True
        return self.mark(prompt) is not None and self.ids(prompt) != [self.mark(prompt)]

    @property
    def lowercases(self) -> bool:
        """Whether it makes no difference between capitals and small letters."""
        normalizer = self.backend.normalizer
        return normalizer is not None and normalizer.normalize_str("A") == "a"

    def mark(self, prompt: str) -> int | None:
        """The id of a prompt that is an entry of the vocabulary."""
        found = (self.backend.token_to_id(each) for each in (prompt, prompt.strip()))
        return next((number for number in found if number is not None), None)

    def context_ids_of(self, contexts: Sequence[str]) -> list[list[int]]:
        """Bare ids of contexts, whose lines are turns."""
        return self.ids_of(contexts)

    def text(self, ids: Sequence[int]) -> str:
        """Ids back to text, as near as the vocabulary allows."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=False)
