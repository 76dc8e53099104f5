PYTHON ?= $(shell command -v python3.11 || command -v python3)
PARLAI := parlai==1.7.2
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo chat test bench rankers zoo docs docs-serve

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/installed  ## make .venv with the locked versions and this project in it

.venv/installed: requirements.lock setup.py poly_agents.pth
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -r requirements.lock
	$(BIN)/pip install --disable-pip-version-check -q --no-deps $(PARLAI)
	$(BIN)/pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	touch $@

demo: install  ## train a poly-encoder on real conversations, evaluate it, chat with it: 3 minutes on any machine
	$(BIN)/python benchmarks/demo.py

chat: install  ## chat with the model the demo trained
	@test -f models/demo/model || { echo "there is no models/demo/model yet: run make demo first"; exit 1; }
	$(BIN)/parlai interactive -mf models/demo/model --show-candidates 3 --loglevel error

test: install  ## the whole test suite
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m pytest

bench: install  ## speed: against ParlAI and sentence-transformers, and with up to 1,000,000 candidates; 1.5 hours
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/scale.py --model models/demo/model

rankers: install  ## the table of rankers in the README, in about two hours on 2 cores
	$(BIN)/python benchmarks/rankers.py

zoo: install  ## train the models of zoo/ that are this project's own, prepare them for publishing; 40 minutes on 2 cores
	$(BIN)/python -m poly_agents.zoo.train

docs: install  ## build the documentation in build/site; a dead link or an unknown name fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: install  ## show the documentation at http://127.0.0.1:8000 and follow every change
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --no-strict
