# Every target works on a fresh clone: the environment is made on first use.
# With PY=/path/to/python the targets use that interpreter as it is and install nothing.

.DEFAULT_GOAL := help
.PHONY: help install demo test test-gpu lint format types bench docs notebooks clean

VENV := .venv
WORKERS ?= 2
DEMO_ARGS ?=

ifdef PY
INSTALLED :=
WRITING :=
else
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
WRITING := $(VENV)/.writing
endif

# The first interpreter that is new enough.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# With a GPU, torch decides its CUDA and its Triton; without one, the tested CPU set is taken.
HAS_GPU := $(shell if nvidia-smi -L >/dev/null 2>&1 || test -e /dev/nvidia0; then echo yes; fi)
CONSTRAINTS := $(if $(HAS_GPU),,-c constraints/cpu.txt)

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml constraints/cpu.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, none was found"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[dev]'
	@touch $@

# What only those need who write documentation or notebooks.
$(VENV)/.writing: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) \
		-e '.[docs,notebooks]'
	@touch $@

install: $(INSTALLED)  ## make .venv with the library and its tools

demo: $(INSTALLED)  ## sparse against dense on real pruned layers: a table and out/demo.png
	$(PY) -m sparse_triton demo $(DEMO_ARGS)

test: $(INSTALLED)  ## all tests; those for a GPU skip themselves without one
	$(PY) -m pytest -n $(WORKERS)

test-gpu: $(INSTALLED)  ## only the tests that need a GPU
	$(PY) -m pytest -m gpu

lint: $(INSTALLED)  ## ruff: rules and layout
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(INSTALLED)  ## ruff: repair what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(INSTALLED)  ## mypy, strict
	$(PY) -m mypy

bench: $(INSTALLED)  ## time spmm against its competitors on this machine
	$(PY) -m benchmarks spmm

docs: $(WRITING)  ## build the documentation into build/docs; a warning is an error
	$(PY) -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "open build/docs/index.html"

notebooks: $(WRITING)  ## write each notebooks/*.ipynb from its .py, without outputs, and run them all
	$(PY) -m jupytext --quiet --to ipynb notebooks/*.py
	$(PY) -m pytest -q tests/notebooks

clean:  ## remove everything that was made
	rm -rf $(VENV) build dist out docs/notebooks .pytest_cache .mypy_cache .ruff_cache .hypothesis
