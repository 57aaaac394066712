# One line a target; `make` alone lists them. `make PYTHON=python3.13 ...` says which Python makes .venv.
VENV := .venv
PYTHON ?=
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# What pip would do on one core, which takes a third of the installation. Some packages hold files that are no Python.
COMPILE := $(RUN) -m compileall -qq -j 0 $(VENV)/lib || true
PARALLEL := -n auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install quickstart reference screenshot check test chaos bench docs lint types clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /: /'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(if $(PYTHON),$(PYTHON) -m venv $(VENV),python3.11 -m venv $(VENV) || python3 -m venv $(VENV))
	@echo "installing the pinned dependencies into $(VENV) (torch is large; some minutes)"
	$(INSTALL) torch==2.13.0
	$(INSTALL) -e .
	@$(COMPILE)
	@# Where Python may not keep compiled copies, each worker would compile its sources anew; it costs only time.
	@$(RUN) -m compileall -q nfstudy || echo "nfstudy: some compiled copies could not be written; starts take longer"
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(INSTALL) -e '.[test]'
	@$(COMPILE)
	@touch $@

install: $(VENV)/.installed  ## make .venv with the pinned dependencies

quickstart: $(VENV)/.installed  ## run studies/quickstart.yaml, from data to report
	$(RUN) -m nfstudy run studies/quickstart.yaml

reference: $(VENV)/.installed  ## rebuild reports and README's results from the runs in mlruns/reference, and import these
	$(RUN) -m nfstudy reference

# The front page of the reference runs, which the site links; `make docs FRONT=` leaves it out.
FRONT := reports/index.html
reports/index.html: | $(VENV)/.installed
	$(RUN) -m nfstudy reference

screenshot: reports/index.html  ## take README's picture of the front page again, with a Chromium that is there
	$(RUN) tools/screenshot.py

check: lint types  ## style, types, and the fast tests: no processes of their own, no real data sets
	$(RUN) -m pytest -q -m 'not end_to_end and not slow and not real_data' $(PARALLEL)

test: lint types  ## style, types and all tests
	$(RUN) -m pytest $(PARALLEL)

chaos: $(VENV)/.tested  ## kill and disturb three kinds of study and four commands 200 times; 20,000 malformed inputs
	PYTHONPATH=tests $(RUN) -m chaos --kills 200
	NFSTUDY_FUZZ_CASES=10000 $(RUN) -m pytest tests/study/test_hostile_input.py

# A peer that will not install must not keep the others from being timed: it is then named as missing.
$(VENV)/.peers: $(VENV)/.installed
	@$(INSTALL) -e '.[bench]' || for peer in normflows pyro-ppl pythae flowjax; do $(INSTALL) $$peer || true; done
	@$(COMPILE)
	@touch $@

bench: $(VENV)/.peers  ## timings against other libraries, written to reports/benchmarks
	$(RUN) -m benchmarks

$(VENV)/.documented: $(VENV)/.installed
	$(INSTALL) -e '.[docs]'
	@$(COMPILE)
	@touch $@

docs: $(VENV)/.documented $(FRONT)  ## build the documents as a site that is read offline: site/index.html
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

lint: $(VENV)/.tested  ## check style, names, annotations and docstrings
	@$(VENV)/bin/ruff check . || { echo "mend most of it with: $(VENV)/bin/ruff check --fix ."; exit 1; }
	@$(VENV)/bin/ruff format --check . || { echo "mend it with: $(VENV)/bin/ruff format ."; exit 1; }

types: $(VENV)/.tested  ## check types
	@$(VENV)/bin/mypy

clean:  ## remove .venv and caches; runs and reports stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
