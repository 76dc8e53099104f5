"""The worlds of `parlai interactive` and `parlai self_chat` for every task of ours."""

from parlai.tasks.interactive.worlds import InteractiveWorld
from parlai.tasks.self_chat.worlds import SelfChatWorld


def __getattr__(name: str):
    for prefix, world in (("Interactive", InteractiveWorld), ("SelfChat", SelfChatWorld)):
        if name.startswith(prefix) and name.endswith("World"):
            return world
    raise AttributeError(name)
