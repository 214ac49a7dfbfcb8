//! Every bound on a run, through the socket, with the stub's counts.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Client, of, spec};
use crate::service::Service;
use crate::stub::{Do, Stub, calculate, say};

async fn run(http: &Client, model: &str, config: Value) -> (Value, Vec<Value>) {
    let mut body = spec(&format!("openai/{model}"), model);
    body["config"] = config;
    let id = http.create(&body).await;
    let run = http.ended(&id).await;
    let log = http.log(&id).await;
    (run, log)
}

#[track_caller]
fn ended(run: &Value, status: &str, stop_reason: &str) {
    assert_eq!(
        (&run["status"], &run["stop_reason"]),
        (&json!(status), &json!(stop_reason)),
        "{run}"
    );
    let code = if status == "FAILED" { json!(stop_reason) } else { Value::Null };
    assert_eq!(run["error"].get("code").cloned().unwrap_or_default(), code);
}

#[tokio::test]
async fn turns_and_calls_and_tokens_fail_or_finalize() {
    let stub = Stub::start().await;
    // Wants tools for ever, unless none are offered.
    let wants = |call: &crate::stub::Call| {
        if call.request.get("tools").is_some() {
            [vec![Do::Say("More. ".into())], calculate(2)].concat()
        } else {
            say("In short: no.")
        }
    };
    for model in ["turns", "turns-last", "calls", "calls-last", "tokens", "tokens-last"] {
        stub.on(model, wants);
    }
    let service = Service::start(&stub).await;
    let http = &service.client;

    let (failed, log) = run(http, "turns", json!({"max_turns": 2})).await;
    ended(&failed, "FAILED", "max_turns");
    assert_eq!(failed["final_output"], "More. ", "what there is of a result is kept");
    assert_eq!(stub.counts("turns"), [(1, 1), (2, 1)].into());
    let outcomes: Vec<&Value> = of(&log, "tool_result").iter().map(|one| &one["outcome"]).collect();
    assert_eq!(
        outcomes,
        ["ok", "ok", "cancelled", "cancelled"],
        "the last turn's calls do not run"
    );

    let (last, _) = run(http, "turns-last", json!({"max_turns": 2, "on_limit": "finalize"})).await;
    ended(&last, "COMPLETED", "max_turns");
    assert_eq!((&last["final_output"], &last["turn_count"]), (&json!("In short: no."), &json!(3)));

    let (failed, log) = run(http, "calls", json!({"max_tool_calls": 3})).await;
    ended(&failed, "FAILED", "max_tool_calls");
    assert_eq!(of(&log, "tool.started").len(), 2, "two more would be four: none of them runs");
    let (last, _) =
        run(http, "calls-last", json!({"max_tool_calls": 1, "on_limit": "finalize"})).await;
    ended(&last, "COMPLETED", "max_tool_calls");
    assert_eq!(last["final_output"], "In short: no.");

    // A turn costs 15.
    let (failed, _) = run(http, "tokens", json!({"max_total_tokens": 30})).await;
    ended(&failed, "FAILED", "max_total_tokens");
    assert_eq!(stub.counts("tokens"), [(1, 1), (2, 1)].into());
    let (last, _) =
        run(http, "tokens-last", json!({"max_total_tokens": 15, "on_limit": "finalize"})).await;
    ended(&last, "COMPLETED", "max_total_tokens");
    let (answer, _) = run(http, "plain", json!({"max_total_tokens": 1})).await;
    ended(&answer, "COMPLETED", "end_turn");
}

#[tokio::test]
async fn time_is_up_for_a_turn_and_for_a_run() {
    let stub = Stub::start().await;
    stub.on("turn", |_| vec![Do::Say("Well".into()), Do::Hang]);
    stub.on("run", |call| match call.turn {
        1 => calculate(1),
        _ => vec![Do::Say("Well".into()), Do::Hang],
    });
    stub.on("retries", |_| vec![Do::Refuse(503, &[], "{}".into())]);
    let service = Service::start(&stub).await;
    let http = &service.client;
    let (failed, log) = run(http, "turn", json!({"timeout_per_turn": 0.3})).await;
    ended(&failed, "FAILED", "turn_timeout");
    assert_eq!(failed["final_output"], "Well");
    assert_eq!(failed["error"]["retryable"], true);
    assert_eq!(of(&log, "turn.aborted")[0]["reason"], "limit");
    stub.hung_up("turn", 1).await;

    let (failed, _) = run(http, "run", json!({"max_time": 0.4})).await;
    ended(&failed, "FAILED", "max_time");
    assert!(failed["elapsed_time"].as_f64().unwrap() >= 0.4);
    assert_eq!(failed["turn_count"], 1);
    stub.hung_up("run", 1).await;

    let (failed, _) = run(http, "retries", json!({"timeout_per_turn": 0.6})).await;
    ended(&failed, "FAILED", "model_error");
    let calls = stub.calls("retries").len();
    assert!(
        (1..4).contains(&calls),
        "a retry that would pass the turn's time is not made: {calls}"
    );
}

#[tokio::test]
async fn a_tools_error_goes_to_the_model_or_ends_the_run() {
    let stub = Stub::start().await;
    let script = |call: &crate::stub::Call| match call.turn {
        1 => vec![
            Do::Call("calculator", json!({"expression": "1/0"})),
            Do::Call("calculator", json!({"expressions": 1})),
            Do::Call("nonesuch", json!({})),
            Do::Finish("tool_calls"),
        ],
        _ => say("I see."),
    };
    for model in ["errors", "stop"] {
        stub.on(model, script);
    }
    stub.on("only-mine", |call| match call.turn {
        1 => vec![
            Do::Call("calculator", json!({"expressions": 1})),
            Do::Call("nonesuch", json!({})),
            Do::Raw(
                "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":7,\
                 \"id\":\"x\",\"function\":{\"name\":\"calculator\",\"arguments\":\"{\\\"a\\\":\"}}]}}]}\n\n"
                    .into(),
            ),
            Do::Finish("tool_calls"),
        ],
        _ => say("I see."),
    });
    let service = Service::start(&stub).await;
    let http = &service.client;
    let (done, log) = run(http, "errors", json!({})).await;
    ended(&done, "COMPLETED", "end_turn");
    let results = of(&log, "tool_result");
    assert!(results.iter().all(|one| one["is_error"] == true && one["outcome"] == "error"));
    assert_eq!(of(&log, "tool.started").len(), 1, "unknown tools and bad arguments are not called");
    let sent = stub.calls("errors")[1].request["messages"].clone();
    let told: Vec<&str> = (2..5).map(|n| sent[n]["content"].as_str().unwrap()).collect();
    assert!(told[0].contains("zero"), "{told:?}");
    assert!(told[1].contains("expression") && told[1].contains("schema"), "{told:?}");
    assert!(told[2].contains("there is no tool `nonesuch`"), "{told:?}");

    let (failed, _) = run(http, "stop", json!({"stop_on_tool_error": true})).await;
    ended(&failed, "FAILED", "tool_error");
    assert!(failed["error"]["message"].as_str().unwrap().contains("calculator"));
    assert_eq!(stub.counts("stop"), [(1, 1)].into());

    let (done, log) = run(http, "only-mine", json!({"stop_on_tool_error": true})).await;
    ended(&done, "COMPLETED", "end_turn");
    assert_eq!(
        of(&log, "tool_call")[2]["arguments"],
        "{\"a\":",
        "no JSON: kept as the text it was"
    );
}

#[tokio::test]
async fn more_calls_than_may_run_at_once_all_run_and_keep_their_order() {
    let stub = Stub::start().await;
    stub.on("many", |call| if call.turn == 1 { calculate(20) } else { say("Done.") });
    let service = Service::start(&stub).await;
    let (done, log) = run(&service.client, "many", json!({})).await;
    ended(&done, "COMPLETED", "end_turn");
    assert_eq!(of(&log, "tool_result").len(), 20);
    let mut under_way = 0i32;
    for event in &log {
        match event["type"].as_str().unwrap() {
            "tool.started" => under_way += 1,
            "tool_result" => under_way -= 1,
            _ => {}
        }
        assert!(under_way <= 8, "at most eight side by side");
    }
    let sent = stub.calls("many")[1].request["messages"].clone();
    let told: Vec<String> =
        (2..22).map(|n| sent[n]["content"].as_str().unwrap().to_owned()).collect();
    let expected: Vec<String> = (2..22).map(|n| n.to_string()).collect();
    assert_eq!(told, expected, "results go to the model in the order of the calls");
}

#[tokio::test]
async fn slots_bound_what_is_active_and_nobody_is_forgotten() {
    const RUNS: usize = 30;
    let stub = Stub::start().await;
    stub.on("few", |_| vec![Do::Words(3, Duration::from_millis(5)), Do::Finish("stop")]);
    let setup = crate::service::Setup::default().env("RUNLEDGER_SLOTS", "2");
    let service = Service::start_with(&stub, setup).await;
    let http = &service.client;
    let ids = futures_util::future::join_all((0..RUNS).map(|n| {
        let input = format!("few {n}");
        async move { http.run("openai/few", &input).await }
    }))
    .await;
    let mut spans = Vec::new();
    for id in &ids {
        let run = http.ended(id).await;
        assert_eq!(run["status"], "COMPLETED");
        spans.push((run["started_at"].clone(), run["finished_at"].clone()));
    }
    let mut at_once = 0;
    for (start, _) in &spans {
        let start = start.as_str().unwrap();
        let active = spans
            .iter()
            .filter(|(from, to)| from.as_str().unwrap() <= start && start < to.as_str().unwrap());
        at_once = at_once.max(active.count());
    }
    assert!((1..=2).contains(&at_once), "{at_once} at once");
}
