#!/bin/sh
# Sends to a real service what nobody thinks of: schemathesis makes requests out of openapi.yaml,
# right and wrong ones, and looks whether the answers are those that it describes.
#
# It needs PyPI, once: so it is no part of `make test`. Everything is made under target/. Further
# arguments go to schemathesis: `tests/schemathesis/run.sh --max-examples 1000 --seed 7`.
set -eu
cd "$(dirname "$0")/../.."
root=$PWD
here=$root/tests/schemathesis
made=$root/target/schemathesis
mkdir -p "$made"

[ -x "$made/venv/bin/schemathesis" ] || {
  python3 -m venv "$made/venv"
  "$made/venv/bin/pip" install --quiet --requirement "$here/requirements.txt"
}
[ -n "${RUNLEDGER_TEST_BINARY:-}" ] || cargo build --locked
binary=${RUNLEDGER_TEST_BINARY:-$root/target/debug/runledger}

data=$(mktemp -d)
: >"$data/said"
service=
finish() {
  [ -z "$service" ] || kill "$service" 2>/dev/null || true
  rm -rf "$data"
}
trap finish EXIT
trap 'exit 1' INT TERM

# A key, so that the checks of authentication have something to check.
RUNLEDGER_LOG=error RUNLEDGER_API_KEYS=schemathesis "$binary" --listen 127.0.0.1:0 \
  --data-dir "$data" >"$data/said" &
service=$!
until grep -q '^try ' "$data/said"; do
  kill -0 "$service" || { echo "the service ended early" >&2; exit 1; }
  sleep 0.1
done
url=$(sed -n 's/^address *//p' "$data/said")

# Where it stands it leaves a folder of its own.
cd "$made"
code=0
PYTHONPATH=$here "$made/venv/bin/schemathesis" --config-file "$here/schemathesis.toml" \
  run "$root/openapi.yaml" --url "$url" --header 'Authorization: Bearer schemathesis' "$@" || code=$?

# Whatever was sent, it lives, and all that it accepted comes to its end.
kill -0 "$service" || { echo "the service has died" >&2; exit 1; }
exit "$code"
