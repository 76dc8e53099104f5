"""Patches of ParlAI's training: a run that is stopped is saved first, and its counters are saved with the weights."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
COUNTERS = ("parleys", "train_steps", "best_valid", "impatience")  # attributes of ParlAI's training loop


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


class Stopped(BaseException):
    """A signal asks a training run to end."""

    def __init__(self, number: int):
        self.number = number


class StopSignal:
    """Notes the first SIGINT or SIGTERM. A second one ends the process at once."""

    def __init__(self, stop_at_once: bool):
        self.number = 0
        self.stop_at_once = stop_at_once  # in an evaluation; only where no other process waits for this one
        self.evaluates = False

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note signals inside."""
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        self.number = number
        for known in SIGNALS:
            signal.signal(known, signal.SIG_DFL)
        if self.evaluates and self.stop_at_once:
            raise Stopped(number)


def patch_loop(script) -> None:
    """Save a run that SIGINT, SIGTERM or a closed pipe ends, and save the loop's counters in the checkpoint itself.

    ParlAI saves its counters in a file of their own after the weights, so a kill in between leaves two files of
    different times. It ends without saving when it is told to end. This patch can go when ParlAI does both.
    """
    loop = script.TrainLoop
    own_steps, own_time, own_save = loop.train_steps, loop._get_time, loop.save_model
    own_evaluation = loop._run_single_eval

    def train_steps(self):
        if self.best_valid is not None and os.path.isfile(self.opt.get("model_file") or ""):
            self.saved = True  # or ParlAI writes the last weights over the best ones that were saved before it resumed
        self.stop = StopSignal(stop_at_once=not script.is_distributed())
        try:
            with self.stop.watch():
                yield from own_steps(self)
        except Stopped as stopped:
            self.save_model(".checkpoint")
            end(stopped.number, self.opt.get("model_file"), script.is_primary_worker())
        except BrokenPipeError:
            self.save_model(".checkpoint")
            raise

    def _get_time(self, world):  # ParlAI calls it after every batch, when all its other counters are up to date
        times = own_time(self, world)
        number = max(script.all_gather_list(self.stop.number))
        if number and self.parleys % self.update_freq == 0:
            raise Stopped(number)
        return times

    def save_model(self, suffix=None):
        self.agent.train_stats = train_stats(self)
        own_save(self, suffix)

    def _run_single_eval(self, *args, **kwargs):
        stop = getattr(self, "stop", None) or StopSignal(False)
        stop.evaluates = True
        try:
            return own_evaluation(self, *args, **kwargs)
        finally:
            stop.evaluates = False

    loop.train_steps, loop._get_time, loop.save_model = train_steps, _get_time, save_model
    loop._run_single_eval = _run_single_eval
    patch_evaluations(script)


def patch_evaluations(script) -> None:
    """Leave the final evaluation out if the test split cannot be read, and name the metrics if the chosen one is none.

    ParlAI ends in a traceback in both cases, after hours of training. This patch can go when it ends in a sentence.
    """
    loop = script.TrainLoop
    own_worlds, own_run, own_validation = script.load_eval_worlds, loop._run_eval, loop.validate

    def validate(self):
        try:
            return own_validation(self)
        except KeyError as error:
            metric = self.opt["validation_metric"]
            if error.args != (metric,):
                raise
            from poly_agents.errors import InputError

            self.save_model(".checkpoint")
            known = ", ".join(sorted(self.valid_reports[-1]))
            raise InputError(f"--validation-metric {metric} is not measured; there are: {known}") from error

    def load_eval_worlds(agent, opt, datatype):
        if datatype != "test":
            return own_worlds(agent, opt, datatype)
        try:
            worlds = own_worlds(agent, opt, datatype)
            for world in worlds:
                world.num_examples()  # a stream is read for it
            return worlds
        except (OSError, ValueError, RuntimeError) as error:
            script.logging.warning(f"the final evaluation on test is left out: {error}")
            return []

    def _run_eval(self, worlds, *args, **kwargs):
        return own_run(self, worlds, *args, **kwargs) if worlds else {}

    script.load_eval_worlds = load_eval_worlds
    loop._run_eval, loop.validate = _run_eval, validate


def train_stats(loop) -> dict[str, Any]:
    """Return the counters of ParlAI's training loop, by the names they have in its `.trainstats`."""
    counters = {name: getattr(loop, name.replace("train_steps", "_train_steps")) for name in COUNTERS}
    epochs, time = getattr(loop, "_total_epochs", 0.0), loop.train_time.time()
    return counters | {"total_epochs": epochs, "train_time": time, "valid_reports": loop.valid_reports[-1:]}


def end(number: int, model_file: str | None, says_so: bool) -> None:
    """End a run that a signal stopped, with the exit code of the signal; the first process says so."""
    name, where = signal.Signals(number).name, f"{model_file}.checkpoint"
    done = f"the run is saved in {where}; the same command resumes it" if model_file else "nothing is saved without -mf"
    if not says_so:
        raise SystemExit(0)
    if number == signal.SIGINT:
        raise KeyboardInterrupt(f"ended by {name}: {done}")
    print(f"ended by {name}: {done}", file=sys.stderr)
    raise SystemExit(128 + number)
