# `make train` and `make test` start from nothing: they set up .venv/ themselves.
PYTHON ?= python3
VENV := .venv
RUNS ?= runs
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: train app test check bench results computes adders carries sweep-results notebooks clean

train: $(VENV)/.installed  ## train mod-add-113 until it has grokked (a finished run is kept as it is)
	$(BIN)/interp-arith train mod-add-113 --resume

test: check  ## every check and every test
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(PYTEST_OPTIONS)

check: $(VENV)/.installed-dev  ## format, lint and types
	$(BIN)/ruff format --check interp_arith app tests benchmarks analyses
	$(BIN)/ruff check interp_arith app tests benchmarks analyses
	$(BIN)/pyright --pythonpath $(BIN)/python

app: $(VENV)/.installed  ## open the explorer
	$(BIN)/interp-arith app $(RUNS)

bench: $(VENV)/.installed-dev  ## what training costs, beside a plain loop, a compiled one and JAX
	$(BIN)/python benchmarks/speed.py

results: $(VENV)/.installed  ## the results table of README, from run directories: make results RUNS=… TIMED=…
	$(BIN)/python benchmarks/results.py $(RUNS) README.md $(if $(TIMED),--timed $(TIMED))

computes: $(VENV)/.installed  ## the table of how models compute, likewise: make computes RUNS=…
	$(BIN)/python benchmarks/computes.py $(RUNS) README.md

adders: $(VENV)/.installed  ## the tables of adders, from runs asked ten-digit and million: make adders RUNS=…
	$(BIN)/python benchmarks/adders.py $(RUNS) README.md

carries: $(VENV)/.installed  ## the tables of how adders carry, likewise: make carries RUNS=…
	$(BIN)/python benchmarks/carries.py $(RUNS) README.md

sweep-results: $(VENV)/.installed  ## the sweeps of README, from their folders: make sweep-results RUNS=…
	$(BIN)/python benchmarks/sweeps.py $(RUNS) README.md

notebooks: $(VENV)/.installed-dev  ## run the notebooks that are stored with what they show
	$(BIN)/python benchmarks/notebooks.py analyses/00_first_hour.ipynb analyses/02_carries.ipynb

clean:  ## remove the virtual environment; runs stay
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 …" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV)/ (a minute or two, once)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV)/ with what the tests need (a minute or two, once)"
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.installed
