"""Patches of how ParlAI reads files: nothing that a file says runs as code."""

import pickle


def patch_load(opt) -> None:
    """Read options as plain JSON, and let `torch.load` read ParlAI's checkpoints with its check switched on.

    ParlAI unpickles an `.opt` that is not UTF-8, and imports what its options name (`files/option_files.py`). torch 2.6
    refuses everything but tensors, and ParlAI's checkpoints also hold options and counters. This patch can go when
    ParlAI reads JSON alone and names what its checkpoints hold.
    """
    import torch

    from poly_agents.files import option_files

    def load(cls, optfile):
        options = option_files.read(optfile)
        for key in opt.__AUTOCLEAN_KEYS__:
            options.pop(key, None)
        return cls(options)

    opt.Opt.load = classmethod(load)
    torch.serialization.add_safe_globals([opt.Opt, *numpy_globals()])


def patch_pickle(unpickling) -> None:
    """Have ParlAI's agents unpickle only what checkpoints are made of: tensors, plain values, options.

    With a pickle module of one's own, as ParlAI gives one, `torch.load` checks nothing. This patch can go when ParlAI
    loads with `weights_only`.
    """

    class Unpickler(unpickling.Unpickler):
        def find_class(self, module, name):
            if f"{module}.{name}" not in allowed_globals() and not module.startswith("apex."):
                raise pickle.UnpicklingError(
                    f"the file carries {module}.{name}, and only tensors and plain options are taken from it"
                )
            return super().find_class(module, name)

    unpickling.Unpickler = Unpickler


def allowed_globals() -> set[str]:
    """Return the full names of what may be unpickled: what torch allows, numpy's scalars, ParlAI's options."""
    from torch._weights_only_unpickler import _get_allowed_globals, _get_user_allowed_globals

    options = {"parlai.core.opt.Opt", "parlai.core.utils.Opt", "parlai.utils.misc.Opt", "collections.Counter"}
    return {*_get_allowed_globals(), *_get_user_allowed_globals()} | options


def numpy_globals() -> list:
    """Return what unpickling a numpy scalar needs, for `torch.serialization.safe_globals`."""
    import numpy

    scalar = numpy.float64(0).__reduce__()[0]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # before numpy 2, and since
    dtypes = [type(numpy.dtype(name)) for name in ("float64", "float32", "int64")]
    return [*names, numpy.dtype, *dtypes]
