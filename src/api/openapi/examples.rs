//! Examples. Those of requests work as they stand, with the demo model; a test sends them. Those of
//! answers are what it then answers; the same test holds their form.

use super::node::{Node, object};

/// What a stream begins with.
pub(super) const STREAM: &str = "retry: 1000\n\
    id: 17\n\
    event: tool_call\n\
    data: {\"seq\":17,\"at\":\"2026-11-24T20:50:53.640Z\",\"type\":\"tool_call\",\"turn\":1,\
    \"attempt\":1,\"item\":2,\"call_id\":\"call_0353Pbart2F6sbj9qrx55C_2\",\
    \"tool_name\":\"calculator\",\"arguments\":{\"expression\":\"17 * 23\"},\
    \"arguments_raw\":\"{\\\"expression\\\":\\\"17 * 23\\\"}\",\"executor\":\"server\",\
    \"effect\":\"read\"}\n\n";

const CALL: &str = "call_0353Pbart2F6sbj9qrx55C_2";
const ANSWER: &str =
    "This is demo/assistant, a script and not a language model. The result is 391.";
const WHO: &str = "This is demo/assistant, a script and not a language model. I ask calculator. ";
const QUESTION: &str = "What is 17 * 23?";

/// Bodies of `POST /runs`.
pub(super) fn requests() -> Node {
    object! {
        "tool" => object! {
            "summary" => "An agent with a tool, and a name for the run",
            "value" => with_tool(),
        },
        "shortest" => object! {
            "summary" => "The shortest",
            "value" => object! {
                "agent" => object! { "instructions" => "Answer in one sentence." },
                "input" => "What are you?",
            },
        },
        "limits" => object! {
            "summary" => "A conversation that goes on, with limits",
            "value" => with_limits(),
        },
    }
}

/// Bodies of `POST /batches`.
pub(super) fn batches() -> Node {
    let value = object! {
        "defaults" => object! {
            "agent" => object! { "name" => "Assistant" },
            "config" => object! { "max_turns" => 3u64 },
        },
        "runs" => [object! { "input" => "What is 6*7?" }, object! { "input" => "What is 7*8?" }],
        "metadata" => object! { "night" => "17" },
    };
    object! { "two" => object! { "summary" => "Two runs of one agent", "value" => value } }
}

/// Bodies of `PATCH /runs/{id}`.
pub(super) fn changes() -> Node {
    let value = object! {
        "config" => object! { "max_turns" => 20u64 },
        "metadata" => object! { "user_id" => "124" },
    };
    object! { "both" => object! { "summary" => "More turns, and other labels", "value" => value } }
}

fn with_tool() -> Node {
    object! {
        "agent" => object! {
            "name" => "Assistant",
            "instructions" => "You help {{user}}.",
            "model" => "demo/assistant",
            "tools" => [object! { "type" => "builtin", "name" => "calculator" }],
        },
        "input" => QUESTION,
        "variables" => object! { "user" => "Alice" },
        "config" => object! {
            "run_id" => "order-17",
            "max_turns" => 5u64,
            "metadata" => object! { "user_id" => "123" },
        },
    }
}

fn with_limits() -> Node {
    object! {
        "agent" => object! { "name" => "Assistant", "model" => ["demo/assistant"] },
        "input" => [object! { "type" => "text", "text" => "And what time is it?" }],
        "history" => [
            object! { "role" => "user", "content" => "Hi" },
            object! { "role" => "assistant", "content" => "Hello!" },
        ],
        "config" => object! {
            "max_time" => 60u64,
            "max_total_tokens" => 20_000u64,
            "on_limit" => "finalize",
        },
    }
}

/// The run that `with_tool` comes to.
pub(super) fn run() -> Node {
    let mut run = object! {
        "run_id" => "order-17",
        "status" => "COMPLETED",
        "stop_reason" => "end_turn",
        "agent" => object! { "name" => "Assistant", "version" => Node::Null },
        "model" => "demo/assistant",
        "config" => object! {
            "max_turns" => 5u64,
            "max_time" => 300u64,
            "timeout_per_turn" => 60u64,
            "stop_on_tool_error" => false,
            "verbose" => false,
            "trace_enabled" => true,
            "metadata" => object! { "user_id" => "123" },
            "on_limit" => "fail",
        },
        "input" => QUESTION,
        "final_output" => ANSWER,
        "output" => Node::Null,
        "error" => Node::Null,
        "required_action" => Node::Null,
        "turn_count" => 2u64,
        "elapsed_time" => 0.487,
        "waiting_time" => 0u64,
        "tool_calls" => [tool_call()],
        "history" => history(),
        "variables" => object! { "user" => "Alice" },
        "metadata" => object! { "user_id" => "123" },
        "usage" => usage(),
    };
    for name in ["thread_id", "batch_id", "parent_run_id", "continued_from"] {
        run.push(name, Node::Null);
    }
    run.push("queue_position", Node::Null);
    run.push("cancel_requested_at", Node::Null);
    run.push("last_seq", 37u64);
    run.push("created_by", "local");
    run.push("created_at", "2026-11-24T20:50:53.021Z");
    run.push("started_at", "2026-11-24T20:50:53.030Z");
    run.push("finished_at", "2026-11-24T20:50:53.517Z");
    run
}

fn tool_call() -> Node {
    object! {
        "call_id" => CALL,
        "provider_call_id" => Node::Null,
        "tool_name" => "calculator",
        "arguments" => object! { "expression" => "17 * 23" },
        "result" => 391u64,
        "is_error" => false,
        "outcome" => "ok",
        "turn" => 1u64,
        "elapsed_time" => 0.000179,
        "child_run_id" => Node::Null,
    }
}

fn history() -> Node {
    let call = object! {
        "call_id" => CALL,
        "tool_name" => "calculator",
        "arguments" => object! { "expression" => "17 * 23" },
    };
    Node::from([
        object! { "role" => "user", "content" => QUESTION },
        object! { "role" => "assistant", "content" => WHO, "tool_calls" => [call] },
        object! { "role" => "tool", "call_id" => CALL, "content" => "391" },
        object! { "role" => "assistant", "content" => ANSWER },
    ])
}

fn usage() -> Node {
    object! {
        "input_tokens" => 228u64,
        "cached_input_tokens" => Node::Null,
        "cache_write_input_tokens" => Node::Null,
        "output_tokens" => 27u64,
        "reasoning_tokens" => Node::Null,
        "total_tokens" => 255u64,
        "cost_usd" => Node::Null,
    }
}

/// A page of its log.
pub(super) fn page() -> Node {
    let result = object! {
        "seq" => 20u64,
        "at" => "2026-11-24T20:50:53.286Z",
        "type" => "tool_result",
        "turn" => 1u64,
        "attempt" => 1u64,
        "item" => 2u64,
        "call_id" => CALL,
        "tool_name" => "calculator",
        "result" => 391u64,
        "is_error" => false,
        "outcome" => "ok",
        "try" => 1u64,
        "elapsed_time" => 0.000179,
    };
    object! {
        "data" => [result],
        "next_after" => 37u64,
        "last_seq" => 37u64,
        "status" => "COMPLETED",
    }
}

/// A refusal.
pub(super) fn problem() -> Node {
    let detail = "must be between 1 and 1000, got 0";
    object! {
        "type" => "https://runledger.dev/errors#invalid_request",
        "title" => "The request is invalid",
        "status" => 422u64,
        "code" => "invalid_request",
        "detail" => format!("config.max_turns {detail}"),
        "retryable" => false,
        "request_id" => "01a20f54-495e-750d-8286-5da3f06818ee",
        "errors" => [object! { "pointer" => "/config/max_turns", "detail" => detail }],
    }
}
