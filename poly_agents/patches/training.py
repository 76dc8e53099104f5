"""Patches of ParlAI's training."""


def patch_plateau(lr_scheduler) -> None:
    """Drop the argument `verbose` of `ReduceLROnPlateau`, which torch 2.7 removed and ParlAI still passes.

    `parlai.nn.lr_scheduler` gets a view of `torch.optim` that ignores it. This patch can go when ParlAI drops it.
    """
    from types import SimpleNamespace

    optim = lr_scheduler.optim

    def plateau(*args, verbose=None, **kwargs):
        return optim.lr_scheduler.ReduceLROnPlateau(*args, **kwargs)

    schedulers = SimpleNamespace(**{**vars(optim.lr_scheduler), "ReduceLROnPlateau": plateau})
    lr_scheduler.optim = SimpleNamespace(**{**vars(optim), "lr_scheduler": schedulers})
