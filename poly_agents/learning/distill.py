"""Score with a trained model as the teacher of another one. Its scores are kept on disk, so no pair is scored twice."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from poly_agents import zoo
from poly_agents.encoders.states import padded_index
from poly_agents.errors import InputError
from poly_agents.files.digests import text_digest
from poly_agents.models.textranker import TextRanker

KEYS = 500  # keys in one query


class Teacher:
    """A frozen model whose scores a student learns.

    The scores are in `MODEL.scores`, an SQLite file that several students can share. The file holds the fingerprint of
    the teacher. Scores of other weights are deleted.

    >>> teacher = Teacher("models/cross/model")  # doctest: +SKIP
    >>> teacher.scores(["how are you?"], ["fine", "it is blue"], None).shape  # doctest: +SKIP
    torch.Size([1, 2])
    """

    def __init__(self, model_file: str):
        """Load the model and open its file of scores.

        Args:
            model_file: a model file, or `zoo:poly_agents/NAME/model`.

        Raises:
            ValueError: the model cannot be loaded, or its score of a pair depends on the other candidates.
        """
        model_file = zoo.local(model_file)
        self.model = TextRanker.load(model_file)
        if self.model.ranker.depends_on_pool:
            raise InputError(
                f"--teacher-model {model_file}: its scores depend on the other candidates, so they cannot be kept for "
                "a pair; teach with bi, poly, early, mix, late, ed2lm or cross"
            )
        self.scores_file = open_scores(f"{model_file}.scores", f"{self.model.fingerprint} {self.model.text_truncate}")

    def scores(self, contexts: Sequence[str], texts: Sequence[str], index: Tensor | None) -> Tensor:
        """Score contexts against candidates. Only pairs that were never scored before are run.

        Args:
            contexts: B contexts.
            texts: N candidates.
            index: numbers of each context's candidates, [B, C], -1 for none. None: all N for every context.

        Returns:
            The scores [B, C], 0 where the index is -1.
        """
        rows = [range(len(texts))] * len(contexts) if index is None else index.tolist()
        digests = [text_digest(text, 8) for text in texts]
        keys: list[list[bytes | None]] = []  # a key for each pair, None where the index is -1
        for context, row in zip(contexts, rows, strict=True):
            digest = text_digest(context, 8)
            keys.append([digest + digests[number] if number >= 0 else None for number in row])
        known = self._read({key for row in keys for key in row if key})
        missing = [
            {key: number for key, number in zip(*pair, strict=True) if key and key not in known}
            for pair in zip(keys, rows, strict=True)
        ]
        if any(missing):
            known |= self._score(contexts, texts, missing)
        return torch.tensor([[known[key] if key else 0.0 for key in row] for row in keys])

    def _read(self, keys: set[bytes]) -> dict[bytes, float]:
        """Return the scores that are in the file, by the keys of their pairs."""
        ordered, scores = list(keys), {}
        for start in range(0, len(ordered), KEYS):
            part = ordered[start : start + KEYS]
            marks = ",".join("?" * len(part))
            scores |= dict(self.scores_file.execute(f"SELECT pair, score FROM scores WHERE pair IN ({marks})", part))
        return scores

    def _score(
        self, contexts: Sequence[str], texts: Sequence[str], missing: Sequence[dict[bytes, int]]
    ) -> dict[bytes, float]:
        """Score pairs, write their scores to the file, and return them by key.

        Args:
            contexts: B contexts.
            texts: N candidates.
            missing: for each context the candidates to score, as key of the pair -> number of the candidate.
        """
        asked = [(context, own) for context, own in zip(contexts, missing, strict=True) if own]
        numbers = sorted({number for _, own in asked for number in own.values()})
        place = {number: row for row, number in enumerate(numbers)}
        ranker = self.model.ranker
        encoded = ranker.encode_ids(self.model.candidate_ids([texts[number] for number in numbers]))
        index = padded_index([[place[number] for number in own.values()] for _, own in asked])
        lines = ranker.score_ids(self.model.context_ids([context for context, _ in asked]), encoded, index).tolist()
        scores: dict[bytes, float] = {}
        for (_, own), line in zip(asked, lines, strict=True):
            scores |= dict(zip(own, line[: len(own)], strict=True))
        with self.scores_file:
            self.scores_file.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", scores.items())
        return scores


def open_scores(path: str, fingerprint: str) -> sqlite3.Connection:
    """Open a file of scores. It is emptied if it is damaged, or if its scores have another fingerprint."""
    try:
        return _open(path, fingerprint)
    except sqlite3.DatabaseError:
        Path(path).unlink(missing_ok=True)
        return _open(path, fingerprint)


def _open(path: str, fingerprint: str) -> sqlite3.Connection:
    file = sqlite3.connect(path, timeout=60)
    with file:
        file.execute("CREATE TABLE IF NOT EXISTS made_by (fingerprint TEXT)")
        file.execute("CREATE TABLE IF NOT EXISTS scores (pair BLOB PRIMARY KEY, score REAL) WITHOUT ROWID")
        if file.execute("SELECT fingerprint FROM made_by").fetchall() != [(fingerprint,)]:
            file.execute("DELETE FROM scores")
            file.execute("DELETE FROM made_by")
            file.execute("INSERT INTO made_by VALUES (?)", [fingerprint])
    return file
