# What a developer types.  `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin

# Rooms that decide, and do nothing else: every branch of them is covered.
PURE := authproxy/model.py authproxy/errors.py authproxy/routing.py authproxy/authz.py authproxy/mutate.py \
	authproxy/edge/request_info.py authproxy/edge/origin.py authproxy/edge/path.py authproxy/edge/host.py \
	authproxy/edge/hops.py authproxy/http1/chunks.py authproxy/http1/heads.py \
	authproxy/http1/storing.py authproxy/http1/upgrading.py

comma := ,
empty :=
space := $(empty) $(empty)

.PHONY: help demo test quick lint format pytest conformance fuzz limits soak bench profile bench-sessions lock clean

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 16

demo: ## the proxy, a small OpenID provider and a sample app on this machine: prints what to open (PORT=8080)
	@requirements/venv run
	@$(BIN)/authproxy demo $(if $(PORT),--port $(PORT))

test: ## everything that belongs in CI: lint, types, tests, coverage; installs what it needs first
	@requirements/machine
	@requirements/venv dev
	@$(MAKE) lint
	@$(MAKE) pytest

quick: ## lint, types, architecture, unit tests, tables: for every change, in less than three minutes
	@requirements/machine
	@requirements/venv dev
	@$(MAKE) lint
	@$(BIN)/python -m pytest --no-header --quiet -n 2 --dist loadscope --no-loadscope-reorder \
		tests/test_architecture.py tests/unit tests/tables

lint: ## style and types
	@requirements/venv dev
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "not formatted: run make format" >&2; exit 1; }
	@$(BIN)/mypy --no-error-summary

format: ## write the source the one way it is written
	@requirements/venv dev
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format

# The gate says something only when it is not met, so that pytest's summary stays the last line.
pytest: ## the tests with their coverage gate (ARGS='-k name' to choose)
	@requirements/venv dev
	@$(BIN)/python -m pytest --cov --cov-report= --no-header --durations=5 --durations-min=5 \
		$(or $(ARGS),-n 2 --dist loadscope --no-loadscope-reorder)
	@[ -n "$(ARGS)" ] || $(BIN)/python -m coverage report --skip-covered --show-missing --fail-under=100 \
		--include=$(subst $(space),$(comma),$(strip $(PURE))) >.venv/gate 2>&1 \
		|| { cat .venv/gate; echo "the pure rooms are not wholly covered" >&2; exit 1; }

conformance: ## an independent WebSocket suite of 517 cases, directly and through the proxy: equal, or a table and failure (ARGS='7.*'); ten minutes
	@requirements/venv dev
	@$(BIN)/python -m tests.conformance.websocket_through $(ARGS)

fuzz: ## a million mutated requests, answers and paths each: no crash, no hang, no desync (EXECUTIONS=1000000)
	@requirements/venv dev
	@$(BIN)/python -m tests.fuzz $(EXECUTIONS)

limits: ## 2 GiB bodies each way, a thousand slow clients, floods: at full size, and the memory that they cost
	@requirements/machine
	@requirements/venv dev
	@WIRE_LIMITS=full $(BIN)/python -m pytest --no-header -s -p no:cacheprovider $(or $(ARGS),tests/stories/test_large_bodies.py tests/stories/test_slow_clients.py tests/hostile/test_limits.py)

soak: ## outages at full length under load, 50 random orders before Dex, 10,000 stories of the model, make limits, an hour of requests as fast as they go (OUTAGE=30, ORDERS=50, MODEL_EXAMPLES=10000, SOAK_REQUESTS=720000)
	@requirements/machine
	@requirements/venv dev
	@OUTAGE_SECONDS=$(or $(OUTAGE),30) DEX_ORDERS=$(or $(ORDERS),50) $(BIN)/python -m pytest --no-header -s -p no:cacheprovider $(or $(ARGS),tests/stories/test_nothing_signs_out.py tests/stories/test_failover_under_load.py tests/stories/test_dex.py)
	@[ -n "$(ARGS)" ] || MODEL_EXAMPLES=$(or $(MODEL_EXAMPLES),10000) $(BIN)/python -m pytest --no-header -p no:cacheprovider tests/model/test_disorder.py
	@[ -n "$(ARGS)" ] || $(MAKE) limits
	@$(BIN)/python -m tests.soak.endurance

bench: ## how fast it is beside nginx and others, in one interleaved run (QUICK=1, ROUNDS=5, SCENES=small,slow, JSON=FILE)
	@requirements/machine benchmarks
	@requirements/venv dev
	@$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(SCENES),--scenes $(SCENES)) $(if $(JSON),--json $(JSON))

profile: ## where the CPU time of a proxied request goes (REQUESTS=10000, DOOR=proxy or decisions)
	@requirements/machine benchmarks
	@requirements/venv dev
	@$(BIN)/python -m benchmarks.hot_spots --requests $(or $(REQUESTS),10000) --door $(or $(DOOR),proxy)

bench-sessions: ## what a live session costs in memory (SESSIONS=100000)
	@requirements/venv dev
	@$(BIN)/python -m benchmarks.session_memory $(SESSIONS)

lock: ## resolve the dependencies anew into requirements/*.txt (ARGS=--upgrade for newer ones)
	@requirements/venv dev
	@requirements/lock $(ARGS)

clean: ## remove what the other targets made
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage tests/peers/certified/node_modules
