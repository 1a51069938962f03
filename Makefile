# make demo: the main job on this machine. make test: what CI runs. make help: the rest.
PYTHON ?= python3
MINUTES ?= 10
WORKERS ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One thread a process: on busy cores more threads are many times slower.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OMP_WAIT_POLICY=passive

.PHONY: help install demo test lint format clean
.DEFAULT_GOAL := install

help:
	@echo "make               install Cynosure into .venv"
	@echo "make demo          train, evaluate and draw on this machine; MINUTES=$(MINUTES) sets the budget"
	@echo "make test          lint, types and all tests; WORKERS=$(WORKERS) sets the test processes"
	@echo "make lint          ruff and mypy"
	@echo "make format        let ruff format and fix the code"
	@echo "make clean         remove .venv, caches and build results; runs/ stays"

install: .venv/installed

demo: .venv/installed
	$(BIN)/cynosure demo --minutes $(MINUTES)

test: lint
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations 10 tests

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e .
	@touch $@

.venv/installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[test]'
	@touch .venv/installed $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Cynosure needs Python 3.11 or newer: install it, or name one with 'make PYTHON=python3.12'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "This Python cannot make virtual environments: install its venv package ('apt install python3-venv')." >&2; \
		exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
