"""Compute the learning rate from the number of the update alone: linear warm-up, then linear decay to zero."""

import math
from collections.abc import Callable
from typing import Any

import torch

WARM_UP = 0.1  # share of all updates
OPEN_WARM_UP = 100  # updates, if the number of all updates is not known


def total_updates(max_steps: int, epochs: float, examples: Callable[[], int], update_size: int) -> int | None:
    """Compute how many updates a run makes.

    Args:
        max_steps: the limit of updates. It comes first. 0 or less: there is none.
        epochs: the limit of epochs. 0 or less: there is none.
        examples: counts the examples of an epoch. It is called only if the epochs decide.
        update_size: examples of one update, over all processes.

    Returns:
        The number of updates, or None if there is neither limit.

    >>> total_updates(-1, 1.5, lambda: 100, 32)
    5
    >>> total_updates(7, 1.5, lambda: 100, 32)
    7
    """
    if max_steps > 0:
        return max_steps
    if epochs > 0:
        return max(1, math.ceil(epochs * examples() / update_size))
    return None


class WarmupLinear:
    """A learning-rate scheduler with the methods that ParlAI calls. Its only state is the number of updates made."""

    def __init__(self, optimizer: torch.optim.Optimizer, total: int | None, warm_up: int | None, done: int):
        """Set the learning rate for the next update.

        Args:
            optimizer: the learning rates of its groups are the peak rates.
            total: number of updates of the run. None: not known, so the rate stays at its peak after the warm-up.
            warm_up: updates of the warm-up. None: a tenth of `total`, or 100 if `total` is not known.
            done: updates made before, in the run that is resumed.
        """
        self.optimizer = optimizer
        self.total = total
        self.warm_up = default_warm_up(total) if warm_up is None else warm_up
        self.peaks = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
        self.step(done)

    def factor(self, update: int) -> float:
        """Return the share of the peak rate after `update` updates were made."""
        if update < self.warm_up:
            return (update + 1) / self.warm_up
        if self.total is None:
            return 1.0
        return max(0.0, (self.total - update) / max(1, self.total - self.warm_up))

    def step(self, done: int) -> None:
        """Set the learning rate for the update after `done` updates."""
        self.done = done
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.factor(done)

    def get_last_lr(self) -> float:
        """Return the learning rate of the next update."""
        return self.optimizer.param_groups[0]["lr"]

    def get_initial_number_training_updates(self) -> int:
        """Return the number of updates made."""
        return self.done

    def valid_step(self, metrics: dict[str, Any]) -> None:
        """Ignore a validation: it does not change a linear schedule."""


def default_warm_up(total: int | None) -> int:
    """Return how many updates of a run are warm-up.

    >>> default_warm_up(500), default_warm_up(None)
    (50, 100)
    """
    return OPEN_WARM_UP if total is None else max(1, round(total * WARM_UP))
