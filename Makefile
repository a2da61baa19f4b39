# The one door for people and CI. `make help` lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= 1
RUST_SOURCES := $(shell find rust -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
unexport PYTHONPATH

.DEFAULT_GOAL := help
.PHONY: help setup demo run test test-cluster test-conformance test-nodes check format bench bench-quick wheel lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 16

setup: .make/engine ## virtual environment, and a release build of the extension

.make/tools: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "spliceway needs Python 3.11 or later: make PYTHON=python3.12")'
	@command -v cargo >/dev/null || { echo "spliceway needs a Rust toolchain (cargo) of version 1.88 or later"; exit 1; }
	@echo "setting up $(VENV) ..."
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@mkdir -p .make && touch $@

.make/engine: .make/tools $(RUST_SOURCES) pyproject.toml
	@echo "building the engine (about a minute the first time) ..."
	$(BIN)/maturin develop --release --quiet
	@touch $@

demo: setup ## the main job in 30 seconds: balance, kill a backend, lose no request
	@$(BIN)/spliceway demo

run: setup ## the agent in the foreground on examples/shop.yaml (ARGS="..." for more flags)
	@$(BIN)/spliceway run --manifests examples/shop.yaml $(ARGS)

test: setup ## all tests that need no Kubernetes build (those in network namespaces need root)
	cargo test --locked --workspace --exclude spliceway-py
	cargo test --locked --manifest-path bench/load/Cargo.toml
	$(BIN)/python -m pytest -m "not cluster and not conformance and not nodes"

test-cluster: setup ## the real API server and etcd are built (Go; five minutes the first time) and tested against
	$(BIN)/python tests/cluster/build.py kube-apiserver etcd
	$(BIN)/python tests/cluster/run.py

test-conformance: setup ## spliceway and the real kube-proxy in turn on the same cluster, cell by cell (root; Go)
	$(BIN)/python tests/cluster/build.py kube-apiserver etcd kube-proxy
	$(BIN)/python tests/conformance/run.py

test-nodes: setup ## the agents of three nodes, what clients see and what must not break (root; Go)
	$(BIN)/python tests/cluster/build.py kube-apiserver etcd
	$(BIN)/python tests/nodes/run.py

check: setup ## format, lint, types, layering
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo fmt --check --manifest-path bench/load/Cargo.toml
	cargo clippy --locked --manifest-path bench/load/Cargo.toml --all-targets -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python -m mypy.stubtest spliceway._engine
	$(BIN)/lint-imports

format: setup ## write what check wants to see
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## all benches next to every peer, and their report (root; Go; about two hours; RUN=2 for the second run)
	$(BIN)/python bench/run.py all --run $(RUN)

bench-quick: setup ## spliceway next to kube-proxy and haproxy in one run (root; Go; 2 minutes and what has to be built)
	$(BIN)/python tests/cluster/build.py kube-apiserver etcd kube-proxy
	$(BIN)/python bench/run.py quick

wheel: .make/tools ## an abi3 wheel in dist/
	$(BIN)/maturin build --release --out dist

lock: ## renew requirements.lock (needs uv)
	uv pip compile pyproject.toml --group tools --universal --python-version 3.11 --generate-hashes --no-header --upgrade -q -o requirements.lock

clean: ## remove everything that was built here
	rm -rf $(VENV) .make target dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache python/spliceway/*.so
