# Every target sets up what it needs in its own .venv, so each works on a fresh machine with nothing done first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SERVE ?= 1
SDKS := sdk/js sdk/react

.PHONY: demo test test-js browser test-full check openapi bench dev clean

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $(STAMP)

$(VENV)/.bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[bench]"
	touch $(VENV)/.bench

dev: $(STAMP)  ## an environment to work in

demo: $(STAMP)  ## import the sample data, print a report and serve it; SERVE=0: only the report
	SERVE=$(SERVE) $(BIN)/gnomon demo

check: $(STAMP)  ## style, types, import contracts
	$(BIN)/ruff check src tests bench examples
	$(BIN)/ruff format --check src tests bench examples
	$(BIN)/mypy
	$(BIN)/lint-imports

test-js:  ## the JavaScript packages: types, tests, size
	@if ! command -v npm >/dev/null; then echo "SKIPPED: the JavaScript packages need Node 20 or newer with npm (nodejs.org)"; exit 0; fi; \
	for place in $(SDKS); do \
		test $$place/node_modules/.package-lock.json -nt $$place/package-lock.json || (cd $$place && npm ci --silent) || exit 1; \
		(cd $$place && npm test --silent) || exit 1; \
	done

# Tests of the JavaScript client drive a real browser. Where none is found and none can be installed, they say so.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	(command -v apt-get >/dev/null && test "$$(id -u)" = 0 && echo "installing chromium for the browser tests" && \
	(apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 || \
	(apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium) >/dev/null 2>&1)) || \
	echo "no chromium here: the browser tests will be skipped"

test: check test-js browser  ## every quick test
	$(BIN)/python -m pytest -m "not slow" -n auto --dist worksteal

test-full: check test-js browser  ## and the long ones, with new examples and coverage
	EXPLORE=1 $(BIN)/python -m pytest --cov --cov-report=term

openapi: $(STAMP)  ## write docs/openapi.json anew
	WRITE_OPENAPI=1 $(BIN)/python -m pytest tests/docs/test_openapi.py

bench: $(VENV)/.bench  ## figures and ratios against peers measured in the same run
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .coverage* $(SDKS:%=%/node_modules) $(SDKS:%=%/dist)
