"""Filled by the finder in `poly_agents.plugin`: `parlai.agents.poly_agents.NAME` is `poly_agents.NAME`."""
