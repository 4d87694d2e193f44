# Each target sets up all that it needs in .venv; Python 3.11 or newer and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Releases that are known to work together; with `CONSTRAINTS=` pip takes the newest.
CONSTRAINTS ?= constraints.txt
INSTALL = $(BIN)/pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS))
PYTEST = $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder
AGAIN = $(BIN)/pytest --last-failed --last-failed-no-failures none --maxfail 1
NEW := .cache/site
export NO_MKDOCS_2_WARNING := 1

.PHONY: lab test course serve site bench lint oldest unlinted constraints clean

lab: $(VENV)/run.stamp          ## run the exercise on MNIST: a table, and a report in lab-report/
	$(BIN)/lab run

test: $(VENV)/browser.stamp    ## lint, type-check and test, the site in a browser too
	@mkdir -p .cache
	@$(MAKE) --no-print-directory lint >.cache/lint.txt 2>&1 & \
	$(PYTEST); tested=$$?; \
	if [ $$tested -eq 1 ]; then \
		echo "What failed beside other tests runs once more, on its own:"; \
		$(AGAIN); tested=$$?; \
	fi; \
	wait $$!; linted=$$?; cat .cache/lint.txt; \
	exit $$((tested || linted))

course: lab-report/evidence.json site ## run the exercise, execute the walkthroughs, build site/
	@echo "open site/index.html"

serve: .venv/site.stamp        ## the site at http://127.0.0.1:8000, rebuilt while you write
	$(BIN)/mkdocs serve

site: .venv/site.stamp         # a build that fails or is interrupted leaves the last good site/
	$(BIN)/mkdocs build --site-dir $(NEW)
	rm -rf $(NEW).old; if [ -d site ]; then mv site $(NEW).old; fi; mv $(NEW) site; rm -rf $(NEW).old

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/test.stamp .cache/tmeasures/done.stamp ## measure speed and memory against the published way (minutes; wants an idle machine)
	JAXTYPING_DISABLE=1 $(BIN)/pytest tests/benchmarks --benchmark-enable --override-ini=addopts= -s

oldest:                        ## the tests on the oldest releases that pyproject.toml allows
	mkdir -p .cache
	$(PYTHON) .ci/constraints.py oldest > .cache/oldest.txt
	$(MAKE) unlinted VENV=.cache/oldest CONSTRAINTS=.cache/oldest.txt

unlinted: $(VENV)/browser.stamp # what linters and type stubs say of an old release does not matter
	$(PYTEST)

constraints:                   ## raise constraints.txt to the newest releases, which `make test` has to try then
	rm -rf .cache/newest
	$(MAKE) .cache/newest/test.stamp VENV=.cache/newest CONSTRAINTS=
	.cache/newest/bin/python .ci/constraints.py known > .cache/newest/known.txt
	mv .cache/newest/known.txt constraints.txt
	rm -rf .cache/newest

clean:                         ## remove what the targets above made, but not the downloaded data
	rm -rf .venv .cache site lab-report lab-shiftmap lab-study-* .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

lab-report/evidence.json: $(wildcard lab/*.py lab/*/*.py lab/*/*.html) | .venv/run.stamp
	$(BIN)/lab run

$(VENV)/python.stamp:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("the lab needs Python 3.11 or newer: $(PYTHON) is %d.%d; try make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/run.stamp: $(VENV)/python.stamp pyproject.toml $(CONSTRAINTS)
	$(INSTALL) --editable .
	touch $@

$(VENV)/site.stamp: $(VENV)/python.stamp pyproject.toml $(CONSTRAINTS)
	$(INSTALL) --editable '.[site]'
	touch $@ $(VENV)/run.stamp

$(VENV)/test.stamp: $(VENV)/python.stamp pyproject.toml $(CONSTRAINTS)
	$(INSTALL) --editable '.[test]'
	touch $@ $(VENV)/run.stamp $(VENV)/site.stamp

# AGPL, and its dependencies bring stubs that spoil our type check: in an environment of its own, which sees ours
.cache/tmeasures/done.stamp: .venv/test.stamp
	$(PYTHON) -m venv .cache/tmeasures
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(.cache/tmeasures/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lab.pth"
	$(BIN)/python -c 'import lab, pathlib; print(pathlib.Path(lab.__file__).parents[1])' >> "$$(.cache/tmeasures/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lab.pth"
	.cache/tmeasures/bin/pip install --quiet tmeasures==1.2.11 statsmodels
	touch $@

$(VENV)/browser.stamp: $(VENV)/test.stamp tests/browser.py
	$(BIN)/python tests/browser.py
	touch $@
