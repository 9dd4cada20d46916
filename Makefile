# `make help` lists the targets. Everything runs in .venv, built from requirements.lock with its hashes checked.

# python3.11 may be there as a launcher without a Python behind it, so it is tried rather than looked up.
PYTHON ?= $(shell python3.11 -c "" 2>/dev/null && echo python3.11 || echo python3)
UV_VERSION := 0.13.9
BIN := .venv/bin
STAMP := .venv/.built-from-lock

.DEFAULT_GOAL := help
.PHONY: help venv demo test faults lint bench collector peers lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP)  ## build .venv from requirements.lock, where it is missing or older

$(STAMP): requirements.lock pyproject.toml
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check --disable-pip-version-check
	touch $@

demo: venv  ## run the example service through an outage of its collector
	$(BIN)/python -m examples.demo

test: venv  ## run all tests
	$(BIN)/python -m pytest

faults: venv  ## try to lose a record in every way; write what came of it to docs/reliability.md (an hour, and half an hour of load)
	$(BIN)/python -m tests.faults --markdown docs/reliability.md

lint: venv  ## check style, format, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: venv  ## measure, and print one table
	$(BIN)/python -m tests.bench

collector: venv  ## build the Collector of collector-config/ into .collector
	$(BIN)/python -m tests.collector_build otelcol-audit

peers: venv  ## build all Go programs that tests run: the Collector, VictoriaLogs, Prometheus, a Kafka broker, signatures in Go
	$(BIN)/python -m tests.collector_build

lock:  ## write requirements.lock anew; `make lock UPGRADE=--upgrade` takes newer versions
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	.venv-lock/bin/uv pip compile --quiet $(UPGRADE) --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		--output-file requirements.lock pyproject.toml
	rm -rf .venv-lock

clean:  ## remove .venv, caches and what was built
	rm -rf .venv .venv-lock .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .collector build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
