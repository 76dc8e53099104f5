"""Marks of who speaks: the same in training, evaluation and chats."""

import builtins

import pytest
from parlai.scripts.interactive import Interactive
from parlai.scripts.self_chat import SelfChat
from parlai.scripts.train_model import TrainModel

from poly_agents.agents.history import ChatHistory
from poly_agents.agents.ranker_agent import RankerAgent
from tests.agents import evaluate, settings, text


@pytest.fixture
def seen(monkeypatch) -> list[str]:
    """Collect every context that is scored, with its marks."""
    contexts = []
    score = RankerAgent.eval_step

    def listen(self, batch):
        contexts.extend(example.context for example in batch.examples or ())
        return score(self, batch)

    monkeypatch.setattr(RankerAgent, "eval_step", listen)
    return contexts


@pytest.fixture
def model(options, pool_file) -> dict:
    """Train on marked turns. Returns the options of a chat with the model."""
    TrainModel.main(**settings(options, "bi", speakers=True, max_train_steps=1, validation_max_exs=5))
    return {"model_file": options["model_file"], "fixed_candidates_path": pool_file}


def test_a_chat_marks_turns_as_training_did(model, data, seen, monkeypatch, capsys):
    evaluate(model["model_file"], data, num_examples=5, speakers=True)
    assert all(context.startswith("B: ") and "\nA: " in context for context in seen)
    seen.clear()
    said = iter(["hello how", "my cat\n", "[DONE]", "six", "[EXIT]"])
    monkeypatch.setattr(builtins, "input", lambda prompt="": next(said))
    Interactive.main(**model)
    replies = [line.split("]: ", 1)[1] for line in capsys.readouterr().out.splitlines() if "[Bi]: " in line]
    assert len(replies) == 3 and not any(reply.startswith(("A: ", "B: ")) for reply in replies)
    first = seen[0]
    assert first == "A: hello how" and seen[1].startswith(f"{first}\nB: {replies[0]}\nA: my cat")
    assert seen[2] == "A: six"
    assert replies[1] != replies[0]  # a reply is not repeated: it is recognised in spite of its mark


def test_a_chat_with_itself_marks_the_other_s_turns_and_its_own(model, seen, tmp_path):
    SelfChat.main(**model, num_self_chats=1, selfchat_max_turns=3, outfile=str(tmp_path / "out"))
    pool = {text(i) for i in range(29)}
    assert seen[0] == "A: Hi!" and len(seen) == 4
    for context in seen[1:]:
        lines = [line for line in context.split("\n") if line]
        assert lines[-1].startswith("A: ")
        assert [line[:3] for line in lines[::-1]] == (["A: ", "B: "] * len(lines))[: len(lines)]
        assert {line[3:] for line in lines} <= pool | {"Hi!"}


def test_persona_lines_are_nobody_s():
    history = ChatHistory({"speakers": True, "interactive_mode": True}, dict_agent=Words())
    history.update_history({"text": "your persona: i have a cat\nhi"})
    history.add_reply("hello")
    assert history.get_history_str() == "your persona: i have a cat\nA: hi\nB: hello"
    plain = ChatHistory({"speakers": True}, dict_agent=Words())
    plain.update_history({"text": "A: hi"})
    assert plain.get_history_str() == "A: hi"


class Words:
    """The part of a dictionary that a history uses."""

    @staticmethod
    def txt2vec(text: str) -> list[int]:
        return [len(word) for word in text.split()]
