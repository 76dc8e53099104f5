"""Find the candidates of a batch, for every value of `--candidates` and `--eval-candidates`."""

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from parlai.utils import logging
from parlai.utils.distributed import is_primary_worker
from parlai.utils.misc import warn_once

from poly_agents import processes
from poly_agents.agents import added_label
from poly_agents.agents.added_label import Joined
from poly_agents.agents.arguments import is_training
from poly_agents.agents.report import Scored
from poly_agents.agents.teachers import chat_responses, teachers
from poly_agents.candidates import milvus
from poly_agents.candidates import pool as pools
from poly_agents.candidates.manifest import fingerprint_of
from poly_agents.candidates.memory import Memory
from poly_agents.candidates.milvus import MilvusSearch
from poly_agents.candidates.pool import Pool
from poly_agents.candidates.reading import read_candidates
from poly_agents.candidates.search import Search, SearchOptions
from poly_agents.candidates.store import Store
from poly_agents.candidates.writer import discard
from poly_agents.errors import InputError
from poly_agents.files.atomic import write_text
from poly_agents.models.textranker import TextRanker
from poly_agents.text.tokens import Tokens

FIXED, VOCAB = "fixed", "vocab"


class CandidateSource:
    """The candidates that contexts are scored against, and their encodings as far as they can be cached.

    Attributes:
        pools: those that stay the same from batch to batch, by source.
        search: the store or database that the fixed candidates are in, if they are encoded ahead.
    """

    def __init__(self, model: TextRanker, opt):
        self.model, self.opt = model, opt
        self.pools: dict[str, Pool] = {}
        self.search: Search | MilvusSearch | None = None
        self.memory = Memory()
        self._encoded: dict[str, Any] = {}

    @property
    def store(self) -> Any:
        """Return the store or collection that the fixed candidates are in, or None if they are not encoded ahead."""
        return self.search.store if self.search else None

    # --- pools that stay the same -----------------------------------------------------------------------------------

    def add_fixed(self, path: str) -> None:
        """Read the candidates of a file, a store or a database. They are encoded now if they can be kept on disk."""
        if milvus.is_address(path) or self._kept_on_disk():
            self.search = self._open(path)
            self.pools[FIXED] = Pool.without_ids(self.search.store.texts)
        else:
            texts = [candidate["text"] for candidate in read_candidates(path)]
            self.pools[FIXED] = pools.shared(texts, self.model.candidate_ids(texts), None)
        logging.info(f"{len(self.pools[FIXED].texts)} candidates from {path}")

    def add_vocabulary(self) -> None:
        """Make a candidate of every token but the special ones."""
        words = self.model.tokenizer
        ids = sorted(set(words.backend.get_vocab().values()) - words.frame.special - {words.pad_id})
        self.pools[VOCAB] = pools.shared([words.text([i]) for i in ids], [[i] for i in ids], None)

    def _kept_on_disk(self) -> bool:
        has_place = self.opt.get("model_file") or self.opt["fixed_candidate_vecs"] not in ("reuse", "replace")
        is_wanted = self.opt["encode_candidate_vecs"] and not is_training(self.opt)
        return bool(self.model.can_cache and has_place and is_wanted)

    def _open(self, path: str) -> Search | MilvusSearch:
        self.model.ranker.lower_precision()
        given = self.opt["fixed_candidate_vecs"]
        folder = folder_beside(self.opt["model_file"], path) if given in ("reuse", "replace") else given
        if given == "replace":
            discard(folder)
        elif given != "reuse" and fingerprint_of(folder) not in (None, self.model.fingerprint):
            raise InputError(f"{folder} was not made by this model; give another path")
        return open_pool(path, self.model, SearchOptions.of(self.opt), folder, progress=is_primary_worker())

    # --- the pool of a batch ----------------------------------------------------------------------------------------

    def of(self, batch, source: str, training: bool) -> Pool:
        """Return the candidates of a batch.

        Args:
            batch: as `RankerAgent.batchify` makes it.
            source: batch, inline, batch-all-cands, fixed or vocab.
            training: whether this is a training step.

        Raises:
            ValueError: the examples have no labels or candidates where the source needs them, or a label is not among
                the candidates, and that is not allowed.
        """
        labels = batch.labels if batch.labels and any(batch.labels) else None
        if source == "batch":
            return self._labels_of_batch(batch, labels, training)
        if source in self.pools:
            pool = self._with_labels(self.pools[source], labels)
            if self.opt.get("add_label_to_fixed_candidates") and source == FIXED and labels and not training:
                return added_label.with_labels(pool, labels, batch.label_ids)
        else:
            pool = self._brought_by_examples(batch, source, labels, training)
        self._check_labels(pool, batch, source, training)
        return pool

    @staticmethod
    def _labels_of_batch(batch, labels: list[str] | None, training: bool) -> Pool:
        """Rank the batch's own labels: in training those of all processes."""
        if labels is None:
            step = "train" if training else "eval"
            raise InputError(f"--candidates batch ranks the batch's own labels, and these {step} examples have none")
        if len(labels) == 1:
            warn_once("a batch of one example has no other response to rank against; raise -bs")
        own = labels, batch.label_ids
        parts = processes.all_gather(own) if training else [own]
        texts, ids = ([item for part in column for item in part] for column in zip(*parts, strict=True))
        return pools.shared(texts, ids, labels)

    def _with_labels(self, pool: Pool, labels: list[str] | None) -> Pool:
        if labels is None:
            return pool
        columns = self.search.store.rows_of(labels) if self.search else pools.columns(pool, labels)
        return pool._replace(labels=torch.as_tensor(columns))

    @staticmethod
    def _brought_by_examples(batch, source: str, labels: list[str] | None, training: bool) -> Pool:
        if batch.candidates is None or not all(batch.candidates):
            flag, drawn = ("--candidates", "") if training else ("--eval-candidates", ", or --eval-negatives 19")
            raise InputError(f"{flag} {source}: these examples bring no candidates; give {flag} batch or fixed{drawn}")
        if source == "inline":
            return pools.separate(batch.candidates, batch.candidate_vecs, labels)
        texts, ids = ([item for row in rows for item in row] for rows in (batch.candidates, batch.candidate_vecs))
        return pools.shared(texts, ids, labels)

    def _check_labels(self, pool: Pool, batch, source: str, training: bool) -> None:
        if pool.labels is None or not (pool.labels < 0).any():
            return
        if self.opt["ignore_bad_candidates"] and not training:
            return
        lost = [row for row in (pool.labels < 0).nonzero().flatten() if not batch.examples[row].message.get("missed")]
        if not lost:
            return
        add = ", --add-label-to-fixed-candidates true ranks the pool and the label" if source == FIXED else ""
        raise InputError(
            f"the label {batch.labels[lost[0]]!r} is not among the {source} candidates of the example "
            f"{batch.examples[lost[0]].context[-200:]!r}; --ignore-bad-candidates true skips such examples{add}"
        )

    # --- encodings and scores ---------------------------------------------------------------------------------------

    def score(self, contexts: Tokens, pool: Pool, source: str) -> Scored:
        """Score contexts [B, L] against their candidates. Nothing is differentiated."""
        ranker = self.model.ranker
        if source == FIXED and isinstance(pool.texts, Joined):
            return self._score_with_labels(contexts, pool)
        if self.search and source in self.pools:
            scores, store = self.search.scores(ranker, contexts).float().cpu(), self.search.store
            return Scored(pool, scores, store.rows_of, store.repeats)
        encoded = self._encode(pool, source) if self.opt["encode_candidate_vecs"] else None
        if encoded is None:
            encoded = ranker.encode_ids(pool.ids)
        return Scored(pool, ranker.score_tokens(contexts, encoded, pool.index).float().cpu())

    def _score_with_labels(self, contexts: Tokens, pool: Pool) -> Scored:
        """Score a fixed pool and the labels that it lacks. A ranker that can cache scores the labels apart."""
        fixed = self.pools[FIXED]
        if self.model.can_cache:
            parts = self.score(contexts, fixed, FIXED), self.score(contexts, added_label.labels_alone(pool), "labels")
            scores = added_label.joined(pool, *(part.scores for part in parts))
        else:
            scores = self.score(contexts, pool, "labels").scores
        find = self.search.store.rows_of if self.search else partial(pools.columns, fixed)
        return Scored(pool, scores, added_label.rows_of(pool, find), self.search.store.repeats if self.search else ())

    def best(self, contexts: Tokens, count: int) -> Scored:
        """Search the store for the best `count` candidates of each context [B, L]."""
        found = self.search.best(self.model.ranker, contexts, min(count, len(self.search.store)))
        store = self.search.store
        return Scored(Pool.without_ids(store.texts, found.rows), found.scores, store.rows_of)

    def forget(self) -> None:
        """Drop all encodings: the weights have changed."""
        self._encoded.clear()
        self.memory = Memory()

    def _encode(self, pool: Pool, source: str) -> Any:
        """Return cached encodings of a pool, or None if this ranker cannot cache."""
        if not self.model.can_cache:
            return None
        if source not in self.pools:
            return self.memory.encode(self.model.ranker, pool.ids)
        if source not in self._encoded:
            self._encoded[source] = self.model.ranker.encode_ids(pool.ids, progress=is_primary_worker())
        return self._encoded[source]


def folder_beside(model_file: str, path: str) -> str:
    """Return where the encodings of a file of candidates are kept, unless another place is given."""
    return f"{model_file}.{Path(path).stem}.store"


def open_pool(
    path: str, model: TextRanker, options: SearchOptions, folder: str, progress: bool = True
) -> Search | MilvusSearch:
    """Open a pool of candidates.

    Args:
        path: a file, which is encoded into `folder`; a store; or `milvus:URI#COLLECTION`.
        model: encodes the candidates, or has encoded them.
        options: how the pool is searched.
        folder: of the store for the candidates of a file.
        progress: show a progress bar.
    """
    if milvus.is_address(path):
        return milvus.open_search(path, model.fingerprint, options)
    if Path(path).is_dir():
        return Search(Store(path, model.fingerprint), options)
    return Search(model.index(folder, path, options.store_precision, progress=progress), options)


def task_candidates_file(opt) -> str:
    """Return a file with the responses of a task: all of them in order, or those the task picks for a chat.

    It is written next to the model if it is not there yet.
    """
    name = re.sub(r"[^\w.-]+", "_", opt["task"])
    path = f"{opt.get('model_file') or 'model'}.cands-{name}.cands"
    if os.path.exists(path) and os.path.getsize(path):
        return path
    logging.info(f"collecting the candidates of {opt['task']} in {path}")
    whole = {"datatype": "train:evalmode", "batchsize": 1, "interactive_task": False, "num_examples": -1}
    texts: Sequence[str] = list(
        dict.fromkeys(text for teacher in teachers(opt, **whole) for text in chat_responses(teacher))
    )
    if not texts:
        raise InputError(f"the task {opt['task']} has no responses to chat with; give -fcp FILE")
    write_text(path, "\n".join(texts) + "\n")
    return path
