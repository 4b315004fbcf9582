# make help lists the targets. Each of them first sees to .venv/, which costs nothing while it is up to date.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
HALF := $(VENV)/.half-made

# The Python that .venv is made with: make setup PYTHON=/path/to/python3.12
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
# Where to take torch from, when not from pip's own index. For a machine without a GPU, its CPU build:
#   make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# More arguments for pytest or JupyterLab: make test ARGS="-k motion -x"
ARGS ?=

PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
QUIET := $(if $(CI),--quiet)
NOTEBOOKS = $(wildcard notebooks/*.ipynb)

# Two processes with one thread each beat one process with two: the models in the tests are too small to share.
# A file stays in one process, for the sake of its fixtures.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
test test-slow test-oldest: export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo lab test test-slow test-full test-oldest validate check format bench docs dist gallery lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## .venv/ with everything in the lock; does nothing, and needs no network, when nothing changed

# Whatever was interrupted is made anew: pip takes a half-unpacked package for a whole one.
# The lock comes first, complete and by hash; then torch, whose dependencies are there by now, so that pip adds only
# what its build brings along; then svdlab itself, which fetches nothing.
$(READY): requirements.lock requirements-torch.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "svdlab needs Python 3.11 or newer, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)"; \
		echo "Name another with: make setup PYTHON=/path/to/python3.11"; exit 1; }
	@if [ -e $(HALF) ] || ! $(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "making $(VENV) with $$($(PYTHON) --version)"; mkdir -p $(VENV) && touch $(HALF) && $(PYTHON) -m venv --clear $(VENV); fi
	@touch $(HALF)
	$(PIP) install $(QUIET) --require-hashes --no-deps -r requirements.lock
	$(PIP) install $(QUIET) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements-torch.lock
	@rm $(HALF)
	$(PIP) install $(QUIET) --no-deps --no-build-isolation --editable .
	$(PIP) check
	@touch $@

demo: setup  ## the tour notebook on the embedded checkpoint: figures in results/00-tour/
	$(BIN)/svdlab demo

lab: setup  ## JupyterLab on copies of the notebooks, in lab/, which git ignores
	$(BIN)/svdlab notebooks lab
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/lab $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

check: setup  ## style, types, notebooks: what needs no test to be run
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(if $(NOTEBOOKS),$(BIN)/nbstripout --verify $(NOTEBOOKS))
	$(if $(NOTEBOOKS),$(BIN)/python tools/notebook_pairs.py $(NOTEBOOKS))

test: check  ## everything that guards a change: 10 to 15 minutes on 2 cores
	$(BIN)/pytest $(PARALLEL) $(ARGS)

# pytest exits with 5 when nothing matched: reported, and no failure only while no test carries the mark.
define marked
	$(BIN)/pytest -m '$(1)' $(2) $(ARGS) || { code=$$?; [ $$code = 5 ] && $(if $(ARGS),false,true) \
		&& ! grep -rqE 'mark\.($(3))\b' --include='test_*.py' tests && echo "$@: no test carries this mark yet"; }
endef

test-slow: setup  ## kills, full disks, browsers, installs: under 25 minutes; the browser ones need Chromium
	$(call marked,slow and not full and not validate,$(PARALLEL),slow|browser)

test-full: setup  ## the full-size architecture with random weights: up to 20 GB of memory
	$(call marked,full,,full)

# The versions of requirements-oldest.lock, in an environment of their own beside .venv/.
OLDEST := .venv-oldest
$(OLDEST)/.ready: requirements-oldest.lock requirements-torch.lock
	rm -rf $(OLDEST) && $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install $(QUIET) --require-hashes --no-deps -r requirements-oldest.lock
	$(OLDEST)/bin/python -m pip install $(QUIET) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements-torch.lock
	$(OLDEST)/bin/python -m pip install $(QUIET) --no-deps --no-build-isolation --editable .
	$(OLDEST)/bin/python -m pip check
	@touch $@

test-oldest: $(OLDEST)/.ready  ## what make test runs, on the oldest versions that pyproject.toml allows
	$(OLDEST)/bin/pytest $(PARALLEL) $(ARGS)

validate: setup  ## the tables behind the claims, measured again: hours
	$(BIN)/python tools/validate_organism.py
	$(BIN)/python tools/validate_bias.py
	$(BIN)/python -m tools.validate_designs docs/bias-designs.csv
	$(BIN)/python -m tools.validate_stats docs/statistics.csv
	$(call marked,validate,,validate)

docs: setup  ## the site in build/site/, strictly: a broken link or a missing reference fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: setup  ## the wheel and the source distribution in dist/
	$(BIN)/python -m build --no-isolation

bench: setup  ## times and memory, against what is promised
	$(BIN)/python -m tools.bench $(ARGS)

format: setup  ## ruff's layout, notebooks without outputs and in step with their .py halves
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(if $(NOTEBOOKS),$(BIN)/nbstripout $(NOTEBOOKS))
	$(if $(NOTEBOOKS),$(BIN)/python tools/notebook_pairs.py --write $(NOTEBOOKS))

gallery: setup  ## results/gallery/ anew: runs its notebooks, takes their figures and the explorer's
	$(BIN)/python tools/gallery.py $(ARGS)

lock:  ## requirements.lock anew from pyproject.toml; newest versions with ARGS=--upgrade
	PYTHON=$(PYTHON) tools/lock.sh $(ARGS)

clean:  ## remove .venv/ and caches; results/ stay
	rm -rf $(VENV) $(OLDEST) build/lock .mypy_cache .ruff_cache .pytest_cache
