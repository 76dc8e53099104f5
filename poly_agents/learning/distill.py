"""A trained model as the teacher of another. Its scores are kept on disk: a pair is never scored twice."""

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from poly_agents.models.textranker import TextRanker

ASKED = 500  # keys in one query


class Teacher:
    """A frozen model of any ranker whose score of a pair does not depend on the other candidates.

    The scores are in `MODEL_FILE.scores`, an SQLite file that several students can share. It carries the model's
    fingerprint; scores of other weights are thrown away.
    """

    def __init__(self, model_file: str):
        self.model = TextRanker.load(model_file)
        if self.model.ranker.depends_on_pool:
            raise ValueError(
                f"--teacher-model {model_file}: its scores depend on the other candidates, so there is nothing to keep "
                "of a pair; teach with cross, bi, poly, mix, late or ed2lm"
            )
        self.scores_file = open_scores(f"{model_file}.scores", f"{self.model.maker} {self.model.text_truncate}")

    def scores(self, contexts: Sequence[str], texts: Sequence[str], index: Tensor | None) -> Tensor:
        """Scores [B, C] of contexts against candidates: all N `texts`, or those of `index` [B, C]; 0 where it is -1."""
        rows = [list(range(len(texts)))] * len(contexts) if index is None else index.tolist()
        pairs = [[(c, texts[n]) if n >= 0 else None for n in row] for c, row in zip(contexts, rows, strict=True)]
        keys = [[key(*pair) if pair else b"" for pair in line] for line in pairs]
        known = {b"": 0.0} | self._known({k for row in keys for k in row})
        lacking = [
            {k: n for k, n in zip(keys[b], rows[b], strict=True) if k not in known} for b in range(len(contexts))
        ]
        if any(lacking):
            known |= self._score(contexts, texts, lacking)
        return torch.tensor([[known[k] for k in row] for row in keys])

    def _known(self, keys: set[bytes]) -> dict[bytes, float]:
        keys = list(keys)
        found: dict[bytes, float] = {}
        for start in range(0, len(keys), ASKED):
            part = keys[start : start + ASKED]
            places = ",".join("?" * len(part))
            found |= dict(self.scores_file.execute(f"SELECT pair, score FROM scores WHERE pair IN ({places})", part))
        return found

    def _score(self, contexts, texts, lacking: list[dict[bytes, int]]) -> dict[bytes, float]:
        """Score what is lacking, and keep it."""
        asked = [(context, row) for context, row in zip(contexts, lacking, strict=True) if row]
        numbers = sorted({n for _, row in asked for n in row.values()})
        place = {n: column for column, n in enumerate(numbers)}
        kept = self.model.ranker.encode_ids(self.model.candidate_ids([texts[n] for n in numbers]))
        index = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor([place[n] for n in row.values()]) for _, row in asked], batch_first=True, padding_value=-1
        )
        scores = self.model.ranker.score_ids(self.model.context_ids([context for context, _ in asked]), kept, index)
        found = {
            k: value
            for (_, row), line in zip(asked, scores.tolist(), strict=True)
            for k, value in zip(row, line, strict=False)
        }
        with self.scores_file:
            self.scores_file.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", found.items())
        return found


def key(context: str, candidate: str) -> bytes:
    """16 bytes that stand for a pair of texts."""
    digest = hashlib.blake2b(context.encode(), digest_size=8).digest()
    return digest + hashlib.blake2b(candidate.encode(), digest_size=8).digest()


def open_scores(path: str, fingerprint: str) -> sqlite3.Connection:
    """The scores of this fingerprint; a file of another one, or a damaged one, is emptied."""
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
