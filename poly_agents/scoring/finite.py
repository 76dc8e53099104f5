"""Refuse scores that are not finite numbers: they cannot be put in an order."""

from torch import Tensor, nn

from poly_agents.errors import InputError

TOO_LARGE = (
    "scores are not finite although the weights are: numbers in between became too large; load the model in another "
    "precision (precision='float32', --precision float32), or train again with a smaller --lr"
)


def check_finite(scores: Tensor, model: nn.Module, real: Tensor | None = None, otherwise: str = TOO_LARGE) -> None:
    """Raise ValueError, which names the cause, if a score is infinite or not a number.

    Args:
        scores: [B, C].
        model: what computed them.
        real: True for scores that count, [G, C]. None: all do.
        otherwise: the cause if the weights are finite.
    """
    finite = scores.isfinite() if real is None else scores.isfinite() | ~real
    if finite.all():
        return
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise InputError(
                f"the weights of this model are damaged: {name} has numbers that are not finite, and so have its "
                "scores; its training diverged, so take an earlier checkpoint, or train again with a smaller --lr"
            )
    raise InputError(otherwise)
