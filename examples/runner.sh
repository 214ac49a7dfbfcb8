#!/bin/sh
# What an agent SDK's Runner does, as curl lines. `config.run_id` names a run, so that nothing has to be
# read out of an answer, and a repeated POST finds the run that is there.
#
#     sh examples/runner.sh
#
# RUNLEDGER_URL says where the service is, RUNLEDGER_API_KEY which key it wants.
set -eu

url=${RUNLEDGER_URL:-http://127.0.0.1:8080}
name=example-$(date +%s)-$$

ask() { # METHOD PATH [curl's arguments]
    method=$1 path=$2
    shift 2
    curl --silent --show-error --fail-with-body --retry 5 --retry-connrefused \
        --header "Authorization: Bearer ${RUNLEDGER_API_KEY:-none}" \
        --header 'Content-Type: application/json' --request "$method" "$@" "$url$path"
    echo
}

body() { # RUN INPUT [more fields of config]
    cat <<JSON
{"agent": {"name": "Assistant", "instructions": "You help {{user}}.",
           "tools": [{"type": "builtin", "name": "calculator"}]},
 "variables": {"user": "Alice"}, "input": "$2", "config": {"run_id": "$name-$1"${3:+, $3}}}
JSON
}

echo '# run_sync: create a run and wait for its result'
ask POST '/runs?wait=60' --data "$(body sync 'What is 6*7?')"

echo '# the same again: one intent, one run'
ask POST '/runs?wait=60' --data "$(body sync 'What is 6*7?')"

echo '# run_async: create it, do something else, then ask for it'
ask POST /runs --data "$(body async 'What is 2+3?')"
ask GET "/runs/$name-async?wait=60&omit=history"

echo '# run_stream: its events as they come'
ask POST /runs --no-buffer --header 'Accept: text/event-stream' --data "$(body stream 'What is 6*7?')"

echo '# the same stream later, behind event 3'
ask GET "/runs/$name-stream/stream?types=text" --no-buffer --header 'Last-Event-ID: 3'

echo '# RunConfig: limits hold on the server'
ask POST '/runs?wait=60' --data "$(body limits 'Speak slowly' '"max_time": 0.3, "metadata": {"user_id": "123"}')"

echo '# gather: several at once, then the result of each'
for n in 2 3 4; do
    ask POST /runs --data "$(body "gather-$n" "What is $n*$n?")"
done
for n in 2 3 4; do
    ask GET "/runs/$name-gather-$n?wait=60"
done

echo '# cancel: the run ends, and what there is of an answer is kept'
ask POST /runs --data "$(body cancel 'Speak slowly in 500 words')"
ask DELETE "/runs/$name-cancel?wait=60"
