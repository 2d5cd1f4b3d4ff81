# Quorate's commands. Each does all its own set-up; what is slow to build is kept outside the clone, by version.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PORT ?= 2379
DATA ?= quorate.data
SEEDS ?= 1..2000
ARGS ?=
BIN := $(or $(CARGO_TARGET_DIR),target)/release
DIST := $(or $(CARGO_TARGET_DIR),target)/dist
# Every recipe that links RocksDB finds it built once, for every profile.
CARGO := ROCKSDB_STATIC=1 ROCKSDB_LIB_DIR="$$(scripts/rocksdb.sh)" cargo

.PHONY: help setup build ship run test test-full verify fix unit sim sim-plants bench dist image charts e2e robustness upgrade
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: ## packages, and RocksDB once
	@scripts/setup.sh
	@scripts/rocksdb.sh >/dev/null

build: setup ## the programs, optimised
	$(CARGO) build --release --workspace --bins

ship: setup ## the programs as they are shipped: optimised across crates too
	$(CARGO) build --profile dist -p quorate-server -p quoratectl -p quorate-operator -p quorate-bench --bins

run: build ## one member on PORT (2379) in the foreground
	@PORT=$(PORT) DATA=$(DATA) BIN=$(BIN) scripts/run.sh

verify: setup ## formatting, lints, no advisories
	cargo fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

fix: ## formats
	cargo fmt --all

unit: setup
	$(CARGO) test --release --workspace

sim: setup ## clusters in virtual time from SEEDS (1..2000); ARGS=--trace shows one seed
	$(CARGO) run --release -p sim -- --seeds $(SEEDS) $(ARGS)

sim-plants: setup ## plants each known kind of mistake and looks for a seed that finds it
	$(CARGO) run --release -p sim --features plant -- --plant all --seeds $(SEEDS) $(ARGS)

test: ## the tier that CI runs
	@scripts/test.sh ci

test-full: ## every suite, whole
	@scripts/test.sh full

bench: ship ## side by side with etcd
	@BIN=$(DIST) bench/run.sh

dist: ship ## the image's root file system, in dist/
	@scripts/dist.sh $(DIST) dist

IMAGE ?= localhost/quorate:dev
image: dist ## the image, an OCI archive in dist.tar; IMAGE= names it
	@scripts/pack-image.py $(IMAGE) dist dist.tar

charts: setup ## the charts: schema, lint, golden renderings
	@tests/e2e/charts.sh

e2e: build ## the operator in a Kubernetes on this machine, step by step (root)
	@tests/setup.sh
	@BIN=$(BIN) tests/e2e/run.sh

upgrade: build ## three real members from an older build (OLDER=commit) to this one and back, under load (root)
	@older=$$(scripts/older.sh $(OLDER)) && $(BIN)/robustness --server $(BIN)/quorate --older "$$older" --seed $(SEED) --out $(dir $(BIN))upgrade

MINUTES ?= 30
SEED ?= 1
robustness: build ## three real members under faults for MINUTES (30), SEED (1); keeps its table in docs/failure-matrix.md (root)
	@$(BIN)/robustness --server $(BIN)/quorate --minutes $(MINUTES) --seed $(SEED) --out $(dir $(BIN))robustness --keep docs/failure-matrix.md
