"""A trained model from plain Python: texts in, ranked candidates out."""

import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from poly_agents import processes
from poly_agents.files import checkpoint
from poly_agents.files import atomic
from poly_agents.candidates import store as stores
from poly_agents.encoders.backbone import choose_dtype, unfilled
from poly_agents.candidates.memory import fingerprint
from poly_agents.scoring.ranker import Ranker, RankerOptions, slices
from poly_agents.candidates.search import Search
from poly_agents.candidates.store import Store
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.tokens import pad


class Ranked(NamedTuple):
    text: str
    score: float


class Retrieved(NamedTuple):
    candidate: dict[str, Any]  # its `text`, and whatever else it was given with
    score: float


class TextRanker:
    """What `poly_agents.load` returns."""

    def __init__(self, ranker: Ranker, tokenizer: Tokenizer, text_truncate: int, label_truncate: int):
        self.ranker = ranker
        self.tokenizer = tokenizer
        self.text_truncate = text_truncate
        self.label_truncate = label_truncate
        self.encoded: tuple[list[str], Any] = [], None  # the last candidates: a chat asks for the same ones every turn

    @classmethod
    def start(cls, agent: str, text_truncate: int = 360, label_truncate: int = 72, **options: Any) -> "TextRanker":
        """A ranker over pretrained weights, untrained but for them: `start("bi", backbone="intfloat/e5-small-v2")`."""
        from poly_agents import zoo

        kind = ranker_class(agent)
        options = kind.Options(**options)
        tokenizer = Tokenizer.pretrained(zoo.backbone(options.source))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        ranker = build(kind, options, tokenizer, None, device)
        ranker.lower_precision()
        return cls(ranker.to(device).eval(), tokenizer, text_truncate, label_truncate)

    @classmethod
    def load(cls, model_file: str, precision: str = "auto") -> "TextRanker":
        """From what was given to ParlAI as `-mf`; needs `model_file` and `model_file.dict`, nothing else.

        `zoo:poly_agents/NAME/model` is fetched first. A model file of ParlAI's own rankers needs its `.opt` too.
        """
        from poly_agents import zoo

        model_file = zoo.local(model_file)
        saved = checkpoint.read(model_file)
        tokenizer = Tokenizer.load(f"{model_file}.dict")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        kind = ranker_class(saved.header["agent"])
        options = kind.Options.of(saved.header["options"] | {"precision": precision})
        text, label = saved.header["text_truncate"], saved.header["label_truncate"]
        with unfilled():
            ranker = build(kind, options, tokenizer, saved.header["backbone"], device, label, lowered=True)
        ranker.load_tensors(saved.weights, model_file)
        return cls(ranker.to(device).eval(), tokenizer, text, label)

    def save(self, model_file: str, **more: Any) -> None:
        """Write what `load` and ParlAI's `-mf` read: `model_file`, `.dict` and `.opt`; `more` goes into the header."""
        header = self.header() | more
        self.tokenizer.save(f"{model_file}.dict")
        opt = {"model": f"poly_agents/{header['agent']}"} | checkpoint.settings(header)
        atomic.write_text(f"{model_file}.opt", json.dumps(opt, indent=1))
        checkpoint.write(model_file, header, self.ranker.tensors())

    @classmethod
    def convert(cls, source: str, model_file: str, name: str = "") -> "TextRanker":
        """Write any model file, one of ParlAI's own too, as one of ours; `name` says where its weights are from."""
        model = cls.load(source, "float32")
        model.ranker.options = replace(model.ranker.options, precision="auto", backbone=name or source)
        model.save(model_file)
        return model

    def header(self) -> dict[str, Any]:
        """All but the weights and the tokeniser that it takes to make the model again, as JSON."""
        return {
            "agent": agent_of(type(self.ranker)),
            "options": vars(self.ranker.options),
            "backbone": self.ranker.context_encoder.config,
            "text_truncate": self.text_truncate,
            "label_truncate": self.label_truncate,
        }

    def rank(
        self,
        context: str | Sequence[str],
        candidates: Sequence[str] | Sequence[Sequence[str]],
        top: int | None = None,
    ) -> list[Ranked] | list[list[Ranked]]:
        """Candidates with their scores, best first; equal scores keep the order they came in.

        `context` is one context, its turns parted by newlines, or a list of them: then `candidates` is one list for
        all, or a list for each, and a list of rankings comes back. Equal texts are ranked once; candidates that are
        the same as in the call before are not encoded again.
        """
        if isinstance(context, str):
            return self.rank([context], candidates, top)[0]
        pools = [list(candidates)] if not candidates or isinstance(candidates[0], str) else candidates
        if len(pools) not in (1, len(context)):
            raise ValueError(f"{len(context)} contexts need one list of candidates or as many, got {len(pools)}")
        if not all(pools):
            raise ValueError("there is nothing to rank: a list of candidates is empty")
        if not context:
            return []
        texts = list(dict.fromkeys(text for pool in pools for text in pool))
        place = {text: row for row, text in enumerate(texts)}
        rows = [list(dict.fromkeys(place[text] for text in pool)) for pool in pools]
        kept = self.encode(texts)
        contexts = self.context_ids(context)
        if len(rows) == 1:
            scores = self.ranker.score_texts(contexts, kept)
            return [self._sorted(texts, rows[0], line, top) for line in scores]
        index = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, -1)
        scores = self.ranker.score_texts(contexts, kept, index)
        return [self._sorted(texts, row, line[: len(row)], top) for row, line in zip(rows, scores, strict=True)]

    def context_ids(self, contexts: Sequence[str]) -> list[list[int]]:
        """Bare ids of contexts, their newest turns where they are too long."""
        return [ids[-self.text_truncate :] for ids in self.tokenizer.context_ids_of(contexts)]

    def candidate_ids(self, candidates: Sequence[str]) -> list[list[int]]:
        """Bare ids of candidates, their head where they are too long."""
        return [ids[: self.label_truncate] for ids in self.tokenizer.ids_of(candidates)]

    def encode(self, texts: list[str]) -> Any:
        """What the ranker keeps of these candidates; encoded once as long as they stay the same."""
        if self.encoded[0] != texts:
            self.encoded = texts, self._encode(texts)
        return self.encoded[1]

    def _encode(self, texts: list[str]) -> Any:
        return self.ranker.encode_parts(ahead(self.candidate_ids, slices(texts)))

    def index(
        self,
        folder: str | Path,
        candidates: str | Path | Iterable[str | dict[str, Any]],
        precision: str = "auto",
        keep: bool = False,
        progress: bool = True,
    ) -> Store:
        """A store of these candidates in `folder`: as it is there, or made, or brought up to date.

        `candidates` is a file (text, or JSON lines with a `text` and whatever else), or the candidates themselves.
        What the folder has besides is taken out, unless `keep`. See `poly_agents.candidates.store.build`.
        """
        if precision == "auto":
            precision = str(self.ranker.candidate_encoder.dtype).removeprefix("torch.")
        maker, source, total = self.maker, "", None
        if isinstance(candidates, str | Path):
            source, total = atomic.sha256(candidates), stores.count_lines(candidates)
            found = None if keep else stores.unchanged(folder, maker, precision, source)
            if all(processes.everyone(found is not None)):
                return found
            candidates = stores.read_candidates(candidates)
        else:
            candidates = ({"text": each} if isinstance(each, str) else each for each in candidates)
        return stores.build(
            folder, candidates, self._encode, maker, precision, keep=keep, source=source, total=total, progress=progress
        )

    @property
    def maker(self) -> str:
        """What tells encodings of this model from those of any other."""
        return fingerprint(self.ranker, self.tokenizer, self.label_truncate)

    def search(self, context: str, within: Search, top: int = 10) -> list[Retrieved]:
        """The best candidates of a store, as they were given to it, with their scores."""
        found = within.best(self.ranker, pad(self.context_ids([context])), top)
        pairs = zip(found.rows[0].tolist(), found.scores[0].tolist(), strict=True)
        return [Retrieved(within.store[row], score) for row, score in pairs if row >= 0]

    @staticmethod
    def _sorted(texts: list[str], rows: list[int], scores: torch.Tensor, top: int | None) -> list[Ranked]:
        values, order = scores.float().cpu().sort(descending=True, stable=True)
        pairs = zip(order[:top].tolist(), values[:top].tolist(), strict=True)
        return [Ranked(texts[rows[place]], score) for place, score in pairs]


def ahead(function: Callable[[Any], Any], parts: Iterable[Any]) -> Iterator[Any]:
    """`map` that makes the next result in a thread while the last one is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = None
        for part in parts:
            ready, coming = coming, thread.submit(function, part)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def ranker_class(agent: str) -> type[Ranker]:
    """`poly` -> PolyRanker of `poly_agents.rankers.poly`."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", agent):
        raise ValueError(f"{agent!r} is not the name of a ranker")
    module = importlib.import_module(f"poly_agents.{agent}")
    return getattr(module, "".join(word.capitalize() for word in agent.split("_")) + "Ranker")


def agent_of(kind: type[Ranker]) -> str:
    """PolyRanker of `poly_agents.rankers.poly` -> `poly`."""
    return kind.__module__.rpartition(".")[2]


def build(
    kind: type[Ranker],
    options: RankerOptions,
    tokenizer: Tokenizer,
    config: dict | None,
    device: str,
    label_truncate: int = 0,
    lowered: bool = False,
) -> Ranker:
    """A ranker over a pretrained backbone, or over a blank one of a known configuration.

    A blank one for inference alone can be `lowered` from the start: its weights are never held in two precisions.
    """
    dtype = choose_dtype(options.precision, device)
    if config is not None:
        kept, frame = dtype if lowered else torch.float32, tokenizer.frame_for(options, label_truncate)
        ranker = kind(options, frame, lambda: kind.Encoder.blank(config, dtype, kept))
        if lowered:
            ranker.lower_precision()
        return ranker
    from poly_agents import zoo

    source = zoo.backbone(options.source)
    found = kind.find(options, source, tokenizer)
    options = options.settle(found.options)
    start = lambda: kind.start(options, kind.Encoder.pretrained(source, dtype))  # noqa: E731
    ranker = kind(options, tokenizer.frame_for(options, label_truncate), start)
    ranker.take(found.weights)
    return ranker
