# One file says how this repository is set up, shown, tested and served. `make` alone lists the targets.
# On Linux without an NVIDIA card, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu spares the CUDA libraries.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Bytecode is written on first import: compiling every installed file would nearly double the set-up time.
PIP_FLAGS := --disable-pip-version-check --quiet --no-compile --constraint constraints.txt
unexport PYTHONDONTWRITEBYTECODE
# Small LSTMs run slower with several threads per process, and tests run in several processes.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST_ARGS ?= -q -n 2
FUZZ_EXAMPLES ?= 300
BACKUP ?=
AUDIT_FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test check fuzz lint types contracts format docs bench serve up backup restore sbom audit clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# One pip run each; the stamp makes it once per change of the dependencies.
$(VENV)/.runtime: pyproject.toml constraints.txt
	@echo "setting up $(VENV) (once; a few minutes, mostly torch and mlflow)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gradcast needs Python 3.11 or newer; set PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install $(PIP_FLAGS) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@$(BIN)/python -m pip install $(PIP_FLAGS) --editable '.[dev]'
	@touch $@

setup: $(VENV)/.runtime ## Make .venv with gradcast in it.

setup-dev: $(VENV)/.dev ## The same, with the tools for tests, types and lint.

demo: setup ## Train on the shipped traffic data, register, serve, post a forecast, print it.
	@$(BIN)/gradcast demo

test: setup-dev ## Run every test (PYTEST_ARGS="..." narrows it).
	@$(TEST_ENV) $(BIN)/python -m pytest $(PYTEST_ARGS)

check: lint types contracts test audit ## Everything a change must pass: lint (with bandit's rules), types, import contracts, tests, audit.

fuzz: setup-dev ## Schemathesis on every route for some minutes (FUZZ_EXAMPLES requests per route).
	@$(TEST_ENV) GRADCAST_FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest -q -n 0 tests/integration/service/test_service_openapi.py

lint: setup-dev ## Ruff: rules and formatting.
	@$(BIN)/ruff check .

types: setup-dev ## mypy --strict over the three packages.
	@$(BIN)/mypy

contracts: setup-dev ## import-linter: who may import whom.
	@$(BIN)/lint-imports --no-cache

format: setup-dev ## Let ruff sort imports and repair what it safely can.
	@$(BIN)/ruff check --fix .

docs: setup-dev ## Write docs/reference/ from the code: help texts, configuration keys, routes, error codes.
	@$(BIN)/python docs/generate.py

bench: setup-dev ## Time fit, panel preparation and --help; compare with peers where benchmarks/setup_peers.sh was run.
	@$(BIN)/python benchmarks/help_time.py
	@$(BIN)/python benchmarks/prepare_panel.py
	@$(BIN)/python benchmarks/fit_speed.py

serve: setup ## The HTTP service on 127.0.0.1:8000.
	@$(BIN)/gradcast serve

up: setup ## The service and the MLflow dashboard together, without containers.
	@$(BIN)/gradcast up

backup: ## Back up the running stack of containers below backups/ (BACKUP=DIRECTORY names another place).
	@docker/backup $(BACKUP)

restore: ## Put BACKUP=DIRECTORY in the place of what the stack of containers holds.
	@docker/restore $(BACKUP)

audit: setup-dev ## Known weaknesses of the pinned versions (AUDIT_FLAGS=--strict for a release); not part of `make test`.
	@$(BIN)/python .ci/audit $(AUDIT_FLAGS)

sbom: setup-dev ## What gradcast needs, as CycloneDX: sbom.cdx.json.
	@$(BIN)/python .ci/sbom sbom.cdx.json

clean: ## Remove environments and caches (not the runs in mlruns/).
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
