# `make` prints this file's targets.
.DEFAULT_GOAL := help
.PHONY: help setup demo up down test chaos bench bench-derived telegraf check lock docs clean

PYTHON := .venv/bin/python
SOURCES := libs/outrider/src $(wildcard services/*/src) cli/src
OPTIONS ?=

help: ## Print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv from the lock (quick when nothing changed)
	@scripts/bootstrap

demo: setup ## Run everything with simulated vehicles and sensors; OPTIONS="--help" shows what can be set
	@.venv/bin/outrider demo $(OPTIONS)

up: setup ## Run broker, database and all services until Ctrl-C
	@.venv/bin/outrider up $(OPTIONS)

down: setup ## Stop what runs in ./.outrider
	@.venv/bin/outrider down $(OPTIONS)

test: setup ## Run all tests, in parallel; OPTIONS="-k word" chooses some, OPTIONS="-n 0" runs one after the other
	@$(PYTHON) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(OPTIONS)

chaos: setup ## Break everything on purpose and count every sample: ROUNDS=10, SEED=0 (random), OPTIONS="--help"
	@$(PYTHON) -m tests.chaos --rounds $(or $(ROUNDS),10) --seed $(or $(SEED),0) $(OPTIONS)

bench: setup ## Measure speed, CPU and latency under load, beside peers: FULL=1 adds growth; SECONDS=10, OPTIONS="--help"
	@$(PYTHON) -m tests.bench $(if $(SECONDS),--seconds $(SECONDS)) $(if $(FULL),--full) $(OPTIONS)
	@$(if $(OPTIONS),,$(MAKE) --no-print-directory bench-derived)

bench-derived: setup ## Measure what is made of the data: trips, rollups, uploads over HTTP, the query API
	@$(PYTHON) -m tests.bench.trip_rules
	@$(PYTHON) -m tests.bench.resegment
	@$(PYTHON) -m tests.bench.rollups
	@$(PYTHON) -m tests.bench.uploads
	@$(PYTHON) -m tests.bench.queries

telegraf: setup ## Build the Telegraf that the benchmark compares with (needs Go)
	@scripts/fetch_telegraf

check: setup ## Lint, types, generated files
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy $(SOURCES)
	@$(PYTHON) -m outrider.contract.generate --check
	@$(PYTHON) -m outrider_registry.openapi --check
	@$(PYTHON) -m outrider_gateway.openapi --check
	@$(PYTHON) scripts/generate_docs --check

lock: ## Resolve the dependencies anew into requirements.lock (needs uv)
	@scripts/lock

docs: setup ## Build the documentation into site/
	@$(PYTHON) -m mkdocs build --strict

clean: ## Remove .venv, caches and build results; data in .outrider stays
	rm -rf .venv site build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.outrider/*' -prune -exec rm -rf {} +
