"""Notice that weights have changed, so that nothing is used that was made from earlier ones."""

from collections.abc import Iterable

import torch
from torch import Tensor

SAMPLE = 16  # values of each weight that are compared


@torch.no_grad()
def versions(weights: Iterable[Tensor]) -> tuple:
    """Return a value that is another one whenever some of the weights have changed.

    torch counts the changes of a tensor, but not those through `weight.data` or by a fused optimizer. So a few values
    of each weight are compared too: that finds every change of a whole weight.

    >>> weight = torch.ones(3)
    >>> before = versions([weight])
    >>> _ = weight.data.mul_(2)
    >>> versions([weight]) == before
    False
    """
    weights = [weight for weight in weights if not weight.is_meta and weight.numel()]
    some = [weight.as_strided((min(SAMPLE, n := weight.numel()),), (max(1, n // SAMPLE),)) for weight in weights]
    values = torch.cat(some).float().cpu().numpy().tobytes() if some else b""
    return values, *((weight.data_ptr(), weight._version) for weight in weights)
