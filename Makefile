# Everything runs in .venv, which any target makes when it is missing or out of date.
# Plain python3 and pip are enough; uv is used when it is there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
#: Processes that run tests at once.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint format types imports test-neo4j test-random test-faults test-long test-slow up down clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## a virtual environment in .venv with everything in it

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "altsync needs Python 3.11 or newer; name one with make PYTHON=python3.12")'
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --clear --python "$$(command -v $(PYTHON))" $(VENV) && \
	  uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock && \
	  uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .; \
	else \
	  $(PYTHON) -m venv --clear $(VENV) && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; \
	fi
	@touch $@

demo: setup ## the main job on the embedded stack: seed, sync, agree, three queries
	@$(BIN)/altsync demo

test: setup ## every test but the long proofs
	$(PYTEST) tests -n $(JOBS) --dist loadfile -m "not slow and not real_neo4j"

check: lint types imports ## linters, types and layers

lint: setup ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## ruff: mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup ## mypy, strict
	$(BIN)/mypy

imports: setup ## import-linter: which room may know which
	$(BIN)/lint-imports --no-cache

test-neo4j: setup ## the sink contract on a real Neo4j (fetched with Maven; Java 17)
	$(PYTEST) tests/contract tests/real_neo4j -m real_neo4j

test-random: setup ## random kills and faults over real processes: SECONDS=60 SEED=
	$(BIN)/python -m tests.faults.random_processes --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

test-faults: setup ## every fault over real processes: kills, restarts, lost answers, random search
	$(PYTEST) tests/faults -n $(JOBS) --dist loadfile

test-long: setup ## other long proofs: counted calls, verify, the page, the docs, the demo
	$(PYTEST) tests -n $(JOBS) --dist loadfile -m slow --ignore tests/faults

test-slow: setup ## every long proof, random searches for holes too
	$(PYTEST) tests -m slow

up: setup ## the embedded stack and the whole Procfile, until Ctrl-C
	@$(BIN)/altsync local up
	@$(BIN)/altsync migrate
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/honcho start

down: setup ## stop the embedded stack; its data stay
	@$(BIN)/altsync local down

clean: ## remove the virtual environment and all caches; data in .altsync stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
