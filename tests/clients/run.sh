#!/bin/sh
# Generates clients from openapi.yaml and lets each create and read a run on a real service. It needs
# PyPI, npm and crates.io; everything is made under target/clients. Arguments: which languages.
set -eu
cd "$(dirname "$0")/../.."
here=$PWD/tests/clients
made=$PWD/target/clients
mkdir -p "$made"

[ -n "${RUNLEDGER_TEST_BINARY:-}" ] || cargo build --locked
binary=${RUNLEDGER_TEST_BINARY:-target/debug/runledger}

data=$(mktemp -d)
: >"$data/said"
service=
finish() {
  [ -z "$service" ] || kill "$service" 2>/dev/null || true
  rm -rf "$data"
}
trap finish EXIT
trap 'exit 1' INT TERM

RUNLEDGER_LOG=warn RUNLEDGER_API_KEYS=alpha "$binary" --listen 127.0.0.1:0 \
  --data-dir "$data" >"$data/said" &
service=$!
until grep -q '^try ' "$data/said"; do
  kill -0 "$service" || { echo "the service ended early" >&2; exit 1; }
  sleep 0.1
done
RUNLEDGER_URL=$(sed -n 's/^address *//p' "$data/said")
RUNLEDGER_API_KEY=alpha
export RUNLEDGER_URL RUNLEDGER_API_KEY

python() {
  venv=$made/python-venv
  [ -x "$venv/bin/openapi-python-client" ] || {
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement "$here/python/requirements.txt"
  }
  rm -rf "$made/python"
  mkdir -p "$made/python"
  "$venv/bin/openapi-python-client" generate --path openapi.yaml --meta none \
    --config "$here/python/generator.yaml" --output-path "$made/python/runledger_client"
  PYTHONPATH=$made/python "$venv/bin/python" "$here/python/try_it.py"
}

typescript() {
  rm -rf "$made/typescript/src"
  mkdir -p "$made/typescript/src"
  cp "$here/typescript/package.json" "$here/typescript/tsconfig.json" "$made/typescript/"
  cp "$here/typescript/try_it.ts" "$made/typescript/src/"
  (
    cd "$made/typescript"
    npm install --silent --no-audit --no-fund
    npx openapi-typescript ../../../openapi.yaml --output src/runledger.d.ts
    npx tsc
    node built/try_it.js
  )
}

rust() {
  "$binary" openapi --3.0 >"$made/openapi-3.0.json"
  RUNLEDGER_OPENAPI=$made/openapi-3.0.json CARGO_TARGET_DIR=$made/rust \
    cargo run --quiet --manifest-path "$here/rust/Cargo.toml"
}

for language in ${*:-python typescript rust}; do
  echo "== $language"
  "$language"
done
