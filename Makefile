# Everything a person or CI types. Each target sets up what it needs; nothing is installed outside .venv but Debian packages.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: help setup test lint types unit pythons integration e2e soak bench demo demo-down lock wheel clean

help:
	@echo "make demo        build a real three-node cluster on this machine (root, Debian 12), and show it"
	@echo "make demo-down   take it away again"
	@echo "make test        lint, types, unit, integration and e2e tests; what CI runs"
	@echo "make lint types unit integration e2e      one part of it"
	@echo "make pythons     the unit tests under Python 3.13 in a Debian trixie root (root, debootstrap)"
	@echo "make soak        the long matrices (kill points, losses, mutations), some three hours; SOAK=\"--only WORD\" for some"
	@echo "make bench       figures beside the bare commands and the peers; writes docs/bench.md"
	@echo "make lock        resolve requirements.lock anew"
	@echo "make wheel       build the wheel into dist/"

$(STAMP): pyproject.toml requirements.lock tests/setup.sh
	PYTHON=$(PYTHON) sh tests/setup.sh $(VENV)
	@touch $@

setup: $(STAMP)

test: setup
	$(PY) -m tests.run

lint types unit pythons integration e2e: setup
	$(PY) -m tests.run $@

SOAK ?=  # e.g. make soak SOAK="--only killed"
soak: setup
	$(PY) -m tests.run soak --write docs/soak.md $(SOAK)

bench: setup
	$(PY) -m bench --write

demo: setup
	$(PY) -m tests.demo up

demo-down: setup
	$(PY) -m tests.demo down

lock: setup
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --no-annotate --group dev pyproject.toml -o requirements.lock

wheel: setup
	$(VENV)/bin/uv build --wheel --out-dir dist

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
