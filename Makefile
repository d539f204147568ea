# Every target sets up what it needs in its own .venv, so each works on a fresh machine with nothing done first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SERVE ?= 1

.PHONY: demo test test-full check openapi bench dev clean

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $(STAMP)

$(VENV)/.bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[bench]"
	touch $(VENV)/.bench

dev: $(STAMP)  ## an environment to work in

demo: $(STAMP)  ## import the sample data and print a report
	SERVE=$(SERVE) $(BIN)/gnomon demo

check: $(STAMP)  ## style, types, import contracts
	$(BIN)/ruff check src tests bench examples
	$(BIN)/ruff format --check src tests bench examples
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## every quick test, with coverage
	$(BIN)/python -m pytest -m "not slow" -n auto --dist worksteal --cov --cov-report=term --cov-report=

test-full: check  ## and the long ones
	$(BIN)/python -m pytest --cov --cov-report=term

openapi: $(STAMP)  ## write docs/openapi.json anew
	WRITE_OPENAPI=1 $(BIN)/python -m pytest tests/docs/test_openapi.py

bench: $(VENV)/.bench  ## figures and ratios against peers measured in the same run
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .coverage*
