# Every target makes its environment in .venv, so `make serve` needs no step before it.

PYTHON ?= python3
CONFIG ?= serve_config.yaml
VENV := .venv
BIN := $(VENV)/bin

# Python keeps byte code, whatever the shell sets: otherwise each replica would compile the sources.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help serve test test-long check bench bench-gate bench-peers bench-clients bench-choosing bench-routing bench-failures bench-sizing bench-answers format protos clean

help:
	@echo "make serve   start the server with $(CONFIG), http://localhost:8000; Ctrl-C ends it"
	@echo "make test    run all tests"
	@echo "make test-long  the same with four times as many examples in property-based tests"
	@echo "make check   formatting, lint, who imports whom, types"
	@echo "make bench   compare with other ways to serve a model; needs wrk (apt-get install wrk)"
	@echo "make bench-gate  a short run that fails if Ray Serve as documented comes too close"
	@echo "make bench-peers  compare with Triton, or with MLServer, LitServe and BentoML (BENCH=python);"
	@echo "                  installs them in build/peers"
	@echo "make bench-clients  Triton's perf_analyzer over HTTP and gRPC; fetches it into build/"
	@echo "make bench-choosing  what reshape, max_compiled_shapes, ranges and layouts cost"
	@echo "make bench-routing  anyshape's request router beside Serve's, in simulated and real clusters"
	@echo "make bench-failures  three nodes under load, whose parts die one after the other; needs root"
	@echo "make bench-sizing  how many replicas, and how many cores for each"
	@echo "make bench-answers  whether answers stay the same when shapes get compilations; takes minutes"
	@echo "make protos  generate the gRPC messages from the .proto files"
	@echo "make format  format the sources for 'make check'"
	@echo "make clean   remove $(VENV) and all generated files"

# The environment for serving, and the one for developing, which has all of it. Python compiles the
# sources that it imports, when it imports them; pip would compile all of them.
INSTALL = $(PYTHON) -m venv $(VENV) && \
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e
$(VENV)/.serve: pyproject.toml constraints.txt
	@echo 'installing into $(VENV), which takes a minute or two'
	@$(INSTALL) '.[examples]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	@echo 'installing into $(VENV), which takes a minute or two'
	@$(INSTALL) '.[dev]'
	@touch $(VENV)/.serve $@

# Starts Ray with ray.env.
# Where HAProxy cannot run, it uses a copy of the configuration with Ray's own proxy.
serve: $(VENV)/.serve
	@$(BIN)/python -m deployments.check $(CONFIG)
	@set -a; . ./ray.env; set +a; \
	if $(BIN)/python -m deployments.check --haproxy-available; then \
	  exec $(BIN)/serve run $(CONFIG); \
	else \
	  echo "HAProxy cannot run here: serving through Ray's own, slower proxy"; \
	  $(BIN)/python -m deployments.check $(CONFIG) --without-haproxy $(VENV)/$(notdir $(CONFIG)) && \
	  exec $(BIN)/serve run $(VENV)/$(notdir $(CONFIG)); \
	fi

# Running servers are tested in one process, all else on all cores: two workers finish a little sooner,
# but on slow cores they make tests of timing fail.
PYTEST := $(BIN)/python -m pytest --durations=10
test: $(VENV)/.dev
	$(PYTEST) --ignore=tests/e2e --numprocesses=auto --dist=loadfile
	$(PYTEST) tests/e2e

test-long: export ANYSHAPE_TESTS := long
test-long: test

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo > $(VENV)/imports.txt || { cat $(VENV)/imports.txt; exit 1; }
	$(BIN)/mypy

# BENCH=--help lists the options.
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(BENCH)

bench-gate: $(VENV)/.dev
	$(BIN)/python -m benchmarks.gate

# Makes the peers' environments if they are missing. BENCH=--help lists the options here too.
bench-peers: $(VENV)/.dev
	$(BIN)/python -m benchmarks.peers $(BENCH)

bench-clients: $(VENV)/.dev
	$(BIN)/python -m benchmarks.perf_analyzer $(BENCH)

bench-choosing: $(VENV)/.dev
	$(BIN)/python -m benchmarks.choosing $(BENCH)

bench-routing: $(VENV)/.dev
	$(BIN)/python -m benchmarks.routing $(BENCH)

bench-failures: $(VENV)/.dev
	$(BIN)/python -m benchmarks.failures $(BENCH)

bench-sizing: $(VENV)/.dev
	$(BIN)/python -m benchmarks.sizing $(BENCH)

bench-answers: $(VENV)/.dev
	$(BIN)/python -m benchmarks.answers $(BENCH)

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# With an old compiler, whose output runs with every newer protobuf.
PROTOS := deployments/ingress/protos
protos:
	@test -x build/protoc/bin/python || $(PYTHON) -m venv build/protoc
	@build/protoc/bin/pip install --quiet "grpcio-tools==1.62.3" "setuptools<81"
	build/protoc/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. $(PROTOS)/*.proto

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
