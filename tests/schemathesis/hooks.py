"""What a schema can't say: the reasons for which a request that fits the document may be refused."""

import re

import schemathesis

# Each is a part of what the service says then.
BEYOND_SCHEMAS = [
    r"needs instructions or name",
    r"needs `config` with a limit to raise, or `metadata`",
    r"can only be raised",
    r"can't be shared: each run has its own",
    r"is the name of run \d+ of this batch too",
    r"names a run that is there already",
    r"is damaged; send the `next_cursor`",
    r"belongs to a list with other filters",
    r"may have at most \d+ bytes together",
    r"is required: ",  # of a run of a batch, where the defaults don't have it either
    r"is beyond the run's last event",
    r"needs the Idempotency-Key or config\.run_id",
    r"can't be combined with `after` or `wait`",
    # Of POST /runs: `wait` belongs to the JSON answer, the others to the stream.
    r"unknown parameter `(after|types|named)`; known here: wait",
    r"unknown parameter `wait`; known here: after, types, named",
    r"was used for another request",
    r"unknown model ",
    r"no price is configured for",
    r"there is no secret `",
    r"names the variable ",
    r"names .* which is no tool of the agent",
    r"another tool is called .* already",
    r"is no JSON Schema that can be used here",
    r"must be an http or https URL",
    r"is set by the service; leave it out",
    r"is no name of a header",
    r"must be visible ASCII characters and spaces",
    r"must name a secret as ",
    r"is there twice: names differ",
    r"must have at most \d+ headers of",
    r"must be one of .* for .*, got",  # a provider's own words for reasoning_effort
    r"answers no open tool call of the message before it",
    r"is another tool call already",
    r"ends before the answer to",
    r"comes before the answer",
    r"not in the form of a UUID",
    # `""` is a quoted nothing.
    r"must have 1 to \d+ visible ASCII characters",
    r"must be the id of an event of this run",  # more than 64 bits
    r"must be a whole number between 0 and \d+, got `\d{19,}`",
]


@schemathesis.check
def refused_for_a_reason_beyond_schemas(ctx, response, case):
    """A request that fits the document is refused for one of the reasons above, or not at all."""
    meta = case.meta
    if response.status_code != 422 or meta is None or not meta.generation.mode.is_positive:
        return None
    problem = response.json()
    details = [error["detail"] for error in problem.get("errors", [])] or [problem["detail"]]
    for detail in details:
        if not any(re.search(reason, detail) for reason in BEYOND_SCHEMAS):
            raise AssertionError(f"the document allows it, the service does not: {detail}")
    return None


# Parameters of a query that may be repeated.
LISTS = ["run_id", "stop_reason", "status", "metadata", "omit"]


@schemathesis.hook
def filter_case(context, case):
    """Leaves out what only seems wrong: in a query, one value is a list of one."""
    query = case.query or {}
    return all(isinstance(query[name], list) for name in LISTS if name in query)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Lets more of the right bodies be accepted: only few names are those of a model, and so on."""
    meta = case.meta
    if meta is None or not meta.generation.mode.is_positive or not isinstance(case.body, dict):
        return
    query = case.query or {}
    if case.method.upper() == "POST" and case.path == "/runs":
        # Which parameters are taken depends on what is accepted.
        if any(name in query for name in ("after", "types", "named")):
            query.pop("wait", None)
            case.headers["Accept"] = "text/event-stream"
    bodies = [case.body, case.body.get("defaults"), *(case.body.get("runs") or [])]
    for body in bodies:
        agent = body.get("agent") if isinstance(body, dict) else None
        if isinstance(agent, dict):
            agent["name"] = agent.get("name") or "Assistant"
            agent["model"] = "demo/assistant"
            settings = agent.get("model_settings")
            if isinstance(settings, dict):
                settings["tool_choice"] = None
                settings["reasoning_effort"] = None
        config = body.get("config") if isinstance(body, dict) else None
        if isinstance(config, dict) and "max_cost_usd" in config:
            config["max_cost_usd"] = None
