"""A chat does not give back what was said: neither the same text, nor near copies, nor what its model takes for it."""

import doctest

import pytest
import torch
from parlai.core.agents import create_agent_from_model_file
from parlai.core.message import Message

import poly_agents
from poly_agents.agents import repeats
from poly_agents.agents.repeats import Said, said_in
from poly_agents.agents.report import RankedExample


@pytest.fixture(scope="module")
def minilm():
    return poly_agents.start("bi")


def test_copies_differ_in_case_spaces_punctuation_and_a_few_words():
    said = Said("your persona: i have a cat\nhi, I am Anna.\nNice, what music do you like?")
    texts = ["what music do you like", "HI I AM ANNA!", "i have a cat", "nice", "I like music"]
    assert said.new(texts) == [2, 3, 4]
    assert Said("hi", near=False).new(["hi", "Hi!"]) == [1]


def test_something_is_left_in_any_case():
    assert Said("hi\nhello").new(["Hi!", "hello"]) == [0, 1]


def test_the_model_s_own_similarity_finds_what_says_the_same(minilm):
    texts = ["Do you have pets?", "yes, i have a cat", "I have two dogs", "hi!", "my name is Tom", "it is raining"]
    assert Said("do you have any pets?", model=minilm).new(texts) == [1, 2, 3, 4, 5]
    assert Said("do you have any pets?").new(texts) == [0, 1, 2, 3, 4, 5]


def test_a_question_with_a_few_other_words_says_the_same(minilm):
    texts = [
        "Oh definitely What kind of music do you like to listen to?",
        "What kind of music do you listen to?",
        "I like to listen to jazz",
        "What instrument do you play?",
        "What kind of sports do you like?",
        "So good! How are you?",
    ]
    said = Said("hi, how are you?\nnice, what kind of music do you like?\ni like to listen to rock", model=minilm)
    assert said.new(texts) == [2, 3, 4, 5]


def test_a_model_to_which_all_texts_are_alike_does_not_decide(minilm, monkeypatch):
    monkeypatch.setattr(repeats, "SIMILAR", -1.0)
    assert Said("do you have any pets?", model=minilm).new(["yes", "no"]) == [0, 1]


@pytest.mark.parametrize("name", ["cross", "late", "bi", "poly", "mix"])
def test_every_kind_of_ranker_is_asked_or_passed_over(trained, name):
    model = poly_agents.load(trained[name])
    assert Said("hello how", model=model).new(["Hello, how?", "my cat", "blue dog"])[-1] == 2


def test_it_is_on_in_chats_alone_unless_it_is_asked_for():
    examples = [RankedExample.of(Message(text="hi"), "hi")]

    def of(**opt):
        return said_in(examples, opt)

    assert of() is None and of(repeat_blocking=False, interactive_mode=True) is None
    assert of(interactive_mode=True) and of(repeat_blocking=True)
    assert of(interactive_mode=True, repeat_blocking_heuristic=False) is None
    assert said_in(examples, {}, fixed=True)[0].said == []  # ParlAI's own: the same text alone


def test_a_chat_answers_with_something_else(trained, tmp_path):
    path = tmp_path / "pool.txt"
    path.write_text("Hello, how are you?\nmy cat\nblue dog\n", encoding="utf-8")
    for blocks in (True, False):
        agent = create_agent_from_model_file(
            trained["bi"],
            {"interactive_mode": True, "fixed_candidates_path": str(path), "repeat_blocking": blocks},
        )
        agent.observe(Message(text="hello how are you", episode_done=False))
        assert ("Hello, how are you?" in agent.act()["text_candidates"]) is not blocks


def test_vectors_are_unit_vectors_or_none(trained, minilm):
    torch.testing.assert_close(repeats.vectors(minilm, ["hi", "no"]).norm(dim=-1), torch.ones(2))
    assert repeats.vectors(poly_agents.load(trained["late"]), ["hi"]) is None


def test_examples_in_the_documentation_hold():
    assert doctest.testmod(repeats).failed == 0
