"""Choose what each context of a training batch is trained against."""

from collections.abc import Callable, Iterable

from parlai.utils.misc import warn_once

from poly_agents import processes
from poly_agents.agents.candidates import Candidates
from poly_agents.candidates import pool as pools
from poly_agents.candidates.pool import Pool
from poly_agents.learning.negatives import HardNegatives
from poly_agents.learning.training import TrainingOptions
from poly_agents.text.turns import Turn


class TrainingCandidates:
    """The candidates of training batches: the same list in every process, with the columns of its own contexts."""

    def __init__(
        self,
        options: TrainingOptions,
        candidates: Candidates,
        model_file: str | None,
        turns: Callable[[], Iterable[Turn]],
    ):
        """Prepare hard negatives, if they were asked for.

        Args:
            options: how many negatives, and of which kind.
            candidates: finds those of a batch.
            model_file: mined negatives are kept beside it.
            turns: returns all training examples, for mining.
        """
        self.options, self.candidates = options, candidates
        self.hard_negatives = HardNegatives(options, model_file, turns) if options.hard_negatives else None

    def of(self, batch, source: str, update: int, epochs: float) -> Pool:
        """Return the candidates of a batch.

        Args:
            batch: as `RankerAgent.batchify` makes it.
            source: the value of `--candidates`.
            update: how many updates were made; the random negatives depend on it.
            epochs: how many epochs were trained; negatives are mined again now and then.
        """
        pool = self.candidates.of(batch, source, training=True)
        if source == "batch" and self.options.negatives:
            pool = pools.sample(pool, self.options.negatives, update * processes.count() + processes.rank())
        elif processes.count() > 1 and source != "batch" and source not in self.candidates.pools:
            pool = pools.common(pool, processes.all_gather(pool))
        if self.hard_negatives:
            own = self._mined(batch, epochs)
            texts = [text for rows in processes.all_gather(own) for row in rows for text in row]
            pool = pools.add(pool, texts, self.candidates.model.candidate_ids(texts), own)
        return pool

    def _mined(self, batch, epochs: float) -> list[list[str]]:
        """Return the hard negatives of each example."""
        pairs = [(example.context, label) for example, label in zip(batch.examples, batch.labels, strict=True)]
        mined = self.hard_negatives.of(pairs, epochs, self.candidates.model)
        if None in mined:
            warn_once("some training examples are not in the file of hard negatives: they have none")
        return [row or [] for row in mined]
