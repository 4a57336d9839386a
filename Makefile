# make setup | test | demo | docs | clean       Linux and macOS, Python 3.10 to 3.13
# Another interpreter:  make setup PYTHON=python3.12        Another place:  make test VENV=/tmp/venv

PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= dev,peers

BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
STAMP  := $(VENV)/.installed
FILES  := src tests $(wildcard benchmarks)

.PHONY: setup test demo docs build clean
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; ok = (3, 10) <= v[:2] <= (3, 13); \
	  sys.exit(0 if ok else "spikeformers needs Python 3.10 to 3.13, $(PYTHON) is %d.%d: name another one, such as make setup PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)

# Installs anew when the dependencies changed, and is quick when they did not.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

demo: setup
	$(BIN)/spikeformers demo

test: setup
	$(BIN)/ruff format --check $(FILES)
	$(BIN)/ruff check $(FILES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2

docs: setup
	$(PIP) install --quiet -c constraints.txt -e ".[docs]"
	$(BIN)/mkdocs build --strict

build: setup
	$(BIN)/python -m build

clean:
	rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
