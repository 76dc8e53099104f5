"""A trained model in plain Python: texts in, ranked candidates out."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from poly_agents.candidates import writer
from poly_agents.candidates.fingerprint import fingerprint
from poly_agents.candidates.search import Search
from poly_agents.candidates.store import Store
from poly_agents.encoders.states import padded_index
from poly_agents.errors import InputError
from poly_agents.files import atomic, checkpoint
from poly_agents.models import building, opening
from poly_agents.rankers import agent_of, options_of
from poly_agents.scoring.ranker import Ranker, slices
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.tokens import pad

TEXT_TRUNCATE, LABEL_TRUNCATE = 360, 72  # tokens of a context and of a candidate (Humeau et al. 2020)


class Ranked(NamedTuple):
    """A candidate and its score."""

    text: str
    score: float


class Retrieved(NamedTuple):
    """A candidate of a store and its score."""

    candidate: dict[str, Any]  # its `text`, and whatever else it was stored with
    score: float


class TextRanker:
    """A ranker with its tokenizer: what `poly_agents.load` and `poly_agents.start` return.

    Attributes:
        ranker: the torch module.
        tokenizer: text to ids.
        text_truncate: tokens of a context that are kept, the newest ones.
        label_truncate: tokens of a candidate that are kept, the first ones.
    """

    def __init__(self, ranker: Ranker, tokenizer: Tokenizer, text_truncate: int, label_truncate: int):
        self.ranker = ranker
        self.tokenizer = tokenizer
        self.text_truncate = text_truncate
        self.label_truncate = label_truncate
        self._last: tuple[list[str], tuple, Any] = [], (), None  # texts, version of the weights, their encodings

    @classmethod
    def start(
        cls,
        agent: str,
        source: str | None = None,
        text_truncate: int = TEXT_TRUNCATE,
        label_truncate: int = LABEL_TRUNCATE,
        **options: Any,
    ) -> "TextRanker":
        """Make a ranker over pretrained weights, not yet trained.

        Args:
            agent: the name of the ranker: bi, cross, early, ed2lm, late, mix, poly, uni.
            source: folder, HuggingFace name or model file to load from, if not what `options` names.
            text_truncate: tokens of a context that are kept.
            label_truncate: tokens of a candidate that are kept.
            options: those of the ranker, named as its flags: `backbone="intfloat/e5-small-v2"`, `poly_codes=16`.

        Raises:
            ValueError: there is no such ranker or option, or an option or the checkpoint does not suit the ranker.
        """
        given = options_of(agent, options)
        source = source or given.source
        tokenizer = opening.pretrained_tokenizer(source)
        device = building.default_device()
        ranker = building.start(agent, given, source, tokenizer, device)
        ranker.lower_precision()
        return cls(ranker.to(device).eval(), tokenizer, text_truncate, label_truncate)

    @classmethod
    def load(cls, model_file: str, precision: str = "auto") -> "TextRanker":
        """Load a trained model.

        Args:
            model_file: what was given to ParlAI as `-mf`. It needs `model_file.dict` beside it. A model of ParlAI's own
                rankers needs its `.opt` too.
            precision: of the encoder: auto, float32, bfloat16 or float16.

        Raises:
            ValueError: a file is missing, damaged, or of another kind. The message names it.
        """
        opened = opening.open_model(model_file)
        header = opened.header
        return cls(
            building.build(opened, precision), opened.tokenizer, header["text_truncate"], header["label_truncate"]
        )

    def save(self, model_file: str, **extra: Any) -> None:
        """Write `model_file`, `.dict` and `.opt` for `load` and ParlAI's `-mf`. `extra` is put into the header."""
        header = self.header() | extra
        self.tokenizer.save(f"{model_file}.dict")
        opt = {"model": f"poly_agents/{header['agent']}"} | checkpoint.settings(header)
        atomic.write_text(f"{model_file}.opt", json.dumps(opt, indent=1))
        checkpoint.write(model_file, header, self.ranker.tensors())

    @classmethod
    def convert(cls, source: str, model_file: str, name: str = "") -> "TextRanker":
        """Write any model file, one of ParlAI's own too, in our format.

        Args:
            source: the model file to read.
            model_file: the one to write.
            name: where the weights are from, for the new header; `source` if empty.
        """
        model = cls.load(source, "float32")
        model.ranker.options = replace(model.ranker.options, backbone=name or source, precision="auto")
        model.save(model_file)
        return model

    def header(self) -> dict[str, Any]:
        """Return, as JSON, what it takes to make the model again besides weights and tokenizer."""
        return {
            "agent": agent_of(type(self.ranker)),
            "options": vars(self.ranker.options),
            "backbone": self.ranker.context_encoder.config,
            "text_truncate": self.text_truncate,
            "label_truncate": self.label_truncate,
        }

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of everything a candidate's encoding depends on."""
        return fingerprint(self.ranker, self.tokenizer, self.label_truncate)

    # --- ranking ------------------------------------------------------------------------------------------------------

    def rank(
        self,
        context: str | Sequence[str],
        candidates: Sequence[str] | Sequence[Sequence[str]],
        top: int | None = None,
    ) -> list[Ranked] | list[list[Ranked]]:
        """Rank candidates, best first. Equal scores keep the order of the candidates.

        Equal texts are ranked once. Candidates that are the same as in the call before are not encoded again.

        Args:
            context: one context, its turns separated by newlines, or a list of contexts.
            candidates: one list for all contexts, or one for each.
            top: how many of the best to return; None: all.

        Returns:
            One ranking, or one for each context.

        Raises:
            ValueError: a list of candidates is empty or a string, or there are neither one nor as many as contexts.
        """
        if isinstance(context, str):
            return self.rank_many([context], [candidates], top)[0]
        nested = bool(candidates) and not isinstance(candidates[0], str)
        return self.rank_many(context, candidates if nested else [candidates], top)

    def rank_many(
        self, contexts: Sequence[str], pools: Sequence[Sequence[str]], top: int | None = None
    ) -> list[list[Ranked]]:
        """Rank one pool of candidates for all contexts, or one for each. As `rank`, without its shorter forms."""
        if any(isinstance(pool, str) for pool in pools):
            raise InputError('candidates is a list of strings, got one string; write ["..."] to rank a single one')
        if len(pools) not in (1, len(contexts)):
            raise InputError(f"{len(contexts)} contexts need one list of candidates or as many, got {len(pools)}")
        if not all(len(pool) for pool in pools):
            raise InputError("there is nothing to rank: a list of candidates is empty")
        if not contexts:
            return []
        texts = list(dict.fromkeys(text for pool in pools for text in pool))
        number = {text: row for row, text in enumerate(texts)}
        rows = [list(dict.fromkeys(number[text] for text in pool)) for pool in pools]
        encoded, ids = self.encode(texts), self.context_ids(contexts)
        if len(rows) == 1:
            scores = self.ranker.score_ids(ids, encoded)  # [B, C]
            return [self._sorted(texts, rows[0], line, top) for line in scores]
        scores = self.ranker.score_ids(ids, encoded, padded_index(rows))  # [B, C]
        return [self._sorted(texts, row, line[: len(row)], top) for row, line in zip(rows, scores, strict=True)]

    @staticmethod
    def _sorted(texts: list[str], rows: list[int], scores: torch.Tensor, top: int | None) -> list[Ranked]:
        values, order = scores.float().cpu().sort(descending=True, stable=True)
        pairs = zip(order[:top].tolist(), values[:top].tolist(), strict=True)
        return [Ranked(texts[rows[column]], score) for column, score in pairs]

    def context_ids(self, contexts: Sequence[str]) -> list[list[int]]:
        """Return the bare ids of contexts. Of long ones the newest turns are kept."""
        return [ids[-self.text_truncate :] for ids in self.tokenizer.context_ids_of(contexts)]

    def candidate_ids(self, candidates: Sequence[str]) -> list[list[int]]:
        """Return the bare ids of candidates. Of long ones the beginning is kept."""
        return [ids[: self.label_truncate] for ids in self.tokenizer.ids_of(candidates)]

    def encode(self, texts: list[str]) -> Any:
        """Encode candidates. They are encoded once as long as they and the weights stay the same.

        Several threads may call this. Each reads and sets the last encodings as one value.
        """
        last_texts, last_version, encoded = self._last
        version = self.ranker.weights_version()
        if last_texts != texts or last_version != version:
            encoded = self._encode(texts)
            self._last = list(texts), version, encoded
        return encoded

    def _encode(self, texts: list[str]) -> Any:
        return self.ranker.encode_parts(prefetch(self.candidate_ids, slices(texts)))

    # --- candidates on disk -------------------------------------------------------------------------------------------

    def index(
        self,
        folder: str | Path,
        candidates: str | Path | Iterable[str | dict[str, Any]],
        precision: str = "auto",
        keep: bool = False,
        progress: bool = True,
    ) -> Store:
        """Make a store of encoded candidates, or bring it up to date. What it has already is not encoded again.

        Args:
            folder: of the store.
            candidates: a file (text, or JSON lines with a `text` and more), or the candidates themselves.
            precision: of the stored vectors; auto: as the encoder computes.
            keep: keep what the folder holds besides these candidates.
            progress: show a progress bar.
        """
        if precision == "auto":
            precision = str(self.ranker.candidate_encoder.dtype).removeprefix("torch.")
        recipe = writer.Recipe(self._encode, self.fingerprint, precision)
        return writer.update(folder, candidates, recipe, keep=keep, progress=progress)

    def search(self, context: str, within: Search, top: int = 10) -> list[Retrieved]:
        """Return the best candidates of a store for one context, as they were stored, with their scores."""
        best = within.best(self.ranker, pad(self.context_ids([context])), top)
        pairs = zip(best.rows[0].tolist(), best.scores[0].tolist(), strict=True)
        return [Retrieved(within.store[row], score) for row, score in pairs if row >= 0]


def prefetch(function: Callable[[Any], Any], parts: Iterable[Any]) -> Iterator[Any]:
    """Map a function over parts. A thread makes the next result while the last one is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = None
        for part in parts:
            ready, coming = coming, thread.submit(function, part)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()
