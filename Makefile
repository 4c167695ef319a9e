# Two commands set everything up on a fresh machine: `make demo` and `make test`.
# The rest: `make check` (ruff, mypy), `make test-unit` (under half a minute), `make clean`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-unit check clean

demo: $(VENV)/.installed
	$(BIN)/i2vd demo demo

test: $(VENV)/.installed-test check
	$(BIN)/pytest

test-unit: $(VENV)/.installed-test
	$(BIN)/pytest -m "not slow" --ignore tests/system --ignore tests/pipeline/worker \
		--ignore tests/pipeline/test_micro.py

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "i2vd needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
