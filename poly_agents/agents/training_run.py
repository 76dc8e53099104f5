"""Parts of a training run in ParlAI: candidates for each batch, the number of updates, a progress bar."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from parlai.core.metrics import AverageMetric
from parlai.utils import logging
from parlai.utils.distributed import num_workers
from parlai.utils.misc import warn_once
from tqdm import tqdm

from poly_agents import processes
from poly_agents.agents.candidate_source import CandidateSource
from poly_agents.candidates import pool as pools
from poly_agents.candidates.pool import Pool
from poly_agents.learning import schedule
from poly_agents.learning.negatives import HardNegatives, context_key, right_responses
from poly_agents.learning.schedule import WarmupLinear
from poly_agents.learning.training import TrainingOptions
from poly_agents.scoring.starts import cosines
from poly_agents.text.tokens import pad
from poly_agents.text.turns import ResponseExample


class TrainingCandidates:
    """The candidates of training batches: the same list in every process, with the columns of its own contexts."""

    def __init__(
        self,
        options: TrainingOptions,
        candidate_source: CandidateSource,
        model_file: str | None,
        examples: Callable[[], Iterable[ResponseExample]],
    ):
        """Prepare hard negatives, if they were asked for.

        Args:
            options: how many negatives, and of which kind.
            candidate_source: finds the candidates of a batch.
            model_file: mined negatives are kept next to it.
            examples: returns all training examples, for mining.
        """
        self.options, self.candidate_source = options, candidate_source
        self.hard_negatives = HardNegatives(options, model_file, examples) if options.hard_negatives else None

    def of(self, batch, source: str, update: int, epochs: float) -> Pool:
        """Return the candidates of a batch.

        Args:
            batch: as `RankerAgent.batchify` makes it.
            source: the value of `--candidates`.
            update: how many updates were made; the random negatives depend on it.
            epochs: how many epochs were trained; negatives are mined again now and then.
        """
        pool = self.candidate_source.of(batch, source, training=True)
        right = self._right(batch)
        if source == "batch" and self.options.negatives:
            pool = self._sampled(batch, pools.without_right(pool, right), update)
        elif processes.count() > 1 and source != "batch" and source not in self.candidate_source.pools:
            pool = pools.common(pool, processes.all_gather(pool))
        if self.hard_negatives:
            own = self._mined(batch, epochs)
            texts = [text for rows in processes.all_gather(own) for row in rows for text in row]
            pool = pools.add(pool, texts, self.candidate_source.model.candidate_ids(texts), own)
        return pools.without_right(pool, right)

    def _sampled(self, batch, pool: Pool, update: int) -> Pool:
        """Choose the negatives of each context among the responses of the batch."""
        options, hardness = self.options, None
        if options.negatives_by != "random":
            hardness = cosines(self.candidate_source.model.ranker, batch.tokens, pad(pool.ids)).cpu()
        seed = update * processes.count() + processes.rank()
        return pools.sample(pool, options.negatives, seed, hardness, options.negatives_by)

    @staticmethod
    def _right(batch) -> list[set[str]]:
        """Return the keys of the right responses of each context, from all examples of the batch that have it."""
        own = [(example.context, text) for example in batch.examples for text in example.right]
        right = right_responses(pair for part in processes.all_gather(own) for pair in part)
        return [right[context_key(example.context)] for example in batch.examples]

    def _mined(self, batch, epochs: float) -> list[list[str]]:
        """Return the hard negatives of each example."""
        pairs = [(example.context, label) for example, label in zip(batch.examples, batch.labels, strict=True)]
        mined = self.hard_negatives.of(pairs, epochs, self.candidate_source.model)
        if None in mined:
            warn_once("some training examples are not in the file of hard negatives: they have none")
        return [row or [] for row in mined]


def counters(updates: int, examples_seen: dict[str, int], train_stats: dict[str, Any]) -> dict[str, Any]:
    """Return what a model file says of the training so far.

    Args:
        updates: how many were made.
        examples_seen: task -> how many of its examples this process has seen.
        train_stats: the counters of ParlAI's training loop.
    """
    seen = {task: count * num_workers() for task, count in examples_seen.items()}
    return {"number_training_updates": updates, "examples_seen": seen, "train_stats": train_stats}


def metrics(loss: Sequence[float], ranks: Sequence[float]) -> dict[str, list[AverageMetric]]:
    """Return ParlAI's metrics of B contexts from the loss of each and the rank of its label."""
    shares = {"mrr": [1 / rank for rank in ranks], "train_accuracy": [int(rank == 1) for rank in ranks]}
    values = {"mean_loss": loss, "rank": ranks} | shares
    return {name: AverageMetric.many(line) for name, line in values.items()}


def total_updates(opt, update_size: int, train_examples: Callable[[], int]) -> int | None:
    """Return how many updates a run will make, or None if its end is open. Warns of a limit of time beside it.

    Args:
        opt: ParlAI's options.
        update_size: examples of one update, in all processes.
        train_examples: counts the examples of an epoch. It is called only if the end depends on it.
    """
    steps, epochs = opt.get("max_train_steps", -1), opt.get("num_epochs", -1)
    total = schedule.total_updates(steps, epochs, train_examples, update_size)
    if total is not None and opt.get("max_train_time", -1) > 0:
        logging.warning(
            f"the learning rate rises and falls over {total} updates; a run that --max-train-time ends long before may "
            "see nothing but its beginning: give --max-train-steps, or leave out --num-epochs"
        )
    return total


def linear_schedule(opt, optimizer: torch.optim.Optimizer, total: int | None, done: int) -> WarmupLinear:
    """Make the learning rate's schedule.

    Args:
        opt: ParlAI's options.
        optimizer: whose learning rate it sets.
        total: how many updates the run will make, or None.
        done: how many were made.
    """
    warm_up = opt["warmup_updates"]
    return WarmupLinear(optimizer, total, None if warm_up < 0 else warm_up, done)


def warn_of_empty_optimizer() -> None:
    """Say that a run goes on without the state of its optimizer."""
    logging.warning(
        "the model has no optimizer next to it (a .checkpoint has one): the optimizer starts with an empty state"
    )


class ProgressBar:
    """A bar with loss, examples per second and time left, on a terminal. ParlAI's log lines say the same."""

    SMOOTHING = 0.05  # weight of the newest loss

    def __init__(self, total: int | None, done: int):
        """Make the bar. `total` and `done` are numbers of examples; total is None if the end is open."""
        self.bar = tqdm(total=total, initial=done, unit="ex", desc="train", disable=None)
        self.loss: float | None = None

    def update(self, examples: int, loss: float) -> None:
        """Count the examples of a step with their mean loss."""
        self.loss = loss if self.loss is None else self.loss + self.SMOOTHING * (loss - self.loss)
        self.bar.set_postfix(loss=f"{self.loss:.3f}", refresh=False)
        self.bar.update(examples)
