"""Patches of ParlAI's distributed runs: they work without a GPU, and end when one of their processes dies."""


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
    """Let the processes end their loops together on the CPU where there is no GPU. It goes with `patch_distributed`."""
    import torch

    if not torch.cuda.is_available():
        fsdp.JoinableTrainLoop.join_device = fsdp.JoinableEvaluator.join_device = torch.device("cpu")


def patch_training(script) -> None:
    """Make `parlai multiprocessing_train` end with an error when one of its processes dies, and with no traceback more.

    ParlAI's own `multiprocess_train` logs one for every error, which is raised as well. This patch can go when it does
    not, and when ParlAI watches the processes that it starts (`launcher`).
    """

    def multiprocess_train(rank, opt, port):
        address = f"tcp://localhost:{port}"
        with script.distributed_utils.distributed_context(rank, opt, init_method=address) as opt:
            opt["multiprocessing"] = True
            loop = script.fsdp_utils.JoinableTrainLoop(opt)
            with script.fsdp_utils.fsdp_join(loop):
                return loop.train()

    launch = launcher(multiprocess_train, script.launch_and_train)
    multiprocess_train.__module__, multiprocess_train.__qualname__ = script.__name__, "multiprocess_train"
    script.multiprocess_train, script.launch_and_train = multiprocess_train, launch  # workers import it by this name


def patch_evaluation(script) -> None:
    """Make `parlai multiprocessing_eval` end with an error when one of its processes dies. It goes with `launcher`."""
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
