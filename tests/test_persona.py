"""Persona lines stay when a context is too long: in training, evaluation, chats and plain Python alike."""

import json

import pytest
from parlai.core.agents import create_agent
from parlai.core.params import ParlaiParser
from parlai.scripts.train_model import TrainModel

import poly_agents
from poly_agents.errors import InputError
from poly_agents.files import checkpoint
from poly_agents.text.truncation import cut_context, persona_lines
from tests.agents import text

PERSONA = ["your persona: hello hi", "partner's persona: my cat"]
TURNS = [text(number) for number in range(17)]
CONTEXT = "\n".join([*PERSONA, *TURNS])


def test_persona_lines_are_those_at_the_head():
    assert persona_lines(CONTEXT) == 2
    assert persona_lines("hi\nyour persona: hello") == 0 and persona_lines("") == 0


@pytest.mark.parametrize(
    "ids, personas, limit, share, kept",
    [
        ([7, 0, 8, 0, 1, 2], 2, 9, 0.5, [7, 0, 8, 0, 1, 2]),  # short enough
        ([7, 0, 8, 0, 1, 2, 3, 4], 2, 6, 0.5, [7, 0, 1, 2, 3, 4]),  # one line fits in the share
        ([7, 0, 8, 0, 1, 2, 3, 4], 2, 6, 1.0, [7, 0, 8, 0, 3, 4]),
        ([7, 0, 8, 0, 1, 2, 3, 4], 2, 6, 0.0, [8, 0, 1, 2, 3, 4]),  # the way of earlier versions
        ([7, 7, 7, 7, 0, 1, 2, 3, 4], 1, 4, 0.5, [1, 2, 3, 4]),  # a line too long for the share goes whole
        ([7, 0, 8, 0, 9, 0, 1], 3, 6, 0.2, [7, 0, 8, 0, 0, 1]),  # turns that need less leave their room
        ([7, 7, 0, 8, 8], 2, 4, 0.5, [7, 7, 0, 8]),  # nothing was said yet
        ([1, 2, 3], 0, 2, 0.5, [2, 3]),
    ],
)
def test_the_oldest_turns_go_first(ids, personas, limit, share, kept):
    assert cut_context(ids, personas, 0, limit, share) == kept


@pytest.fixture
def model_file(options, tiny, tmp_path) -> str:
    rows = [{"context": [*PERSONA, *TURNS], "response": text(number)} for number in range(11)]
    path = tmp_path / "personas.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    given = options | {"backbone": tiny, "jsonl_path": str(path), "validation_every_n_epochs": -1}
    TrainModel.main(model="poly_agents/poly", max_train_steps=1, **given)
    return options["model_file"]


def ids_of(model_file: str, **changes) -> list[int]:
    """Return the ids that an agent makes of the context."""
    chat = {"interactive_mode": changes.pop("interactive_mode", False)}
    given = {"model_file": model_file, "task": "poly_agents:jsonl", "datatype": "valid"} | changes
    agent = create_agent(ParlaiParser(True, True).parse_kwargs(**given) | chat)
    return agent.observe({"text": CONTEXT, "labels": ["hi"], "episode_done": True})["text_vec"]


def test_training_evaluation_chats_and_python_cut_alike(model_file, pool_file):
    model = poly_agents.load(model_file)
    (expected,) = model.context_ids([CONTEXT])
    head = model.tokenizer.ids("\n".join(PERSONA))
    assert len(expected) == 31 and expected[: len(head)] == head
    assert ids_of(model_file) == expected
    assert ids_of(model_file, datatype="train") == expected
    assert ids_of(model_file, interactive_mode=True, fixed_candidates_path=pool_file) == expected
    assert ids_of(model_file, persona_share=0.0) == model.tokenizer.ids(CONTEXT)[-31:]
    assert checkpoint.read_header(model_file)["persona_share"] == 0.5


def test_a_model_of_before_keeps_its_way(model_file):
    saved = checkpoint.read(model_file)
    header = {name: value for name, value in saved.header.items() if name != "persona_share"}
    checkpoint.write(model_file, header, dict(saved.weights))
    with open(f"{model_file}.opt", encoding="utf-8") as file:
        opt = json.load(file)
    del opt["persona_share"]
    with open(f"{model_file}.opt", "w", encoding="utf-8") as file:
        json.dump(opt, file)
    model = poly_agents.load(model_file)
    old_way = model.tokenizer.ids(CONTEXT)[-31:]
    assert model.context_ids([CONTEXT]) == [old_way] and ids_of(model_file) == old_way


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_is_from_0_to_1(tiny, options, share):
    with pytest.raises(InputError, match="--persona-share must be from 0 to 1, got"):
        poly_agents.start("bi", backbone=tiny, persona_share=share)
    with pytest.raises(InputError, match="--persona-share must be from 0 to 1, got"):
        TrainModel.main(model="poly_agents/poly", **options | {"backbone": tiny, "persona_share": share})
