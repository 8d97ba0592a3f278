# Set-up and checks. Each target makes the virtual environment it needs, once for each change of pyproject.toml.
# Another interpreter gets its own: make test PYTHON=python3.12 VENV=.venv-3.12

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
EXAMPLES ?= 10000
SEEDS ?= 1000
FIRST ?= 0
KILLS ?= 100
MINUTES ?= 5
NEMESIS ?= all
CHAOS_ARGS ?=

# Compose: found by itself, v2 before v1, or named: make up COMPOSE=docker-compose. Where containers reach the package
# index through this machine's own network only: MILLPOND_BUILD_NETWORK=host make up
COMPOSE ?=
PROJECT ?= millpond
PORT ?= 7070
CLUSTER = --project '$(PROJECT)' --compose '$(COMPOSE)' --port $(PORT)

# Most of the integration tests wait: three workers keep two cores busy. A file stays with one worker, because
# its tests share brokers.
WORKERS ?= 3
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

# The stubs are made by a generator of its own, pinned, because older generators make stubs that load on a
# wider range of protobuf releases. PROTOBUF_OLDEST is the lower bound in pyproject.toml.
PROTO_VENV := .venv-proto
PROTO_TOOLS := grpcio-tools==1.72.2
PROTOBUF_OLDEST := protobuf==6.30.0
PROTOBUF_NEWEST := protobuf<8
STUBS := client/src/millpond/v1

.DELETE_ON_ERROR:
.PHONY: help demo up down chaos test pytest check proto proto-check storage-fuzz fuzz sim failover stalled bench docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## the product's main job on real input, and a proof of its result
	$(BIN)/python deploy/demo

up: ## three brokers in containers, healthy, on 127.0.0.1:7070 …; PORT=n others, NAMES=1 for clients in containers
	@'$(PYTHON)' deploy/docker/cluster.py up $(CLUSTER) $(if $(NAMES),--names)

down: ## stop them; their data stay, but with VOLUMES=1
	@'$(PYTHON)' deploy/docker/cluster.py down $(CLUSTER) $(if $(VOLUMES),--volumes)

chaos: $(VENV)/.installed-dev ## MINUTES=n of faults on three containers: SEED=n, NEMESIS=kill,pause,…; to docs/proofs.txt
	COMPOSE='$(COMPOSE)' $(BIN)/python -m tests.chaos --minutes $(MINUTES) --nemesis $(NEMESIS) \
		$(if $(SEED),--seed $(SEED)) $(CHAOS_ARGS)

test: check ## everything that needs no Docker: check, then all other tests
	$(PYTEST) --ignore=tests/architecture $(PYTEST_ARGS)

pytest: $(VENV)/.installed-dev ## all tests and nothing else, for a second interpreter
	$(PYTEST) $(PYTEST_ARGS)

check: $(VENV)/.installed-dev ## lint, types, architecture: within a minute
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/architecture

storage-fuzz: $(VENV)/.installed-dev ## EXAMPLES=n runs of the log on the simulated disk; the result goes to docs/proofs.txt
	@if EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest --quiet --timeout=0 tests/property/test_log.py; \
	then result=clean; else result=FAILED; fi; \
	echo "$$(date -u +%F) $$(git describe --always --dirty) storage-fuzz EXAMPLES=$(EXAMPLES) $$result" \
		| tee -a docs/proofs.txt; [ $$result = clean ]

fuzz: $(VENV)/.installed-dev ## SEEDS=n runs of the metadata group under faults, from FIRST on; to docs/proofs.txt
	$(BIN)/python -m tests.sim.raft --seeds $(SEEDS) --first $(FIRST)

sim: $(VENV)/.installed-dev ## SEEDS=n runs of whole brokers under faults, from FIRST on, or one: SEED=n; COVERAGE=1: lines; to docs/proofs.txt
	PYTHONHASHSEED=0 $(BIN)/python -m tests.sim.cluster $(if $(COVERAGE),--coverage) $(if $(SEED),--replay $(SEED),--seeds $(SEEDS) --first $(FIRST))

failover: $(VENV)/.installed-dev ## KILLS=n times SIGKILL of a leader: until the next acknowledged write, and is all read; to docs/proofs.txt
	$(BIN)/python -m tests.bench.failover --kills $(KILLS)

stalled: $(VENV)/.installed-dev ## all tests on a machine that stands still now and then (root, control groups); to docs/proofs.txt
	$(BIN)/python -m tests.stalled $(PYTEST) $(PYTEST_ARGS)

bench: $(VENV)/.installed-dev ## the benchmark table; writes bench.json
	$(BIN)/python -m tests.bench --json bench.json

docs: $(VENV)/.installed ## regenerate docs/configuration.md from the code
	$(BIN)/python docs/configuration.py

proto: $(PROTO_VENV)/.installed ## regenerate the protobuf stubs; a second run leaves no diff
	cd proto && ../$(PROTO_VENV)/bin/python -m grpc_tools.protoc --proto_path=. \
		--python_out=../client/src --pyi_out=../client/src $$(find millpond -name '*.proto' | sort)

proto-check: proto $(VENV)/.installed-dev ## the committed stubs are the generated ones and load on both ends of the range
	git diff --exit-code -- $(STUBS)
	@for wanted in '$(PROTOBUF_OLDEST)' '$(PROTOBUF_NEWEST)'; do \
		where=$$(mktemp -d) && $(BIN)/python $(PIP_INSTALL) --no-deps --target "$$where" "$$wanted" && \
		PYTHONPATH="$$where" $(BIN)/python -W error -c 'import importlib, pkgutil, google.protobuf as p, millpond.v1 as v; \
			names = [m.name for m in pkgutil.walk_packages(v.__path__, "millpond.v1.")]; \
			modules = [importlib.import_module(name) for name in names if name.endswith("_pb2")]; \
			e = importlib.import_module("millpond.v1.errors_pb2"); \
			e.ErrorDetail.FromString(e.ErrorDetail(facts={"a": "b"}).SerializeToString()); \
			print(len(modules), "stubs load on protobuf", p.__version__)'; \
		status=$$?; rm -rf "$$where"; [ $$status -eq 0 ] || exit $$status; \
	done

clean: ## remove what the other targets made
	rm -rf $(VENV) .venv-* build dist bench.json .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find client broker tests deploy docs -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp for each set of packages; an installation that broke off leaves none and is done again.
$(VENV)/.created:
	@command -v '$(PYTHON)' >/dev/null || { echo "$(PYTHON) was not found: install Python 3.11 or later \
	(Debian, Ubuntu: apt install python3 python3-venv), or name yours: make PYTHON=…" >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is not Python 3.11 \
	or later: install one, and name it: make PYTHON=python3.12" >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no ensurepip: install it \
	(Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	'$(PYTHON)' -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(BIN)/python $(PIP_INSTALL) --editable '.[broker,cli]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml
	$(BIN)/python $(PIP_INSTALL) --editable '.[broker,cli,dev]'
	@touch $@ $(VENV)/.installed

$(PROTO_VENV)/.installed: Makefile
	'$(PYTHON)' -m venv --clear $(PROTO_VENV)
	$(PROTO_VENV)/bin/python $(PIP_INSTALL) '$(PROTO_TOOLS)'
	@touch $@
