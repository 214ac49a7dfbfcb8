# The recipes of the project. `make` alone lists them.

.DEFAULT_GOAL := help
.PHONY: help setup run fmt lint test

help: ## list the recipes
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: ## install what a fresh Debian machine with a Rust toolchain lacks
	@command -v cc >/dev/null && command -v curl >/dev/null || { \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq --no-install-recommends gcc libc6-dev curl ca-certificates >/dev/null; }
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || \
	  rustup component add rustfmt clippy

run: setup ## start the service on 127.0.0.1:8080
	cargo run --release --locked

fmt: ## format the code
	cargo fmt --all

lint: setup ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings

test: lint ## everything that must hold before a change lands
	cargo test --locked
