# make setup | test | demo | docs | clean       Linux and macOS, Python 3.10 to 3.13
# Another interpreter:  make setup PYTHON=python3.12        Another place:  make test VENV=/tmp/venv

PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= dev,peers,triton

BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
STAMP  := $(VENV)/.installed
FILES  := src tests $(wildcard benchmarks examples)

.PHONY: setup test demo docs build clean
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; ok = (3, 10) <= v[:2] <= (3, 13); \
	  sys.exit(0 if ok else "spikeformers needs Python 3.10 to 3.13, $(PYTHON) is %d.%d: name another one, such as make setup PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)

# What the engine's kernels are built from, and rooms, which an editable install has to learn of.
BUILT := CMakeLists.txt $(wildcard src/spikeformers/kernels/cpp/*) $(wildcard src/spikeformers/*/__init__.py)

# Installs anew when the dependencies or the kernels changed, and is quick when they did not.
$(STAMP): pyproject.toml constraints.txt $(BUILT) | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e ".[$(EXTRAS)]"
	@$(BIN)/python -c 'from spikeformers.kernels import choose; print("kernels:", choose())' \
	  || echo "The package is installed without the engine; everything else works."
	@touch $@

demo: setup
	$(BIN)/spikeformers demo

test: setup
	$(BIN)/ruff format --check $(FILES)
	$(BIN)/ruff check $(FILES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --dist worksteal

docs: setup
	$(PIP) install --quiet -c constraints.txt -e ".[docs]"
	$(BIN)/mkdocs build --strict

build: setup
	$(BIN)/python -m build

clean:
	rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
