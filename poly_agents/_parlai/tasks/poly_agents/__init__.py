"""`-t poly_agents:NAME` looks here for `NAMETeacher` and its worlds; the data sets are in `poly_agents.tasks`."""
