"""Patches for ParlAI 1.7.2, which does not run as released on current torch, or without a GPU.

Each patch says when it can go. A module of ParlAI is patched once, right after its import: by the import hook in
`poly_agents.plugin`, or by `poly_agents.agents` where the hook is switched off. Nothing heavy is imported here.
"""


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

    import pickle

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


def patch_distributed(distributed) -> None:
    """Run ParlAI's process groups over gloo where there is no GPU. ParlAI itself always takes NCCL.

    This patch can go when ParlAI chooses the backend by the machine.
    """
    import builtins
    import copy
    from contextlib import contextmanager

    import torch

    if torch.cuda.is_available():
        return
    dist = torch.distributed

    def all_gather_list(data):
        found = [data]
        if distributed.is_distributed():
            found *= dist.get_world_size()
            dist.all_gather_object(found, data)
        return found

    @contextmanager
    def distributed_context(rank, opt, rank_offset=0, gpu=None, init_method="tcp://localhost:61337"):
        from poly_agents import process_group

        rank += rank_offset
        opt = copy.deepcopy(opt)
        opt.update(rank=rank, gpu=-1)
        opt["override"] = {**opt.get("override", {}), "gpu": -1}
        prefix = f"rank:{rank:3d} |" if rank or opt.get("verbose") else None
        own_print = builtins.print
        try:
            with (
                distributed.override_print(bool(rank) and not opt.get("verbose"), prefix),
                process_group.joined("gloo", init_method, opt["distributed_world_size"], rank),
            ):
                torch.manual_seed(42)  # as ParlAI does
                yield opt
        finally:
            builtins.print = own_print  # `override_print` forgets this when an exception passes through it

    distributed.all_gather_list = all_gather_list
    distributed.distributed_context = distributed_context


def patch_join(fsdp) -> None:
    """Without a GPU the processes' loops end together on the CPU. It can go with `patch_distributed`."""
    import torch

    if not torch.cuda.is_available():
        fsdp.JoinableTrainLoop.join_device = fsdp.JoinableEvaluator.join_device = torch.device("cpu")


def patch_training(script) -> None:
    """Make `parlai multiprocessing_train` end with an error when one of its processes dies."""
    script.launch_and_train = launcher(script.multiprocess_train, script.launch_and_train)


def patch_evaluation(script) -> None:
    """Make `parlai multiprocessing_eval` end with an error when one of its processes dies."""
    script.launch_and_eval = launcher(script.multiprocess_eval, script.launch_and_eval)


def launcher(run, launch_of_parlai):
    """Return a function that starts `run` in several processes and watches them.

    ParlAI's own one waits for a dead process until torch gives up after half an hour, and picks a port that another
    program can take before it is used. It stays in place where there is a GPU: NCCL has watchdogs of its own.
    """

    def launch(opt, port=None):
        from functools import partial

        import torch

        from poly_agents import process_group

        if torch.cuda.is_available():
            return launch_of_parlai(opt, port)
        return process_group.launch(partial(run, opt=opt), opt["distributed_world_size"], opt.get("port"))

    return launch


def patch_display(misc) -> None:
    """Spell out control characters in the messages that ParlAI prints. It can go when ParlAI does so itself."""
    from poly_agents.text.printable import printable

    colorize = misc.colorize
    misc.colorize = lambda text, style: colorize(printable(str(text)), style)


def patch_logging(logging) -> None:
    """Spell out control characters in log lines. It can go with `patch_display`."""
    from poly_agents.text.printable import printable

    def spell_out(record) -> bool:
        record.msg, record.args = printable(record.getMessage()), ()
        return True

    logging.logger.addFilter(spell_out)


PATCHES = {
    "parlai.nn.lr_scheduler": patch_plateau,
    "parlai.core.opt": patch_load,
    "parlai.utils.pickle": patch_pickle,
    "parlai.utils.misc": patch_display,
    "parlai.utils.logging": patch_logging,
    "parlai.utils.distributed": patch_distributed,
    "parlai.utils.fsdp": patch_join,
    "parlai.scripts.multiprocessing_train": patch_training,
    "parlai.scripts.multiprocessing_eval": patch_evaluation,
}


def apply(module) -> None:
    """Patch a module of ParlAI, unless that was done before."""
    if not getattr(module, "patched_by_poly_agents", False):
        PATCHES[module.__name__](module)
        module.patched_by_poly_agents = True
