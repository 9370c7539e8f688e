# ScoutFS in user space. `make help` lists what can be done here.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz lint format bench install uninstall clean

PREFIX ?= /usr/local
DESTDIR ?=
PYTHON ?=
ARGS ?=
BENCH ?= quorum walk read

bin := .venv/bin
ready := .venv/.setup-done
sources := format scoutfs mount tests $(wildcard scripts/bench/*)

help: ## Show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(ready) ## Install the Debian packages that are missing (as root) and make .venv
	@echo "setup: done; the commands are in $(bin)"

$(ready): pyproject.toml scripts/setup
	@PYTHON="$(PYTHON)" scripts/setup

demo: $(ready) ## Mount a cluster of three on one loop device, kill its leader, watch the failover (root)
	@scripts/demo

test: $(ready) ## Run all tests (as root for those with real mounts); ARGS="-k quorum" picks some
	@$(bin)/pytest -n auto --dist loadfile $(ARGS)

fuzz: $(ready) ## Read recorded volumes with 200000 blocks changed at random; SCOUTFS_FUZZ_SEED=2 changes others
	@SCOUTFS_FUZZ=$${SCOUTFS_FUZZ:-50000} $(bin)/pytest -o faulthandler_timeout=0 tests/files/test_mutations.py $(ARGS)

lint: $(ready) ## Check style and types
	@$(bin)/ruff check $(sources)
	@$(bin)/ruff format --check $(sources)
	@$(bin)/mypy

format: $(ready) ## Lay the code out as lint wants it
	@$(bin)/ruff check --fix $(sources)
	@$(bin)/ruff format $(sources)

bench: $(ready) ## Measure against all targets (root, an idle machine, a quarter of an hour); BENCH=read measures one thing
	@status=0; for name in $(BENCH); do echo "$$name:"; $(bin)/python "scripts/bench/$$name" $(ARGS) || status=1; echo; done; exit $$status

install: ## Install for mount -t scoutfs: PREFIX=/usr/local, DESTDIR= for packagers
	@PYTHON="$(PYTHON)" PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" scripts/install

uninstall: ## Remove what install has put there
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" scripts/uninstall

clean: ## Remove what was built, .venv too
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
