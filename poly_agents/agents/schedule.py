"""Count the updates that a run of ParlAI will make, for the learning rate to fall to zero by the last one."""

from collections.abc import Callable

from parlai.utils import logging

from poly_agents.learning import schedule


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
