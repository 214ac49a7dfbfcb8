# The recipes of the project. `make` alone lists them.

.DEFAULT_GOAL := help
.PHONY: help setup fmt lint test

help: ## list the recipes
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: ## install what a fresh Debian machine lacks (a C compiler for SQLite, git, curl)
	@command -v cc >/dev/null && command -v curl >/dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq gcc libc6-dev curl >/dev/null; }

fmt: ## format the code
	cargo fmt --all

lint: setup ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings

test: lint ## everything that must hold before a change lands
	cargo test --locked
