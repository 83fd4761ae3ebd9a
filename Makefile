# Two commands on a fresh machine: `make demo` and `make test`. Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo docs gpu test test-slow check setup clean
.DEFAULT_GOAL := help

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/done: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer, got " + sys.version.split()[0] + "; make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	rm -rf build *.egg-info  # a stale one would hide entry points that came since
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

setup: .venv/done  ## the environment in .venv

demo: .venv/done  ## the main job, offline: attacks x defenses x shifts on the embedded pictures, to an HTML report
	$(BIN)/robustsuite run --out runs/demo

test: .venv/done  ## the tests, under ten minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: .venv/done  ## the heavier checks too
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow or not slow"

gpu: .venv/done  ## on a machine with a GPU: its conformance, agreement with the CPU and speed beside the peers, in runs/gpu
	$(BIN)/python benchmarks/gpu.py --device cuda --out runs/gpu

docs: .venv/done  ## the documentation as a static site in build/docs, a page for every plugin
	$(BIN)/robustsuite docs --out build/docs

check: .venv/done  ## ruff, mypy, tests of the packaging
	$(BIN)/ruff check .
	$(BIN)/python tests/typed.py
	$(BIN)/python -m pytest tests/test_packaging.py tests/test_house.py

clean:
	rm -rf .venv build dist *.egg-info
