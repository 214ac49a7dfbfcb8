"""The Runner of an agent SDK, as a client of Runledger. It needs nothing but Python's standard library.

    python3 examples/runner.py

RUNLEDGER_URL says where the service is, RUNLEDGER_API_KEY which key it wants.
"""

import asyncio
import http.client
import json
import os
import time
import urllib.error
import urllib.request
import uuid

URL = os.environ.get("RUNLEDGER_URL", "http://127.0.0.1:8080").rstrip("/")
KEY = os.environ.get("RUNLEDGER_API_KEY")
ENDED = ("COMPLETED", "FAILED", "CANCELLED")
LOST = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)
PATIENCE = 60  # seconds that the service may be away, for a restart say


class AgentError(Exception):
    """A run that failed, or a request that was refused. `code` is what programs look at."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class AgentTimeoutError(AgentError, TimeoutError):
    """The run, or one of its turns, took too long."""


def request(method, path, body=None, headers=(), read=json.load):
    """What an answer says. A lost connection is tried again: every request here may be repeated."""
    headers = {"Content-Type": "application/json", **dict(headers)}
    if KEY:
        headers["Authorization"] = f"Bearer {KEY}"
    data = None if body is None else json.dumps(body).encode()
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            asked = urllib.request.Request(URL + path, data, headers, method=method)
            return read(urllib.request.urlopen(asked, timeout=90))
        except urllib.error.HTTPError as refused:
            problem = json.load(refused)
            if not problem["retryable"] or time.monotonic() > deadline:
                raise AgentError(problem["code"], problem["detail"]) from None
        except LOST:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def create(agent, input, wait=0, **more):
    """Creates a run, once: with its key, a repeated POST finds the run that is there."""
    body = {"agent": agent, "input": input, **more}
    key = {"Idempotency-Key": str(uuid.uuid4())}
    return request("POST", f"/runs?wait={wait}", body, key)


def finished(run):
    """The run once it has ended; an AgentError where it failed."""
    while run["status"] not in ENDED:
        run = request("GET", f"/runs/{run['run_id']}?wait=60")
    error = run["error"]
    if error is None:
        return run
    is_timeout = error["code"] in ("max_time", "turn_timeout")
    raise (AgentTimeoutError if is_timeout else AgentError)(error["code"], error["message"])


def run_sync(agent, input, **more):
    """Runs the agent and waits for the result."""
    return finished(create(agent, input, wait=60, **more))


async def run_async(agent, input, **more):
    """The same for asyncio."""
    return await asyncio.to_thread(run_sync, agent, input, **more)


def run_stream(agent, input, **more):
    """Gives the run's events as they come; a connection that breaks off is made again."""
    run_id = create(agent, input, **more)["run_id"]
    last = 0
    while True:
        try:
            headers = {"Last-Event-ID": last}
            with request("GET", f"/runs/{run_id}/stream", None, headers, read=lambda answer: answer) as stream:
                for line in stream:
                    if line.startswith(b"data: "):
                        event = json.loads(line[6:])
                        last = event["seq"]
                        yield event
                        if event["type"] in ("run.completed", "run.failed", "run.cancelled"):
                            return
        except LOST:
            pass  # The run goes on without us; we go on behind the last event that we have.


def main():
    agent = {
        "name": "Assistant",
        "instructions": "You help {{user}}.",
        "tools": [{"type": "builtin", "name": "calculator"}],
    }
    alice = {"variables": {"user": "Alice"}}

    result = run_sync(agent, "What is 6*7?", **alice)
    print("run_sync:", result["final_output"])

    result = asyncio.run(run_async(agent, "What is 2+3?", **alice))
    print("run_async:", result["final_output"])

    text = ""
    for event in run_stream(agent, "What is 6*7?", **alice):
        if event["type"] == "turn.started":
            text = ""  # A turn begins, or begins anew: what a void attempt said does not count.
        elif event["type"] == "text":
            text += event["content"]
        elif event["type"] == "tool_call":
            print("run_stream: tool_call", event["tool_name"], event["arguments"]["expression"])
        elif event["type"] == "tool_result":
            print("run_stream: tool_result", event["result"])
    print("run_stream: text", text)

    config = {"max_turns": 5, "max_time": 30.0, "timeout_per_turn": 10.0, "metadata": {"user_id": "123"}}
    result = run_sync(agent, "What is 6*7?", config=config, **alice)
    print("RunConfig: max_turns", result["config"]["max_turns"], "metadata", json.dumps(result["metadata"]))
    print("RunContext: variables", json.dumps(result["variables"]), "history", len(result["history"]))
    print("RunResult:", result["status"], "turns", result["turn_count"], "tool_calls", len(result["tool_calls"]))

    # Multi-turn: a run's history is where the next one goes on.
    again = run_sync(agent, "And what is 2*42?", history=result["history"], **alice)
    print("conversation:", len(again["history"]), "messages:", again["final_output"])

    async def together():
        questions = [f"What is {n}*{n}?" for n in (2, 3, 4)]
        return await asyncio.gather(*(run_async(agent, question, **alice) for question in questions))

    for result in asyncio.run(together()):
        print("gather:", result["final_output"])

    try:
        run_sync(agent, "Speak slowly", config={"max_time": 0.3}, **alice)
    except TimeoutError as error:
        print("TimeoutError:", error.code)
    try:
        run_sync(agent, "What is 6*7?", config={"max_turns": 1}, **alice)
    except AgentError as error:
        print("AgentError:", error.code)
    try:
        run_sync({"name": "Assistant", "model": "nobody/knows"}, "Hello")
    except AgentError as error:
        print("AgentError:", error.code)


if __name__ == "__main__":
    main()
