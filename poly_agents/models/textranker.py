"""A trained model in plain Python: texts in, ranked candidates out."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from poly_agents.candidates import writer
from poly_agents.candidates.fingerprint import fingerprint
from poly_agents.candidates.search import Search
from poly_agents.candidates.store import Store
from poly_agents.errors import InputError
from poly_agents.files import atomic, checkpoint
from poly_agents.models import building, lengths, opening
from poly_agents.models.prefetch import prefetch
from poly_agents.models.ranking import NOTHING, Pools, Ranked, Remembered, candidate_texts, pools_of
from poly_agents.models.retrieval import Retrieved, retrieve
from poly_agents.rankers import agent_of, options_of
from poly_agents.scoring.ranker import Ranker, slices
from poly_agents.scoring.ranks import check_top
from poly_agents.text import given
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.truncation import PERSONA_SHARE, check_share, cut_context, persona_lines, share_of
from poly_agents.text.turns import Dialogue, context_texts


class TextRanker:
    """A ranker with its tokenizer: what `poly_agents.load` and `poly_agents.start` return.

    Attributes:
        ranker: the torch module.
        tokenizer: text to ids.
        text_truncate: tokens of a context that are kept, the newest ones.
        label_truncate: tokens of a candidate that are kept, the first ones.
        persona_share: of the tokens of a context, what persona lines may take while turns are cut.
    """

    def __init__(
        self,
        ranker: Ranker,
        tokenizer: Tokenizer,
        text_truncate: int,
        label_truncate: int,
        persona_share: float = PERSONA_SHARE,
    ):
        self.ranker = ranker
        self.tokenizer = tokenizer
        self.text_truncate = text_truncate
        self.label_truncate = label_truncate
        self.persona_share = persona_share
        self._last = NOTHING
        self._fingerprint: tuple[Any, str] = None, ""  # what it depends on, and the fingerprint

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy gets, in this process or another one. What was remembered stays behind."""
        return vars(self) | {"_last": NOTHING, "_fingerprint": (None, "")}

    @classmethod
    def start(
        cls,
        agent: str,
        source: str | None = None,
        text_truncate: int | None = None,
        label_truncate: int | None = None,
        persona_share: float = PERSONA_SHARE,
        **options: Any,
    ) -> "TextRanker":
        """Make a ranker over pretrained weights, not yet trained.

        Args:
            agent: the name of the ranker: bi, cross, early, ed2lm, late, mix, poly, uni.
            source: folder, HuggingFace name or model file to load from, if not what `options` names.
            text_truncate: tokens of a context that are kept; None: 360 (`early`: 250), or as many as the backbone has
                room for.
            label_truncate: tokens of a candidate that are kept; None: 72, or as many as the backbone has room for.
            persona_share: of the tokens of a context, what "your persona:" lines may take at most while turns are cut,
                from 0 to 1.
            options: those of the ranker, named as its flags: `backbone="intfloat/e5-small-v2"`, `poly_codes=16`.

        Raises:
            ValueError: there is no such ranker or option, an option or the checkpoint does not suit the ranker, or
                lengths that are given need more positions than the backbone has.
        """
        chosen = options_of(agent, options)
        source = source or chosen.source
        tokenizer = opening.pretrained_tokenizer(source)
        device = building.default_device()
        ranker = building.start(agent, chosen, source, tokenizer, device)
        ranker.lower_precision()
        fitted = lengths.for_start(ranker, text_truncate, label_truncate)
        return cls(ranker.to(device).eval(), tokenizer, *fitted, check_share(persona_share))

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
        ranker = building.build(opened, precision)
        return cls(ranker, opened.tokenizer, *lengths.of_header(ranker, opened.header), share_of(opened.header))

    def save(self, model_file: str, **extra: Any) -> None:
        """Write `model_file`, `.dict` and `.opt` for `load` and ParlAI's `-mf`. `extra` is put into the header."""
        atomic.check_replaceable(Path(model_file))
        header = self.header() | extra
        self.tokenizer.save(f"{model_file}.dict")
        opt = {"model": f"poly_agents/{header['agent']}"} | checkpoint.settings(header)
        atomic.write_text(f"{model_file}.opt", json.dumps(opt, indent=1))
        checkpoint.write(model_file, header, self.ranker.tensors())

    @classmethod
    def convert(cls, source: str, model_file: str, name: str = "") -> "TextRanker":
        """Write any model file `source`, one of ParlAI's own too, in our format.

        The new header says that the weights are from `name`, or else from `source`.
        """
        model = cls.load(source, "float32")
        model.ranker.options = replace(model.ranker.options, backbone=name or source, precision="auto")
        model.save(model_file)
        return model

    def header(self) -> dict[str, Any]:
        """Return, as JSON, what it takes to make the model again besides weights and the tokenizer itself."""
        return {
            "agent": agent_of(type(self.ranker)),
            "options": vars(self.ranker.options),
            "backbone": self.ranker.context_encoder.config,
            **{name: getattr(self, name) for name in checkpoint.LENGTHS},
            opening.TOKENIZER: self.tokenizer.digest,
        }

    @property
    def can_cache(self) -> bool:
        """Tell whether encoding a candidate ahead saves work."""
        return self.ranker.can_cache(self.ranker.options)

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of all that a candidate's encoding depends on. It is computed again after a change."""
        depends_on = self.ranker.weights_version(), self.ranker.options, self.tokenizer, self.label_truncate
        known = self._fingerprint  # other threads may set it meanwhile
        if known[0] != depends_on:
            known = self._fingerprint = depends_on, fingerprint(self.ranker, self.tokenizer, self.label_truncate)
        return known[1]

    # --- ranking ------------------------------------------------------------------------------------------------------

    def rank(
        self,
        context: str | Dialogue | Iterable[str | Dialogue],
        candidates: Iterable[str] | Iterable[Iterable[str]],
        top: int | None = None,
    ) -> list[Ranked] | list[list[Ranked]]:
        """Rank candidates, best first. Equal scores keep the order of the candidates.

        Equal candidates are encoded once, and each of them has its place in the ranking. Candidates that are the same
        as in the call before are not encoded again.

        Args:
            context: one context: its text with newlines between the turns, or `Dialogue(turns)`. Or a list of contexts;
                a list of strings is never taken for the turns of one.
            candidates: one list for all contexts, or one for each. Any iterable of strings will do: a tuple, a
                generator, an array, a column of a table.
            top: how many of the best to return; None: all.

        Returns:
            One ranking, or one for each context.

        Raises:
            ValueError: something that is given is no text (the message names its place), a list of candidates is empty,
                there are neither one nor as many as contexts, or a score is not finite.

        >>> model.rank(Dialogue(["hi", "do you like music?"]), ["it is blue", "mostly rock"], top=1)  # doctest: +SKIP
        [Ranked(text='mostly rock', score=7.81, index=1)]
        """
        if isinstance(context, str | Dialogue):
            return self.rank_many([context], [candidates], top)[0]
        return self.rank_many(context, pools_of(candidates), top)

    def rank_many(
        self, contexts: Iterable[str | Dialogue], pools: Iterable[Iterable[str]], top: int | None = None
    ) -> list[list[Ranked]]:
        """Rank one pool of candidates for all contexts, or one for each. As `rank`, without its shorter forms."""
        top = None if top is None else check_top(top)
        ids, pools = self.context_ids(contexts), Pools(pools)
        if len(pools.pools) not in (1, len(ids)):
            raise InputError(f"{len(ids)} contexts need one list of candidates or as many, got {len(pools.pools)}")
        if not ids:
            return []
        scores = self.ranker.score_ids(ids, self._remembered(pools.texts), pools.index)  # [B, C]
        return pools.rankings(scores, top)

    def context_ids(self, contexts: Iterable[str | Dialogue]) -> list[list[int]]:
        """Return the bare ids of contexts. Of long ones the newest turns are kept, and persona lines."""
        texts, limit, share = context_texts(contexts), self.text_truncate, self.persona_share
        rows = zip(texts, self.tokenizer.context_ids_of(texts), strict=True)
        return [cut_context(ids, persona_lines(text), self.tokenizer.turn_id, limit, share) for text, ids in rows]

    def candidate_ids(self, candidates: Iterable[str]) -> list[list[int]]:
        """Return the bare ids of candidates. Of long ones the beginning is kept."""
        return [ids[: self.label_truncate] for ids in self.tokenizer.ids_of(given.texts(candidates, "candidate"))]

    def encode(self, texts: Iterable[str]) -> Any:
        """Encode N candidates, any iterable of strings -> [N, ...]. They are not encoded again if they stay the same.

        Raises ValueError as `rank` does.
        """
        return self._remembered(candidate_texts(texts))

    def _remembered(self, texts: list[str]) -> Any:
        last, version = self._last, (*self.ranker.weights_version(), self.label_truncate)  # other threads may set it
        if last.texts != texts or last.version != version:
            last = self._last = Remembered(texts, version, self._encode(texts))
        return last.encoded

    def _encode(self, texts: list[str]) -> Any:
        return self.ranker.encode_parts(prefetch(self.candidate_ids, slices(texts)))

    # --- candidates on disk -------------------------------------------------------------------------------------------

    def index(
        self,
        folder: str | Path,
        candidates: str | Path | Iterable[str | Mapping[str, Any]],
        precision: str = "auto",
        keep: bool = False,
        progress: bool = True,
    ) -> Store:
        """Make a store of encoded candidates, or bring it up to date. What it has already is not encoded again.

        Args:
            folder: of the store.
            candidates: a file (text, or JSON lines with a `text` and more), or the candidates themselves: any iterable
                of strings, or of dictionaries with a `text` and more.
            precision: of the stored vectors; auto: as the encoder computes.
            keep: keep what the folder holds besides these candidates.
            progress: show a progress bar.

        Raises:
            ValueError: there is no such file or it cannot be read, one of the candidates is no text (the message names
                its place), or the folder holds something else.
        """
        if precision == "auto":
            precision = str(self.ranker.candidate_encoder.dtype).removeprefix("torch.")
        recipe = writer.Recipe(self._encode, self.fingerprint, precision)
        return writer.update(folder, candidates, recipe, keep=keep, progress=progress)

    def search(self, context: str | Dialogue, within: Search | Store, top: int = 10) -> list[Retrieved]:
        """Return the best candidates of a store for one context, as they were stored, with their scores.

        Args:
            context: its text with newlines between the turns, or `Dialogue(turns)`.
            within: the store, and how it is searched. A store alone is searched exactly.
            top: how many to return; all, if the store has fewer.

        Raises:
            ValueError: another model made the store, the context is no text, or a score is not finite.
        """
        return retrieve(self.ranker, self.fingerprint, self.context_ids([context]), within, top)
