"""Linear warm-up, then linear decay to zero: the learning rate as a function of the update's number alone."""

import torch

WARM_UP = 0.1  # of all updates
OPEN_WARM_UP = 100  # updates, where nobody knows how many there will be


class WarmupLinear:
    """What ParlAI calls a scheduler. It keeps no state but the count, so a resumed run goes on where it was.

    `total` None is an open end (`--validation-patience` alone): warm-up, then constant.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, total: int | None, warm_up: int | None, done: int):
        self.optimizer = optimizer
        self.total = total
        self.warm_up = max(1, round(total * WARM_UP) if total else OPEN_WARM_UP) if warm_up is None else warm_up
        self.peaks = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
        self.step(done)

    def factor(self, update: int) -> float:
        """The share of the peak rate for the update after `update` are done."""
        if update < self.warm_up:
            return (update + 1) / self.warm_up
        if self.total is None:
            return 1.0
        return max(0.0, (self.total - update) / max(1, self.total - self.warm_up))

    def step(self, done: int) -> None:
        self.done = done
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.factor(done)

    def get_last_lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def get_initial_number_training_updates(self) -> int:
        return self.done

    def valid_step(self, metrics: dict) -> None:
        """Validation does not change a linear schedule."""
