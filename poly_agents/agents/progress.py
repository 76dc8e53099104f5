"""Show how training goes on."""

from tqdm import tqdm


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
