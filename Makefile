# make demo   the main job: plain SGD beside SAM, ASAM and SAME on noisy digits; ends with a table and an HTML report
# make test   the tests; make test-slow the rest of them: several processes, the real compiler;
#             make test-integrations those that drive Lightning, transformers, accelerate, skorch, timm;
#             make test-oldest the tests with the oldest torch that is allowed, in an environment of its own
# make lint   style, format and types
# make docs   the documentation, into docs/_build/html
#
# All of them first make an environment in .venv, once. To change that:
#   make test VENV="$VIRTUAL_ENV"     use an environment that you have; a torch (2.11 or newer) in it is kept
#   make test PYTHON=python3.12       make .venv with another Python (3.11 or newer)

PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
BIN := $(VENV)/bin
READY := $(VENV)/flatminima-ready
STUDY ?= sgd_vs_sam
PRESET ?= quick

# uv installs in parallel, in a third of the time; where it can't be had, pip does the same.
# A torch that is there is kept, or the newest torchvision would replace it by the torch that it wants.
# The certificates are the system's, as with pip, for those who sit behind a proxy of their own.
# Byte code is compiled once here, and not in every process of a study where Python may not write it.
comma := ,
PIP := $(BIN)/python -m pip --disable-pip-version-check
KEPT := $(VENV)/flatminima-kept.txt
define install
$(PIP) freeze | grep '^torch==' > $(KEPT) || true
$(PIP) install --quiet uv && $(BIN)/python -m uv pip install --quiet --system-certs --compile-bytecode \
	--python $(BIN)/python --constraint $(KEPT) -e '$(1)' \
	|| $(PIP) install --constraint $(KEPT) -e '$(1)'
endef

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-integrations test-oldest lint docs clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

demo: $(READY)
	$(BIN)/flatminima run $(STUDY) --preset $(PRESET)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist=worksteal -q -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -n 2 --dist=worksteal -q -m slow

# Each framework must be there, and each test must run: a skipped one is a failure here.
test-integrations: $(READY)
	$(call install,.[lab$(comma)dev$(comma)dev-integrations])
	FLATMINIMA_EVERY_FRAMEWORK=1 $(BIN)/python -m pytest -n 2 --dist=worksteal -q tests/test_integrations.py

# The least that pyproject.toml allows; an environment that has a torch keeps it.
test-oldest:
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check 'torch==2.11.*'
	$(MAKE) test VENV=$(OLDEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(READY)
	$(call install,.[docs])
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call install,.[lab$(comma)dev])
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) docs/_build .pytest_cache .ruff_cache
