//! Changing a run that is under way: limits go up, labels are replaced, and the log says so.

use serde_json::{Value, json};

use crate::client::{Client, kinds, of, spec};
use crate::service::{Service, Setup};
use crate::stub::{Do, Gate, Stub, calculate, say};
use crate::waiting::until;

async fn patch(http: &Client, run: &str, body: &Value) -> crate::client::Answer {
    http.send(reqwest::Method::PATCH, &format!("/runs/{run}"), body, &[]).await
}

#[tokio::test]
async fn raised_limits_hold_for_the_run_that_is_under_way() {
    let stub = Stub::start().await;
    let gate = Gate::new();
    let opened = gate.clone();
    stub.on("greedy", move |call| match call.turn {
        1 => [vec![Do::Wait(opened.clone())], calculate(2)].concat(),
        2 | 3 => calculate(1),
        _ => say("Enough."),
    });
    let service = Service::start(&stub).await;
    let http = &service.client;
    let mut body = spec("openai/greedy", "go");
    body["config"] = json!({
        "max_turns": 1, "max_total_tokens": 15, "max_tool_calls": 1, "timeout_per_turn": 50,
        "metadata": {"old": "1", "both": "a"},
    });
    let id = http.create(&body).await;
    stub.called("greedy", 1).await;
    let raised = json!({
        "config": {"max_turns": 9, "max_total_tokens": 1000, "max_tool_calls": 7, "max_time": 600.0},
        "metadata": {"new": "2", "both": "b"},
    });
    let accepted = patch(http, &id, &raised).await.expect(202);
    assert_eq!(accepted["run_id"], json!(id));
    let updated = http.event(&id, "run.updated").await;
    assert_eq!((&updated["by"], &updated["turn"]), (&json!("local"), &json!(1)));
    assert_eq!(
        (&updated["limits"], &updated["metadata"]),
        (&raised["config"], &raised["metadata"])
    );

    let run = http.get(&format!("/runs/{id}")).await.expect(200);
    let config = &run["config"];
    for field in ["max_turns", "max_total_tokens", "max_tool_calls"] {
        assert_eq!(config[field], raised["config"][field], "{field}");
    }
    assert_eq!((&config["max_time"], &config["timeout_per_turn"]), (&json!(600.0), &json!(50.0)));
    assert_eq!((&run["metadata"], &config["metadata"]), (&raised["metadata"], &raised["metadata"]));
    let asked = http.get(&format!("/runs/{id}/spec")).await.expect(200);
    assert_eq!(asked["config"]["max_turns"], 1, "what was asked for stays");

    for (label, expected) in [("new:2", 1), ("both:b", 1), ("old:1", 0), ("both:a", 0)] {
        let found = http.get(&format!("/runs?metadata={label}")).await.expect(200);
        assert_eq!(found["data"].as_array().unwrap().len(), expected, "{label}");
    }
    gate.open();
    let run = http.ended(&id).await;
    assert_eq!((&run["status"], &run["turn_count"]), (&json!("COMPLETED"), &json!(4)), "{run}");
    assert_eq!(run["tool_calls"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn more_time_comes_to_a_call_that_would_be_cut() {
    let stub = Stub::start().await;
    let gate = Gate::new();
    let opened = gate.clone();
    stub.on("slow", move |_| [vec![Do::Wait(opened.clone())], say("At last.")].concat());
    let service = Service::start(&stub).await;
    let http = &service.client;
    let mut body = spec("openai/slow", "go");
    body["config"] = json!({"timeout_per_turn": 2, "max_time": 3});
    let control = http.create(&body).await;
    let id = http.create(&body).await;
    stub.called("slow", 2).await;
    let more = json!({"config": {"timeout_per_turn": 80, "max_time": 80}});
    patch(http, &id, &more).await.expect(202);
    // Without more time it ends; by then the other would have ended too.
    assert_eq!(http.ended(&control).await["stop_reason"], "turn_timeout");
    assert_eq!(http.get(&format!("/runs/{id}")).await.json()["status"], "RUNNING");
    gate.open();
    assert_eq!(http.ended(&id).await["final_output"], "At last.");
}

#[tokio::test]
async fn a_run_that_waits_for_a_slot_is_changed_in_its_place() {
    let stub = Stub::start().await;
    stub.on("hang", |_| vec![Do::Hang]);
    stub.on("two", |call| if call.turn == 1 { calculate(1) } else { say("Two.") });
    let service = Service::start_with(&stub, Setup::default().env("RUNLEDGER_SLOTS", "1")).await;
    let http = &service.client;
    let active = http.run("openai/hang", "a").await;
    stub.called("hang", 1).await;
    let mut body = spec("openai/two", "b");
    body["config"] = json!({"max_turns": 1});
    let queued = http.create(&body).await;
    let behind = http.run("openai/hang", "c").await;
    patch(http, &queued, &json!({"config": {"max_turns": 2}})).await.expect(202);
    http.event(&queued, "run.updated").await;
    let place = async |run: &str| {
        let run = http.get(&format!("/runs/{run}")).await.expect(200);
        (run["queue_position"] == 1 && run["config"]["max_turns"] == 2).then_some(run)
    };
    let run = until("its place in the queue", || place(&queued)).await;
    assert_eq!(run["status"], "QUEUED");
    assert_eq!(http.get(&format!("/runs/{behind}")).await.json()["queue_position"], 2);
    assert_eq!(kinds(&http.log(&queued).await), ["run.queued", "run.updated"]);
    http.delete(&format!("/runs/{active}")).await.expect(202);
    assert_eq!(http.ended(&queued).await["final_output"], "Two.");
}

#[tokio::test]
async fn an_accepted_change_outlives_a_crash_and_comes_once() {
    let stub = Stub::start().await;
    stub.on("hang", |_| vec![Do::Hang]);
    let service = Service::start(&stub).await;
    let id = service.client.run("openai/hang", "a").await;
    stub.called("hang", 1).await;
    let change = json!({"metadata": {"a": "1"}, "config": {"max_turns": 77}});
    let path = format!("/runs/{id}");
    for _ in 0..3 {
        let key = [("idempotency-key", "once")];
        let http = &service.client;
        http.send(reqwest::Method::PATCH, &path, &change, &key).await.expect(202);
    }
    let service = service.kill().await.start().await;
    let http = &service.client;
    http.event(&id, "run.updated").await;
    let run = http.get(&path).await.expect(200);
    assert_eq!((&run["metadata"], &run["config"]["max_turns"]), (&json!({"a": "1"}), &json!(77)));
    http.delete(&path).await.expect(202);
    http.ended(&id).await;
    assert_eq!(of(&http.log(&id).await, "run.updated").len(), 1, "one key, one change");
}

#[tokio::test]
async fn what_is_no_raise_is_refused_with_its_place() {
    let stub = Stub::start().await;
    stub.on("hang", |_| vec![Do::Hang]);
    let service = Service::start(&stub).await;
    let http = &service.client;
    let mut body = spec("openai/hang", "a");
    body["config"] = json!({"max_total_tokens": 100, "run_id": "r"});
    http.create(&body).await;
    for (change, pointer, words) in [
        (json!({"config": {"max_turns": 9}}), "/config/max_turns", "raised: it is 10, got 9"),
        (json!({"config": {"max_total_tokens": 99}}), "/config/max_total_tokens", "it is 100"),
        (json!({"config": {"max_cost_usd": 1}}), "/config/max_cost_usd", "no such limit"),
        (json!({"config": {"max_turns": 1001}}), "/config/max_turns", "between 1 and 1000"),
        (json!({"config": {"max_turns": "9"}}), "/config/max_turns", "must be a whole number"),
        (json!({"config": {"verbose": true}}), "/config/verbose", "known are max_turns"),
        (json!({"config": {"metadata": {}}}), "/config/metadata", "unknown field"),
        (json!({"metadata": {"a": 1}}), "/metadata/a", "must be a string"),
        (json!({"metadata": {"a": "\0"}}), "/metadata/a", "NUL"),
        (json!({"metadata": []}), "/metadata", "an object of strings"),
        (json!({"input": "x"}), "/input", "known are config, metadata"),
        (json!({}), "", "needs `config`"),
        (json!({"config": {}}), "", "needs `config`"),
        (json!([]), "", "must be an object"),
    ] {
        let refused = patch(http, "r", &change).await.expect(422);
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{refused}");
        assert!(refused["detail"].as_str().unwrap().contains(words), "{refused}");
    }
    // As it is, is no lower.
    patch(http, "r", &json!({"config": {"max_turns": 10}})).await.expect(202);
    patch(http, "nobody", &json!({"metadata": {}})).await.expect(404);
    http.delete("/runs/r").await.expect(202);
    http.ended("r").await;
    let late = patch(http, "r", &json!({"metadata": {}})).await.expect(409);
    assert_eq!(late["code"], "run_ended");
}

#[tokio::test]
async fn a_run_takes_so_many_changes_and_then_only_a_cancel() {
    let stub = Stub::start().await;
    stub.on("hang", |_| vec![Do::Hang]);
    let service = Service::start(&stub).await;
    let http = &service.client;
    let id = http.run("openai/hang", "a").await;
    stub.called("hang", 1).await;
    for n in 0..256 {
        patch(http, &id, &json!({"metadata": {"n": n.to_string()}})).await.expect(202);
    }
    let refused = patch(http, &id, &json!({"metadata": {}})).await;
    assert_eq!(refused.headers.get("retry-after"), None, "it is no matter of time");
    let refused = refused.expect(429);
    assert_eq!((&refused["code"], &refused["retryable"]), (&json!("rate_limited"), &json!(false)));
    http.delete(&format!("/runs/{id}")).await.expect(202);
    let run = http.ended(&id).await;
    assert_eq!((&run["status"], &run["metadata"]["n"]), (&json!("CANCELLED"), &json!("255")));
    assert_eq!(of(&http.log(&id).await, "run.updated").len(), 256);
}
