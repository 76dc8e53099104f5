"""`-t poly_agents:some_data` asks this module for `SomeDataTeacher`: it is in `poly_agents/tasks/some_data.py`."""

from poly_agents.tasks import teacher


def __getattr__(name: str):
    if not name.endswith("Teacher"):
        raise AttributeError(name)
    return teacher(name)
