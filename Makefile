# The front door. `make demo` and `make test` do all the set-up themselves.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := mimcore flows tests benchmarks
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo test test-slow check format ui bench lock

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(BIN)/.installed  ## build the environment from the lock

$(BIN)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mimcore needs Python >= 3.11; set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "uv>=0.5"
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --python $(BIN)/python --editable .
	@touch $@

demo: setup  ## run the study in force, from images to the report
	@dvc repro --quiet
	@python -m mimcore results

# A file to a process, so that what a file's tests share is made once.
test: setup  ## run the tests, all but the slow ones
	OMP_NUM_THREADS=1 python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: setup  ## run the slow tests: half an hour
	python -m pytest -m slow

check: setup  ## lint, format, types
	ruff check $(SOURCES)
	ruff format --check $(SOURCES)
	mypy

format: setup  ## rewrite the code in the house format
	ruff check --fix $(SOURCES)
	ruff format $(SOURCES)

bench: setup  ## time this code beside its peers
	python benchmarks/crops.py
	python benchmarks/loader.py
	python benchmarks/threads.py
	python benchmarks/flows.py

ui: setup  ## run studies from a web page on this machine (PORT=4200, NIGHTLY=on)
	@python -m flows.serve --port $(or $(PORT),4200) $(if $(filter on,$(NIGHTLY)),--nightly)

lock: setup  ## compile requirements.lock anew
	uv pip compile --quiet pyproject.toml --extra flows --extra cluster --extra s3 --extra live --extra video --extra dev --universal --python-version 3.11 \
		--no-emit-index-url --no-annotate --no-header --output-file requirements.lock
