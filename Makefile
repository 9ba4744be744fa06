# Everything runs in .venv, which any target makes when it is missing or out of date.
# Plain python3 and pip are enough; uv is used when it is there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
#: Processes that run tests at once: one more than two cores, as many tests wait for servers.
JOBS ?= 3
#: The benchmarks' own environment: what altsync is compared with is none of its dependencies.
BENCH_VENV := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed
#: The environment of CocoIndex, which needs nothing of altsync.
COCOINDEX_VENV := .venv-cocoindex
COCOINDEX_STAMP := $(COCOINDEX_VENV)/.installed
#: Figures of the last make bench.
BENCH_RESULTS := .bench/results.json
PYTEST := $(BIN)/python -m pytest
#: Whole files, in the order of their names: the long ones, of whole stacks, come first.
SPREAD = -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Without compiled modules every command of the tests compiles its imports anew, which takes longer
# than its work.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint format types imports audit test-neo4j test-random test-faults test-long test-alerts test-slow bench bench-full bench-profile bench-plots up down clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## a virtual environment in .venv with everything in it

#: A new environment $(1) with all of the lock $(2).
define locked
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "altsync needs Python 3.11 or newer; name one with make PYTHON=python3.12")'
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --clear --python "$$(command -v $(PYTHON))" $(1) && \
	  uv pip install --quiet --python $(1)/bin/python --require-hashes -r $(2); \
	else \
	  $(PYTHON) -m venv --clear $(1) && \
	  $(1)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(2); \
	fi
endef

#: altsync itself, editable, into the environment $(1). What setuptools warns of is the layout that
#: pyproject.toml explains.
define editable
	@if command -v uv >/dev/null 2>&1; then \
	  uv pip install --quiet --python $(1)/bin/python --no-deps --no-build-isolation --editable .; \
	else \
	  PYTHONWARNINGS=ignore $(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; \
	fi
endef

$(STAMP): pyproject.toml requirements.lock
	$(call locked,$(VENV),requirements.lock)
	$(call editable,$(VENV))
	@touch $@

demo: setup ## the main job on the embedded stack: seed, sync, agree, three queries
	@$(BIN)/altsync demo

test: setup ## every test but the long proofs
	$(PYTEST) tests $(SPREAD) -m "not slow and not real_neo4j"

check: lint types imports ## linters, types and layers

lint: setup ## ruff: rules and format; words and sentences that the rules of prose exclude
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tests.lint_words

format: setup ## ruff: fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup ## mypy, strict
	$(BIN)/mypy

imports: setup ## import-linter: which package may import which
	$(BIN)/lint-imports --no-cache

audit: setup ## known weaknesses of the locked packages, where an advisory service answers
	@$(BIN)/python .ci/audit

# A process for each release, so that each starts one server; they end together, or one says why.
test-neo4j: setup ## the sink contract and the main job on Neo4j 5.26 and 2026 (by Maven)
	$(BIN)/python -m tests.real_neo4j.server --prepare
	@for which in "not neo4j_2026" "neo4j_2026 and not cypher_25" "cypher_25"; do \
	  $(PYTEST) tests/contract tests/real_neo4j -m real_neo4j -k "$$which" & running="$$running $$!"; \
	done; \
	for one in $$running; do wait $$one || failed=1; done; test -z "$$failed"

test-random: setup ## random kills and faults over real processes: SECONDS=60 SEED=
	$(BIN)/python -m tests.faults.random_processes --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

# Most of their time is spent waiting, for leases to end above all.
test-faults: JOBS = 4
test-faults: setup ## every fault over real processes: kills, restarts, lost answers, random search
	$(PYTEST) tests/faults $(SPREAD)

test-long: setup ## other long proofs: counted calls, verify, the page, the docs, the demo
	$(PYTEST) tests $(SPREAD) -m slow --ignore tests/faults

test-alerts: ## the alert rules, by promtool, which comes with Prometheus
	cd ops && promtool check rules alerts.yml && promtool test rules alerts.test.yml

test-slow: setup ## every long proof, random searches for holes too
	$(PYTEST) tests -m slow

$(BENCH_STAMP): pyproject.toml benchmarks/requirements.lock
	$(call locked,$(BENCH_VENV),benchmarks/requirements.lock)
	$(call editable,$(BENCH_VENV))
	@touch $@

$(COCOINDEX_STAMP): benchmarks/cocoindex.lock
	$(call locked,$(COCOINDEX_VENV),benchmarks/cocoindex.lock)
	@touch $@

bench: $(BENCH_STAMP) $(COCOINDEX_STAMP) ## measure the figures side by side with what they are compared with: FIGURES="1 3"
	$(BENCH_VENV)/bin/python -m benchmarks --check --json $(BENCH_RESULTS) $(FIGURES:%=--figure %)

bench-full: $(BENCH_STAMP) $(COCOINDEX_STAMP) ## the figures with a million leagues; an hour
	$(BENCH_VENV)/bin/python -m benchmarks --check --full --json $(BENCH_RESULTS) $(FIGURES:%=--figure %)

bench-profile: $(BENCH_STAMP) ## where a row's time goes: PostgreSQL's by statement, the client's by function
	$(BENCH_VENV)/bin/python -m benchmarks.profile

bench-plots: $(BENCH_STAMP) ## draw benchmarks/results.json into docs/images
	$(BENCH_VENV)/bin/python -m benchmarks.plot

up: setup ## the embedded stack and the whole Procfile, until Ctrl-C
	@$(BIN)/altsync local up
	@$(BIN)/altsync migrate
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/honcho start

down: setup ## stop the embedded stack; its data stay
	@$(BIN)/altsync local down

clean: ## remove the virtual environment and all caches; data in .altsync stay
	rm -rf $(VENV) $(BENCH_VENV) $(COCOINDEX_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
