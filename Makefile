# Everything runs from .venv, which is built from a hash-pinned lock file.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/dev.lock
STAMP := $(VENV)/.installed

.DELETE_ON_ERROR:
.PHONY: setup lint types architecture test demo fraud-demo clean-demo clean lock schema soak bench

setup: $(STAMP)

$(STAMP): $(LOCK) pyproject.toml
	@echo "setting up $(VENV) from $(LOCK) (once; about 1.7 GB with the engines)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

architecture: $(STAMP)
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -p no:randomly tests/architecture

test: $(STAMP) $(VENV)/llmock/.installed
	$(BIN)/python -m pytest tests

# REPO=path N=6 INTERACTIVE=1 LATENCY=real
demo: $(STAMP)
	@$(BIN)/python -m examples.code_review $(if $(REPO),--repo "$(REPO)") $(if $(N),--commits $(N)) $(if $(INTERACTIVE),--interactive) $(if $(LATENCY),--latency $(LATENCY))

# ARGS="--transactions 20000 --processes 47 --beat 90"
fraud-demo: $(STAMP)
	@$(BIN)/python -m examples.fraud_review.demo $(ARGS)

clean-demo:
	@if [ -f $(STAMP) ]; then $(BIN)/python -m examples.code_review.leftovers var; fi
	@if [ -x $(BIN)/backbeat ]; then $(BIN)/backbeat down --dir var/fraud; fi
	rm -rf var

clean: clean-demo
	rm -rf $(VENV) dist

soak: $(STAMP) $(VENV)/.bench
	BACKBEAT_SOAK=1 $(BIN)/python -m pytest tests/chaos tests/integration/test_plans.py tests/integration/test_held_rows.py tests/integration/test_queue_machine.py tests/integration/test_approval_machine.py tests/integration/test_fulfilment.py tests/integration/test_admission.py
	BACKBEAT_TEST_UNCACHED=1 $(BIN)/python -m pytest $(addprefix tests/integration/test_,approval_flow.py orchestrations.py dispatcher.py fan_out.py orchestrated_calls.py)
	BACKBEAT_TEST_POOLER=1 BACKBEAT_TEST_POSTGRES=15 $(BIN)/python -m pytest $(addprefix tests/integration/test_,queue_sql.py settle_sql.py calls_sql.py effects_sql.py enqueue_sql.py outbox_sql.py bulk.py model_call.py notify.py orchestrations.py)

# It judges our client from outside, with a pytest plugin and an event loop that are not to be ours.
$(VENV)/llmock/.installed: requirements/llmock.lock $(STAMP)
	@$(PYTHON) -m venv $(VENV)/llmock
	@$(VENV)/llmock/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/llmock.lock
	@touch $@

# The queues that ours is measured against, and the collector that the soak sends spans through.
$(VENV)/.bench: requirements/bench.lock $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.lock
	@touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.$(BENCH)

# Rewrites migrations/schema.sql from the migrations.
schema: $(STAMP)
	$(BIN)/python -m tests.support.dump_schema

# Rebuilds the lock file; needs uv, which is not part of the project.
lock:
	uv pip compile requirements/llmock.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements/llmock.lock
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o $(LOCK)
