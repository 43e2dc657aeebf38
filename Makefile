# `make` alone lists the targets. Needs make and Python 3.11 or later; everything else comes into .venv.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# MindSpore needs a NumPy that JAX no longer takes.
MINDSPORE := .venv-mindspore

.DEFAULT_GOAL := help
.PHONY: help install demo docs test lint format bench clean

help:  ## list these targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 18

install: $(STAMP) $(MINDSPORE)/.installed  ## .venv and .venv-mindspore, with whynan and all that the demo and the tests need

# The first interpreter that starts and is new enough: a name on PATH may be a stub for a version that is not there.
$(BIN)/python:
	@for python in python3.11 python3 python3.12 python3.13 python; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "$(VENV) from $$($$python -c 'import sys; print(sys.executable, sys.version.split()[0])')"; \
	        exec $$python -m venv $(VENV); \
	    fi; \
	done; echo "whynan needs Python 3.11 or later, and found none" >&2; exit 1

$(STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

demo: $(STAMP)  ## Faster R-CNN on real images, a run that really fails, diagnosed
	@$(BIN)/whynan demo

docs: $(STAMP)  ## the documentation as a site in build/site
	$(BIN)/python -m mkdocs build --strict

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(MINDSPORE)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m venv $(MINDSPORE)
	$(MINDSPORE)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[mindspore]" hypothesis ml_dtypes mpmath pytest "scikit-image>=0.24"
	@touch $@

test: lint $(MINDSPORE)/.installed  ## lint, then every test
	$(BIN)/python -m pytest -n 2 --ignore=tests/parts/jax --ignore=tests/parts/keras --ignore=tests/parts/mindspore \
	    --ignore=tests/adapters/mindspore
	$(BIN)/python -m pytest -n 2 tests/parts/jax
	for backend in tensorflow jax torch; do KERAS_BACKEND=$$backend $(BIN)/python -m pytest -n 2 tests/parts/keras || exit 1; done
	$(MINDSPORE)/bin/python -m pytest tests/parts/mindspore tests/adapters/mindspore

bench: install  ## what watching and the parts cost, and how many lines are found, beside other tools (slow)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,bench]"
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/accounted.py
	$(BIN)/python benchmarks/trainers.py
	$(BIN)/python benchmarks/localization.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/parts.py
	$(BIN)/python benchmarks/parts.py --compiled
	for framework in jax tensorflow "tensorflow --xla" numpy; do $(BIN)/python benchmarks/parts_elsewhere.py $$framework || exit 1; done
	$(BIN)/python benchmarks/check.py tests/cases tests/cases_frameworks --counted
	$(BIN)/python benchmarks/frameworks.py
	$(BIN)/python benchmarks/frameworks.py --lines
	$(MINDSPORE)/bin/python benchmarks/frameworks.py ms-pynative ms-graph
	$(MINDSPORE)/bin/python benchmarks/parts_elsewhere.py mindspore

clean:  ## remove what make, the tests and the demo leave behind, .venv included
	rm -rf $(VENV) $(MINDSPORE) build dist whynan-out .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
