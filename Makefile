# The recipes of the project. `make` alone lists them.

.DEFAULT_GOAL := help
.PHONY: help setup toolchain run fmt lint test torture bench openapi generators schemathesis clients
SHELL := /bin/bash

# Programs, and the Debian packages that have them: to build and try the service, and to test it
# (four run the examples and play a terminal, two make disks fail and clocks go wrong; PostgreSQL's
# server stands outside of the path).
BUILD_TOOLS := cc:gcc curl:curl
TEST_TOOLS := $(BUILD_TOOLS) python3:python3 node:nodejs chromium:chromium script:bsdutils \
  strace:strace faketime:faketime /usr/lib/postgresql/*/bin/postgres:postgresql

# Installs the packages of the programs that are not there.
install = @packages=$$(for tool in $(1); do \
	  command -v $${tool%%:*} >/dev/null || echo "$${tool\#*:}"; done); \
	[ -z "$$packages" ] || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq --no-install-recommends $$packages libc6-dev ca-certificates >/dev/null; }

help: ## list the recipes
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: toolchain ## install what a fresh Debian machine with a Rust toolchain lacks
	$(call install,$(TEST_TOOLS))

toolchain:
	$(call install,$(BUILD_TOOLS))
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || \
	  rustup component add rustfmt clippy

run: toolchain ## start the service on 127.0.0.1:8080
	cargo run --release --locked

fmt: ## format the code
	cargo fmt --all

lint: setup ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --workspace -- -D warnings

test: lint ## everything that must hold before a change lands
	@mkdir -p target/torture
	set -o pipefail; cargo test --locked --workspace -- --show-output 2>&1 | tee target/torture/short.log
	tests/torture/torture.py --judge target/torture/short.log

torture: setup ## docs/reliability.md in its whole size; ROWS="1 4" for some of it
	tests/torture/torture.py $(ROWS) --report docs/torture.md

# Both at once: alone, each would be built with other features of the crates they share.
bench: setup ## measure beside the database's limit; CASES="plain tools", OPTIONS="--size whole --json FILE"
	cargo build --release --locked --workspace
	target/release/runledger-bench $(CASES) $(OPTIONS)

openapi: toolchain ## write openapi.yaml anew, after a change of the API
	cargo run --quiet --locked -- openapi > openapi.yaml.new && mv openapi.yaml.new openapi.yaml

# These two need PyPI and npm, and so are no part of `test`.
generators: toolchain
	$(call install,python3:python3 node:nodejs npm:npm)
	@python3 -c 'import ensurepip' 2>/dev/null || \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null

schemathesis: generators ## send to a real service what nobody thinks of, out of openapi.yaml
	tests/schemathesis/run.sh

clients: generators ## generate clients in three languages, and run them
	tests/clients/run.sh
