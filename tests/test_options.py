"""Options out of their range are refused before the first step, with the flag, the range and what was given."""

import dataclasses

import pytest
from parlai.scripts.train_model import TrainModel

from poly_agents.agents.arguments import ENDS, NUMBERS, check_numbers
from poly_agents.agents.cascade import CascadeOptions
from poly_agents.agents.report import EvaluationOptions
from poly_agents.candidates.search import SearchOptions
from poly_agents.errors import InputError
from poly_agents.learning.training import TrainingOptions
from poly_agents.options import flag
from tests.rankers import all_rankers

KINDS = [*(kind.Options for kind in all_rankers().values()), TrainingOptions, SearchOptions, CascadeOptions]
NEEDED = {CascadeOptions: {"retriever": "a", "reranker": "b"}}
ANY_NUMBER = ("hard_negatives_margin",)


def numbers(kind) -> list[tuple[str, type]]:
    """Return the names and types of the options that are numbers."""
    found = []
    for field in dataclasses.fields(kind):
        value = field.metadata["fallback"] if field.default is None else field.default
        if isinstance(value, int | float) and not isinstance(value, bool):
            found.append((field.name, type(value)))
    return found


@pytest.mark.parametrize("kind", [*KINDS, EvaluationOptions])
def test_no_number_is_infinite_and_few_are_negative(kind):
    for name, of in numbers(kind):
        for value in (of(-5), float("nan"), float("inf"), -float("inf")):
            if value != -5 or name not in ANY_NUMBER:
                with pytest.raises(InputError, match=f"{flag(name)} must be .*, got {value}"):
                    kind.of(NEEDED.get(kind, {}) | {name: value})


@pytest.mark.parametrize("kind", list(all_rankers().values()))
def test_no_ranker_takes_a_number_that_would_fill_the_memory(kind):
    for name, of in numbers(kind.Options):
        with pytest.raises(InputError, match=f"{flag(name)} must be "):
            kind.Options.of({name: of(10**9)})


@pytest.mark.parametrize(
    "given, message",
    [
        ({"backbone": ""}, "there is no backbone ''"),
        ({"dropout": 2.0}, "--dropout must be at least 0 and below 1, got 2.0"),
        ({"poly_codes": 0}, "--poly-codes must be at least 1, got 0"),
        ({"batchsize": 0}, "--batchsize must be at least 1, got 0"),
        ({"eval_batchsize": 0}, "--eval-batchsize must be at least 1, got 0"),
        ({"label_truncate": -3}, "--label-truncate must be at least 1, got -3"),
        ({"max_train_steps": 0}, "--max-train-steps must be above 0, got 0; leave it out"),
        ({"num_epochs": -1.0}, "--num-epochs must be above 0, got -1"),
        ({"max_train_time": float("nan")}, "--max-train-time must be a finite number, got nan"),
        ({"gradient_clip": -0.5}, "--gradient-clip must be at least 0, or -1, got -0.5"),
        ({"validation_every_n_epochs": float("nan")}, "--validation-every-n-epochs must be a finite number"),
    ],
)
def test_a_training_run_is_refused_before_it_begins(options, tiny, given, message):
    kept = options | {"backbone": tiny} | given
    with pytest.raises(InputError, match=message):
        TrainModel.main(model="poly_agents/poly", **kept)


def test_every_number_of_parlai_that_is_checked_is_one_of_its_options(options, tiny):
    from parlai.agents.poly_agents.poly import PolyAgent
    from parlai.scripts import eval_model, multiprocessing_train

    known = set()
    for setup in (eval_model.setup_args, multiprocessing_train.setup_args):
        parser = setup()
        PolyAgent.add_cmdline_args(parser, None)
        known |= {action.dest for action in parser._actions}
    assert {*NUMBERS, *ENDS} <= known


def test_the_defaults_of_parlai_pass():
    check_numbers({"num_epochs": -1, "max_train_steps": -1, "gradient_clip": -1, "validation_cutoff": float("inf")})
