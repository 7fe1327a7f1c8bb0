PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install repro test lint docs clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*  ## /\1\t/p' Makefile | expand -t 10

install: $(INSTALLED)  ## the commands and what they need, in .venv; no stage is run

repro: $(INSTALLED)  ## images → shards → classifiers → curves → report
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro

test: $(INSTALLED)  ## all tests but the slow ones, in two processes
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist worksteal

lint: $(INSTALLED)  ## rules, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(INSTALLED)  ## the site, in build/site; a broken link is an error
	$(BIN)/mkdocs build --strict --quiet

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

clean:  ## remove .venv
	rm -rf $(VENV)
