# One line a target; `make` alone lists them.
VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALL := $(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install quickstart reference test chaos bench lint clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /: /'

$(VENV)/.installed: pyproject.toml constraints.txt
	python3.11 -m venv $(VENV) || python3 -m venv $(VENV)
	@echo "installing the pinned dependencies into $(VENV) (torch is large; some minutes)"
	$(INSTALL) torch==2.13.0
	$(INSTALL) -e .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(INSTALL) -e '.[test]'
	@touch $@

install: $(VENV)/.installed  ## make .venv with the pinned dependencies

quickstart: $(VENV)/.installed  ## run studies/quickstart.yaml, from data to report
	$(PYTHON) -m nfstudy run studies/quickstart.yaml

reference: $(VENV)/.installed  ## take in the runs of mlruns/reference, and make their reports and README's results again
	$(PYTHON) -m nfstudy reference

test: lint  ## install what the tests need and run them
	$(PYTHON) -m pytest -n auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder

chaos: $(VENV)/.tested  ## kill a study's processes 120 times and hold it against one left alone; read 20,000 odd files; some 20 minutes
	PYTHONPATH=tests $(PYTHON) -m chaos --kills 120
	NFSTUDY_FUZZ_CASES=10000 $(PYTHON) -m pytest tests/test_fuzz.py

# A peer that will not install must not keep the others from being timed: it is then named as missing.
$(VENV)/.peers: $(VENV)/.installed
	@$(INSTALL) -e '.[bench]' || for peer in normflows pyro-ppl pythae flowjax; do $(INSTALL) $$peer || true; done
	@touch $@

bench: $(VENV)/.peers  ## time it against other libraries; tables and figures go to reports/benchmarks
	$(PYTHON) -m benchmarks

lint: $(VENV)/.tested  ## check style, names, annotations and docstrings
	@$(VENV)/bin/ruff check . || { echo "mend most of it with: $(VENV)/bin/ruff check --fix ."; exit 1; }
	@$(VENV)/bin/ruff format --check . || { echo "mend it with: $(VENV)/bin/ruff format ."; exit 1; }

clean:  ## remove .venv and caches; runs and reports stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
