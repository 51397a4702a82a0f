# make demo and make test set everything up on a fresh machine: python3 with venv, and make.
# EXTRAS=dev,all also installs every optional package, as CI does.
EXTRAS ?= dev
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMMA := ,
STAMP := $(VENV)/.installed-$(subst $(COMMA),-,$(EXTRAS))
# A file is run by one process, so that its trained models are made once.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

.PHONY: install demo docs notebooks test test-slow test-all test-long lint types check tables build clean

install: $(STAMP)

# uv installs in seconds what pip takes minutes for; byte-compiling saves seconds at every start.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[$(EXTRAS)]'
	touch $(STAMP)

demo: install
	$(BIN)/python scripts/train.py -m model=source_only,dann data=digits

# At most five minutes on two cores: tests marked slow are left out, which CI runs with test-all.
test: install
	$(PYTEST) -m 'not slow and not long'

test-slow: install
	$(PYTEST) -m 'slow and not long' tests

test-all: test test-slow

# Sweeps that are killed, ranks that hang, a SLURM of one node where it is installed.
test-long: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long

lint: install
	$(BIN)/ruff check src tests scripts benchmarks
	$(BIN)/ruff format --check src tests scripts benchmarks

types: install
	$(BIN)/mypy

check: lint types test

tables: install
	$(BIN)/python scripts/dev/tables.py
	$(BIN)/python scripts/dev/settings.py
	$(BIN)/python scripts/dev/licences.py

# Executes the notebooks of the site, and stores their output.
notebooks: install
	$(BIN)/python scripts/dev/notebooks.py

# The documentation site, written to site/.
docs: install
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[docs]'
	$(BIN)/zensical build --clean --strict

build: install
	$(BIN)/uv build --quiet --wheel --python $(BIN)/python

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
