"""How the bare `parlai` command finds poly_agents, and the places where ParlAI 1.7.2 has to be mended.

`poly_agents.pth` imports this module at every interpreter start, in spawned workers too, and calls `install`. ParlAI
looks for agents, tasks, worlds and commands only inside its own packages, so the finder below lets each of those
packages look in `poly_agents/_parlai/` as well. Nothing of ParlAI is edited, and neither ParlAI nor torch is imported
before somebody else imports it. `POLY_AGENTS_PLUGIN=0` switches the hook off; `-m poly_agents.poly:PolyAgent` then
still works.
"""

import importlib
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

ALIASES = "parlai.agents.poly_agents."
CHECKPOINTS = "parlai.zoo.poly_agents."
EXTENDED = ("parlai.agents", "parlai.tasks", "parlai.zoo", "parlai.scripts", "parlai.mutators")
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_parlai")


def mend_plateau(lr_scheduler) -> None:
    """torch 2.7 removed `ReduceLROnPlateau(verbose=...)`, which ParlAI's default scheduler still passes.

    Gives `parlai.nn.lr_scheduler` a view of `torch.optim` that drops the argument. It can go when ParlAI drops it.
    """
    from types import SimpleNamespace

    optim = lr_scheduler.optim

    def plateau(*args, verbose=None, **kwargs):
        return optim.lr_scheduler.ReduceLROnPlateau(*args, **kwargs)

    schedulers = SimpleNamespace(**{**vars(optim.lr_scheduler), "ReduceLROnPlateau": plateau})
    lr_scheduler.optim = SimpleNamespace(**{**vars(optim), "lr_scheduler": schedulers})


def mend_load(opt) -> None:
    """torch 2.6 made `torch.load` refuse everything but tensors; ParlAI's checkpoints also hold options and counters.

    Names what they hold, so that they load with the check still on. It can go when ParlAI does the same.
    """
    import numpy
    import torch

    scalar = numpy.float64(0).__reduce__()[0]
    dtypes = [type(numpy.dtype(t)) for t in ("float64", "float32", "int64")]
    torch.serialization.add_safe_globals([opt.Opt, scalar, numpy.dtype, *dtypes])


def mend_distributed(distributed) -> None:
    """ParlAI's distributed runs are tied to NCCL; without a GPU its processes meet through gloo instead.

    It can go when ParlAI takes the backend from the machine.
    """
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
        rank += rank_offset
        opt = copy.deepcopy(opt)
        opt.update(rank=rank, gpu=-1)
        opt["override"] = {**opt.get("override", {}), "gpu": -1}
        prefix = f"rank:{rank:3d} |" if rank or opt.get("verbose") else None
        with distributed.override_print(bool(rank) and not opt.get("verbose"), prefix):
            dist.init_process_group("gloo", init_method, world_size=opt["distributed_world_size"], rank=rank)
            torch.manual_seed(42)  # as ParlAI does
            try:
                yield opt
            finally:
                dist.destroy_process_group()

    distributed.all_gather_list = all_gather_list
    distributed.distributed_context = distributed_context


def mend_join(fsdp) -> None:
    """Without a GPU the processes' loops end together on the CPU. It can go with `mend_distributed`."""
    import torch

    if not torch.cuda.is_available():
        fsdp.JoinableTrainLoop.join_device = fsdp.JoinableEvaluator.join_device = torch.device("cpu")


MENDS = {
    "parlai.nn.lr_scheduler": mend_plateau,
    "parlai.core.opt": mend_load,
    "parlai.utils.distributed": mend_distributed,
    "parlai.utils.fsdp": mend_join,
}


def mend_once(module) -> None:
    """Apply the mend of a module of ParlAI, whoever comes first: the hook or `mend`."""
    if not getattr(module, "poly_agents_mended", False):
        MENDS[module.__name__](module)
        module.poly_agents_mended = True


class AliasLoader:
    """Loads `parlai.agents.poly_agents.NAME` as a view of `poly_agents.NAME`, so a new agent is one new file."""

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        real = importlib.import_module("poly_agents." + module.__name__.removeprefix(ALIASES))
        module.__dict__.update({k: v for k, v in vars(real).items() if not k.startswith("__")})


class CheckpointLoader:
    """Loads `parlai.zoo.poly_agents.NAME`, which ParlAI asks for `zoo:poly_agents/NAME/model`: it can only download."""

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        def download(datapath):
            from poly_agents import zoo
            from poly_agents.download import DownloadError

            name = module.__name__.removeprefix(CHECKPOINTS)
            if name == "build":  # what ParlAI makes of an address of two parts
                raise ValueError("a checkpoint is given as zoo:poly_agents/NAME/model; `parlai poly_zoo` lists them")
            if name.startswith("hub."):
                name = name.replace(".", "/", 2)  # a repository's name may have further dots
            try:
                zoo.fetch(name, datapath)
            except ImportError as error:  # ParlAI would take it for a name that is not known
                raise DownloadError(f"{name} cannot be made: {error}") from error

        module.download = download


class MendingLoader:
    """ParlAI's own loader, then the module's mend."""

    def __init__(self, loader):
        self.loader = loader

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def exec_module(self, module):
        self.loader.exec_module(module)
        mend_once(module)


class PluginFinder:
    """Lets ParlAI's packages look in our folder too, and mends some of its modules as they are imported."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if not name.startswith("parlai."):
            return None
        if name.startswith(ALIASES):
            return ModuleSpec(name, AliasLoader())
        if name.startswith(CHECKPOINTS):
            return ModuleSpec(name, CheckpointLoader(), is_package=True)  # a name with a dot is asked for part by part
        if name not in MENDS and name not in EXTENDED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        if name in MENDS:
            spec.loader = MendingLoader(spec.loader)
        elif os.path.isdir(folder := os.path.join(FOLDER, name.rpartition(".")[2])):
            spec.submodule_search_locations = [*spec.submodule_search_locations, folder]
        return spec


def install() -> None:
    """Put the finder first in line, once. Called by `poly_agents.pth`."""
    if os.environ.get("POLY_AGENTS_PLUGIN") != "0" and PluginFinder not in sys.meta_path:
        sys.meta_path.insert(0, PluginFinder)


def mend() -> None:
    """Mend what is already imported: for a ParlAI started with the hook switched off.

    Raises ImportError, with the command to type, where ParlAI is missing.
    """
    try:
        importlib.import_module("parlai.core.opt")
    except ImportError as error:
        raise ImportError(
            f"poly_agents needs ParlAI ({error}); type: pip install --no-deps parlai==1.7.2  "
            "(without --no-deps its old pins downgrade numpy)"
        ) from error
    for name in MENDS:
        mend_once(importlib.import_module(name))
