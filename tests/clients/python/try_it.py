"""Creates and reads a run with the client that was generated from openapi.yaml."""

import os

from runledger_client.api.events import list_events
from runledger_client.api.models import list_models
from runledger_client.api.runs import create_run, get_run, get_run_spec
from runledger_client.client import AuthenticatedClient
from runledger_client.models import (
    Agent,
    BuiltinTool,
    BuiltinToolName,
    Config,
    Problem,
    Run,
    RunRequest,
    Status,
)

client = AuthenticatedClient(
    base_url=os.environ["RUNLEDGER_URL"], token=os.environ["RUNLEDGER_API_KEY"], timeout=60
)

models = list_models.sync(client=client)
assert models.default_model == "demo/assistant", models

calculator = BuiltinTool(type_="builtin", name=BuiltinToolName.CALCULATOR)
request = RunRequest(
    agent=Agent(name="Assistant", model="demo/assistant", tools=[calculator]),
    input_="What is 17 * 23?",
    config=Config(run_id="python-1", max_turns=5),
)
created = create_run.sync_detailed(
    client=client, body=request, wait=60, idempotency_key="python-1"
)
assert created.status_code == 201, created
assert created.headers["Location"] == "/runs/python-1"

run = get_run.sync("python-1", client=client)
assert isinstance(run, Run) and run.status == Status.COMPLETED, run
assert "391" in run.final_output and run.tool_calls[0].result == 391, run
assert run.usage.total_tokens > 0 and run.error is None

page = list_events.sync("python-1", client=client, types="tool_call,tool_result")
kinds = [event.type_ for event in page.data]
assert kinds == ["tool_call", "tool_result"], kinds
assert page.data[1]["result"] == 391 and page.status == Status.COMPLETED

again = create_run.sync_detailed(client=client, body=request, idempotency_key="python-1")
assert again.status_code == 200 and again.headers["Idempotent-Replayed"] == "true", again

spec = get_run_spec.sync("python-1", client=client)
assert spec.agent.tools[0].name == "calculator", spec

request.config.max_turns = 0
refused = create_run.sync(client=client, body=request)
assert isinstance(refused, Problem) and refused.code == "invalid_request", refused
assert refused.errors[0].pointer == "/config/max_turns", refused

print(f"python: {run.run_id} {run.status}: {run.final_output}")
