"""Score with a trained model as the teacher of another one. Its scores are kept on disk, so no pair is scored twice."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poly_agents import zoo
from poly_agents.encoders.states import padded_index
from poly_agents.errors import InputError
from poly_agents.files.atomic import check_replaceable, locked
from poly_agents.files.digests import text_digest
from poly_agents.models.textranker import TextRanker

KEYS = 500  # keys in one query


class Teacher:
    """A frozen model whose scores a student learns.

    The scores are in `MODEL.scores`, a file that several students can share.

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
        share = f" {self.model.persona_share}" if self.model.persona_share else ""  # earlier versions had none
        made_by = f"{self.model.fingerprint} {self.model.text_truncate}{share}"
        self.scores_file = ScoresFile(f"{model_file}.scores", made_by)

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
        known = self.scores_file.read({key for row in keys for key in row if key})
        missing = [
            {key: number for key, number in zip(*pair, strict=True) if key and key not in known}
            for pair in zip(keys, rows, strict=True)
        ]
        if any(missing):
            known |= self._score(contexts, texts, missing)
        return torch.tensor([[known[key] if key else 0.0 for key in row] for row in keys])

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
        self.scores_file.write(scores)
        return scores


class ScoresFile:
    """Scores of pairs in an SQLite file that several processes share.

    The file holds a fingerprint of what made the scores, and those of another one are deleted. A damaged file is
    started again.
    """

    def __init__(self, path: str, fingerprint: str):
        """Open the file, or make it. Raises ValueError if that cannot be done."""
        self.path, self.fingerprint = Path(path), fingerprint
        check_replaceable(self.path)
        self.inode = self._inode()
        self.file: sqlite3.Connection | None = None
        self._run(lambda: None)

    def read(self, keys: set[bytes]) -> dict[bytes, float]:
        """Return the scores that are in the file, by the keys of their pairs."""
        return self._run(self._read, list(keys))

    def write(self, scores: Mapping[bytes, float]) -> None:
        """Write scores to the file, unless scores of another fingerprint are there by now."""
        self._run(self._write, list(scores.items()))

    def _run(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Open the file if it is not open, and do something with it. If it is damaged, start again with a new one."""
        try:
            try:
                self._open()
                return action(*arguments)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                self._remove()
                self._open()
                return action(*arguments)
        except sqlite3.Error as error:
            raise InputError(
                f"{self.path} cannot be used ({error}); the teacher's scores are kept there, so make room for them, or "
                "give a copy of the teacher in a folder that can be written"
            ) from error

    def _open(self) -> None:
        if self.file is not None:
            return
        file = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        file.execute("BEGIN IMMEDIATE")
        file.execute("CREATE TABLE IF NOT EXISTS made_by (fingerprint TEXT)")
        file.execute("CREATE TABLE IF NOT EXISTS scores (pair BLOB PRIMARY KEY, score REAL) WITHOUT ROWID")
        if file.execute("SELECT fingerprint FROM made_by").fetchall() != [(self.fingerprint,)]:
            file.execute("DELETE FROM scores")
            file.execute("DELETE FROM made_by")
            file.execute("INSERT INTO made_by VALUES (?)", [self.fingerprint])
        file.execute("COMMIT")
        self.file, self.inode = file, self._inode()

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        scores: dict[bytes, float] = {}
        for start in range(0, len(keys), KEYS):
            part = keys[start : start + KEYS]
            marks = ",".join("?" * len(part))
            scores |= dict(
                self.file.execute(
                    f"SELECT pair, score FROM scores WHERE pair IN ({marks}) "
                    "AND EXISTS (SELECT 1 FROM made_by WHERE fingerprint = ?)",
                    [*part, self.fingerprint],
                )
            )
        return scores

    def _write(self, scores: Sequence[tuple[bytes, float]]) -> None:
        with self.file:
            self.file.execute("BEGIN IMMEDIATE")
            self.file.executemany(
                "INSERT OR REPLACE INTO scores SELECT ?, ? WHERE EXISTS (SELECT 1 FROM made_by WHERE fingerprint = ?)",
                [(*pair, self.fingerprint) for pair in scores],
            )

    def _remove(self) -> None:
        """Remove a damaged file, unless another process has put a new one there."""
        if self.file is not None:
            self.file.close()
            self.file = None
        with locked(self.path.with_name(f".{self.path.name}.lock"), self.path):
            if self._inode() == self.inode:
                for path in (self.path, Path(f"{self.path}-journal")):  # of a transaction that was killed
                    path.unlink(missing_ok=True)

    def _inode(self) -> int | None:
        return self.path.stat().st_ino if self.path.exists() else None
