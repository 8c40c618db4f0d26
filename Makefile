# Everything a developer or a newcomer does. `make` alone lists it.

PYTHON  ?= python3
PREFIX  ?= /usr/local
SBINDIR ?= /sbin
ARGS    ?=

BIN := .venv/bin
# Empty for root, and where sudo would ask for a password: then the tests say what they need.
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || { sudo -n true 2>/dev/null && echo sudo -n; })
# Files in the order of tests/conftest.py, the longest first, so that all workers end together. A third
# of the time a test waits, for a disk or a process, so there are more workers than cores.
BY_FILE := --dist loadfile --no-loadscope-reorder
# Tests start pondfs some thousand times. Where PYTHONDONTWRITEBYTECODE is set each would compile it.
COMPILE := $(BIN)/python -m compileall -q pondfs
WORKERS ?= $(shell echo $$(( ($$(nproc) * 3 + 1) / 2 )))
export PIP_DISABLE_PIP_VERSION_CHECK := 1
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long check lint fmt bench bench-scale docs install uninstall clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: packages-run .venv/.dev ## install what is missing; leaves .venv/bin/{pond,mount.pond,umount.pond}

demo: packages-run .venv/.run ## make a pond, mount it, work in it, commit, read the table (KEEP=1: stay mounted)
	@KEEP='$(KEEP)' bash docs/tutorial/demo.sh

test: packages-test check ## set up everything, then lint and run every test (ARGS='-k name')

test-long: packages-test .venv/.dev ## the campaigns at full length, an hour or two: crashes, power cuts, bad disks, load
	@$(COMPILE)
	@$(AS_ROOT) $(BIN)/pytest -n auto $(BY_FILE) -m campaign --long -o faulthandler_timeout=3600 $(ARGS)

check: lint ## the gate: lint, types, layers, tests (as root: they mount and change owners)
	@$(COMPILE)
	@$(AS_ROOT) $(BIN)/pytest -n $(WORKERS) $(BY_FILE) $(ARGS)

lint: .venv/.dev ## style, types and layers only
	@$(BIN)/ruff check -q pondfs tests docs
	@$(BIN)/ruff format -q --check pondfs tests docs
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo >.venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }

fmt: .venv/.dev ## format the code
	@$(BIN)/ruff check -q --fix-only pondfs tests docs
	@$(BIN)/ruff format pondfs tests docs

bench: .venv/.dev ## compare pond, ext4 and a bare pyfuse3 filesystem (ARGS='--json --quick …')
	@$(BIN)/python -m tests.bench $(ARGS)

bench-scale: .venv/.dev packages-test ## much of everything: half an hour, 50 GB (ARGS='--only million … --quick')
	@$(AS_ROOT) $(BIN)/python -m tests.bench.scale $(ARGS)

docs: .venv/.dev ## write the reference pages that are made from the source
	@$(BIN)/python -m docs.generate

install: packages-run ## install for everybody below PREFIX=/usr/local, with the helpers in /sbin
	@PYTHON='$(PYTHON)' PREFIX='$(PREFIX)' SBINDIR='$(SBINDIR)' bash mount/install.sh install

uninstall: ## take back what `make install` put there; ponds stay
	@PREFIX='$(PREFIX)' SBINDIR='$(SBINDIR)' bash mount/install.sh uninstall

clean: ## remove .venv and caches; ponds stay
	rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find pondfs tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

# --- how the .venv comes to be: once, and again when pyproject.toml changes ----------------------

.PHONY: packages-run packages-test
packages-run:
	@PYTHON='$(PYTHON)' bash tools/packages.sh run

packages-test:
	@PYTHON='$(PYTHON)' bash tools/packages.sh test

.venv/.made: | packages-run
	@[ -x $(BIN)/pip ] || { echo "==> .venv: $$($(PYTHON) -V)"; $(PYTHON) -m venv .venv; }
	@touch $@

.venv/.run: .venv/.made pyproject.toml
	@echo '==> .venv: pondfs and what it needs (a minute or two)'
	@$(BIN)/pip install -q -e '.[reader]'
	@touch $@

.venv/.dev: .venv/.run
	@echo '==> .venv: what the tests need'
	@$(BIN)/pip install -q -e '.[dev]'
	@touch $@
