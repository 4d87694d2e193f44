# Each target sets up all that it needs in .venv; Python 3.11 or newer and make are enough.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: lab test bench lint clean

lab: .venv/run.stamp           ## run the exercise on MNIST: a table, and a report in lab-report/
	$(BIN)/lab run

test: .venv/test.stamp lint    ## lint, type-check and test
	$(BIN)/pytest

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/test.stamp        ## measure speed and memory against the published way (minutes; wants an idle machine)
	$(BIN)/pytest tests/benchmarks --benchmark-enable --override-ini=addopts= -s

clean:                         ## remove what the targets above made, but not the downloaded data
	rm -rf .venv lab-report .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

.venv/python.stamp:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("the lab needs Python 3.11 or newer: $(PYTHON) is %d.%d; try make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv .venv
	touch $@

.venv/run.stamp: .venv/python.stamp pyproject.toml
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/test.stamp: .venv/python.stamp pyproject.toml
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@ .venv/run.stamp
