"""Filled by the finder in `poly_agents.plugin`: importing `parlai.zoo.poly_agents.NAME` gives its `download`."""
