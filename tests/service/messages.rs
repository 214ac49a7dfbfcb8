//! Models that are spoken to in Anthropic's dialect, and what becomes of the run.

use serde_json::{Value, json};

use crate::client::{of, spec};
use crate::service::{Service, Setup};
use crate::stub::{Do, Stub, say};

/// A service whose providers `anthropic` and `openai` are the stub.
async fn start(stub: &Stub) -> Service {
    let setup = Setup::default()
        .env("ANTHROPIC_BASE_URL", stub.root())
        .env("ANTHROPIC_API_KEY", "sk-ant-canary");
    Service::start_with(stub, setup).await
}

fn calculators(body: &mut Value) {
    body["agent"]["tools"] = json!([{"type": "builtin", "name": "calculator"}]);
}

/// Thinks, asks twice, then answers.
fn ask_twice(stub: &Stub, model: &str, [asks, ends]: [&'static str; 2]) {
    stub.on(model, move |call| match call.turn {
        1 => vec![
            Do::Think("Sums.".into()),
            Do::Say("I ask.".into()),
            Do::Call("calculator", json!({"expression": "1+1"})),
            Do::Call("calculator", json!({"expression": "2+2"})),
            Do::Finish(asks),
        ],
        _ => vec![Do::Say("2 and 4.".into()), Do::Finish(ends)],
    });
}

#[tokio::test]
async fn a_run_over_messages_thinks_calls_tools_and_counts_what_it_used() {
    let stub = Stub::start().await;
    ask_twice(&stub, "claude", ["tool_use", "end_turn"]);
    let service = start(&stub).await;
    let http = &service.client;
    let mut body = spec("anthropic/claude", "go");
    calculators(&mut body);
    let id = http.create(&body).await;
    let done = http.ended(&id).await;
    let got = (&done["status"], &done["stop_reason"], &done["final_output"]);
    assert_eq!(got, (&json!("COMPLETED"), &json!("end_turn"), &json!("2 and 4.")));
    let usage = &done["usage"];
    let counts = [
        "input_tokens",
        "cached_input_tokens",
        "cache_write_input_tokens",
        "output_tokens",
        "total_tokens",
    ]
    .map(|name| usage[name].as_u64().unwrap());
    assert_eq!(counts, [20, 8, 2, 10, 30]);
    let call = &stub.calls("claude")[0];
    assert_eq!(call.headers["x-api-key"], "sk-ant-canary");
    assert_eq!(call.headers["authorization"], "Bearer sk-ant-canary", "rule 22: to other hosts");
    assert_eq!(call.headers["anthropic-version"], "2023-06-01");
    let again = &stub.calls("claude")[1].request["messages"];
    let kinds = |message: &Value| -> Vec<String> {
        let blocks = message["content"].as_array().unwrap();
        blocks.iter().map(|block| block["type"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(kinds(&again[1]), ["thinking", "text", "tool_use", "tool_use"]);
    assert_eq!(again[1]["content"][0]["signature"], "signed Sums.");
    assert_eq!(kinds(&again[2]), ["tool_result", "tool_result"], "one message for all results");
    for place in [0, 1] {
        let (asked, answered) = (&again[1]["content"][2 + place], &again[2]["content"][place]);
        assert_eq!(asked["id"], answered["tool_use_id"]);
    }
    let log = http.log(&id).await;
    let completed = of(&log, "turn.completed");
    assert_eq!(completed[0]["model"], "stub-claude");
    assert_eq!(of(&log, "tool_call")[0]["provider_call_id"], "toolu_2");
    assert!(stub.unasked().is_empty(), "rule 25: nothing is asked of /v1/models");
    let all = json!(log).to_string() + &done.to_string() + &service.greeting;
    assert!(!all.contains("canary"));
}

#[tokio::test]
async fn a_history_with_thinking_and_calls_is_the_input_of_the_next_run_at_either_provider() {
    let stub = Stub::start().await;
    ask_twice(&stub, "claude", ["tool_use", "end_turn"]);
    ask_twice(&stub, "gpt", ["tool_calls", "stop"]);
    let service = start(&stub).await;
    let http = &service.client;
    for (first, next, thinks) in [
        ("anthropic/claude", "anthropic/claude", true),
        ("anthropic/claude", "openai/gpt", false),
        ("openai/gpt", "anthropic/claude", false),
        ("openai/gpt", "openai/gpt", true),
    ] {
        let mut body = spec(first, "go");
        calculators(&mut body);
        let before = http.ended(&http.create(&body).await).await;
        assert_eq!(before["status"], "COMPLETED", "{first}");
        let mut body = spec(next, "and now?");
        calculators(&mut body);
        body["history"] = before["history"].clone();
        let done = http.ended(&http.create(&body).await).await;
        assert_eq!(done["status"], "COMPLETED", "{first} then {next}");
        let model = next.split_once('/').unwrap().1;
        let calls = stub.calls(model);
        let asked = calls.iter().find(|call| call.input == "and now?").unwrap();
        let sent = asked.request["messages"].to_string();
        assert_eq!(sent.contains("Sums."), thinks, "{first} then {next}: {sent}");
        stub.forget();
    }
}

#[tokio::test]
async fn what_ends_no_message_is_void_announced_and_made_again() {
    let stub = Stub::start().await;
    let overloaded = "event: error\ndata: {\"type\":\"error\",\"error\":\
        {\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    stub.on("flaky", move |call| match call.attempt {
        1 => vec![Do::Refuse(
            529,
            &[],
            json!({"type": "error", "error":
            {"type": "overloaded_error", "message": "Overloaded"}})
            .to_string(),
        )],
        2 => vec![Do::Say("Half".into()), Do::Raw(overloaded.to_owned())],
        3 => vec![Do::Say("Half".into()), Do::Raw("data: [DONE]\n\n".into())],
        _ => vec![Do::Say("Whole.".into()), Do::Finish("end_turn")],
    });
    let service = start(&stub).await;
    let http = &service.client;
    let id = http.run("anthropic/flaky", "go").await;
    let done = http.ended(&id).await;
    assert_eq!((&done["status"], &done["final_output"]), (&json!("COMPLETED"), &json!("Whole.")));
    let log = http.log(&id).await;
    let told: Vec<(&Value, &Value)> = of(&log, "turn.aborted")
        .into_iter()
        .map(|one| (&one["reason"], &one["provider_status"]))
        .collect();
    let overloaded = (&json!("overloaded"), &json!(529));
    assert_eq!(told, [overloaded, overloaded, (&json!("cut"), &Value::Null)]);
}

#[tokio::test]
async fn ends_that_are_no_success_are_told_apart() {
    let stub = Stub::start().await;
    let reasons =
        ["max_tokens", "refusal", "pause_turn", "model_context_window_exceeded", "stop_sequence"];
    for reason in reasons {
        stub.on(reason, move |_| vec![Do::Say("Part".into()), Do::Finish(reason)]);
    }
    stub.on("long", |_| {
        let error = json!({"type": "error", "error": {"type": "invalid_request_error",
            "message": "prompt is too long: 9 tokens > 8 maximum"}});
        vec![Do::Refuse(400, &[], error.to_string())]
    });
    stub.on("gateway", |_| {
        let error = json!({"error": {"message": "no", "type": "BadRequestError", "code": 400}});
        vec![Do::Refuse(400, &[], error.to_string())]
    });
    stub.on("never", |_| say("not asked"));
    let service = start(&stub).await;
    let http = &service.client;
    for (model, status, stop_reason, output) in [
        ("max_tokens", "FAILED", "max_output_tokens", json!("Part")),
        ("refusal", "FAILED", "content_filter", json!("Part")),
        ("pause_turn", "FAILED", "model_error", json!("Part")),
        ("stop_sequence", "COMPLETED", "end_turn", json!("Part")),
        ("model_context_window_exceeded", "FAILED", "context_overflow", Value::Null),
        ("long", "FAILED", "context_overflow", Value::Null),
        ("gateway", "FAILED", "model_error", Value::Null),
    ] {
        let mut body = spec("", "go");
        body["agent"]["model"] = json!([format!("anthropic/{model}"), "anthropic/never"]);
        let done = http.ended(&http.create(&body).await).await;
        let got = (&done["status"], &done["stop_reason"], &done["final_output"]);
        assert_eq!(got, (&json!(status), &json!(stop_reason), &output), "{model}");
    }
    assert!(stub.calls("never").is_empty());
}
