# Everything works on a fresh Debian or macOS with Python 3.11 or later; nothing is installed outside of .venv.
# Another Python: make test PYTHON=/path/to/python3. Options for pytest: make test PYTEST_ARGS='-k fetch --server local'.

BIN := .venv/bin
INSTALLED := .venv/.installed
PYTHON ?=
PYTEST_ARGS ?=
# Each has a server of its own. WORKERS= runs all tests in one process.
WORKERS ?= -n auto --maxprocesses 4
BENCH_ARGS ?=

.PHONY: help demo test lint format bench build clean

help:
	@echo 'make demo    the flights demonstration, on a PostgreSQL of its own'
	@echo 'make test    linters, types, generated code, all tests'
	@echo 'make lint    the same without the tests'
	@echo 'make format  format the code and write the generated code anew'
	@echo 'make bench   the benchmarks'
	@echo 'make build   the wheel and the source distribution, in dist/'
	@echo 'make clean   remove what make and the tools have written'

demo: $(INSTALLED)
	@$(BIN)/python examples/flights.py

test: lint
	$(BIN)/python -m pytest $(WORKERS) $(PYTEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/generate_sync.py --check

format: $(INSTALLED)
	$(BIN)/python scripts/generate_sync.py
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

build: $(INSTALLED)
	$(BIN)/python -m build

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# Again only when the project's dependencies or metadata have changed.
$(INSTALLED): pyproject.toml scripts/make_venv.sh
	@sh scripts/make_venv.sh .venv $(PYTHON)
	@echo 'Installing pgq-log and what it needs into .venv'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all,dev]'
	@touch $@
