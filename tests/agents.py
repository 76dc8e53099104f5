"""Create, train and ask agents as ParlAI does, on a tiny task."""

import json
from pathlib import Path

from parlai.core.agents import create_agent
from parlai.core.message import Message
from parlai.scripts.eval_model import EvalModel

from poly_agents.agents.ranker_agent import RankerAgent
from poly_agents.text.turns import ResponseExample
from tests.encoders import WORDS
from tests.rankers import all_rankers

AGENTS = sorted(all_rankers())
CACHING = [name for name, kind in all_rankers().items() if kind.can_cache(kind.Options())]


def text(number: int, length: int = 3) -> str:
    """Return a different short text for every number."""
    return " ".join(WORDS[(number // len(WORDS) ** place) % len(WORDS)] for place in range(length))


ROWS = [
    {
        "context": [text(i + 7, 4), text(3 * i, 2)],
        "response": text(i),
        "candidates": [text((i + k) % 23) for k in (5, 1, 0, 11)],
    }
    for i in range(23)
]
EXAMPLES = [ResponseExample("\n".join(row["context"]), row["response"], None) for row in ROWS]


def settings(options: dict, name: str, **changes) -> dict:
    """Return the options that this agent knows."""
    found = options | {"model": f"poly_agents/{name}", "backbone": options["backbone"][name]} | changes
    if name != "poly":
        found.pop("poly_codes", None)
    return found


def make(options: dict, name: str, **changes) -> RankerAgent:
    from parlai.core.params import ParlaiParser

    return create_agent(ParlaiParser(True, True).parse_kwargs(**settings(options, name, **changes)))


def evaluate(path: str, data: str, **changes) -> dict:
    task = {"task": "poly_agents:jsonl", "jsonl_path": data, "datatype": "valid", "batchsize": 5}
    return EvalModel.main(model_file=path, **task | changes)


def example(context: str, label: str, candidates=None, training=True) -> Message:
    message = Message(text=context, episode_done=True)
    message["labels" if training else "eval_labels"] = [label]
    if candidates:
        message["label_candidates"] = candidates
    return message


def answer(agent, *messages) -> list[Message]:
    """Reply to a batch of observations, with one clone each, as ParlAI's batch world does."""
    clones = [agent.clone() for _ in messages]
    observed = [clone.observe(message) for clone, message in zip(clones, messages, strict=True)]
    return agent.batch_act(observed)


def train_reports(options) -> list[dict]:
    return json.loads(Path(f"{options['model_file']}.trainstats").read_text())["train_reports"]
