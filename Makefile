# make train | test | quick | lab | lint: each sets up .venv when it is needed, and then does its job.
PYTHON ?= python3
BIN := .venv/bin
RECIPE ?= shakespeare-quick
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: train test quick lint lab clean
train: .venv/ready
	$(BIN)/python -m minillama train $(RECIPE)

test: .venv/dev-ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(PYTEST)

quick: .venv/dev-ready  # what one runs while working: under two minutes
	$(PYTEST) -m "not slow and not nightly"

lint: .venv/dev-ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

lab: .venv/ready
	$(BIN)/jupyter lab notebooks

clean:
	rm -rf .venv

.venv/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is `$(PYTHON) --version`; minillama needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.venv/dev-ready: .venv/ready requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
