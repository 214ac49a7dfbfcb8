//! What an agent SDK's Runner does, one by one, as requests: the names are the Runner's.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Client, of, spec};
use crate::service::Service;
use crate::stub::{Do, Gate, Stub, calculate, say};

/// Runs it to its end in one request.
async fn run_sync(client: &Client, body: &Value) -> Value {
    let run = client.post("/runs?wait=60", body).await.expect(201);
    assert!(crate::client::is_terminal(&run), "{run}");
    run
}

/// `body` with more fields.
fn with(mut body: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("fields are an object") };
    body.as_object_mut().unwrap().extend(more);
    body
}

async fn stubbed() -> (Stub, Service) {
    let stub = Stub::start().await;
    let service = Service::start(&stub).await;
    (stub, service)
}

#[tokio::test]
async fn run_sync_is_one_request_that_answers_with_the_result() {
    let (stub, service) = stubbed().await;
    stub.on("m", |_| say("Paris."));
    let run = run_sync(&service.client, &spec("openai/m", "The capital of France?")).await;
    assert_eq!((&run["status"], &run["final_output"]), (&json!("COMPLETED"), &json!("Paris.")));
}

#[tokio::test]
async fn run_async_answers_at_once_and_the_result_is_asked_for_later() {
    let (stub, service) = stubbed().await;
    let gate = Gate::new();
    let opened = gate.clone();
    stub.on("m", move |_| vec![Do::Wait(opened.clone()), Do::Say("42".into()), Do::Finish("stop")]);
    let run = service.client.post("/runs", &spec("openai/m", "x")).await.expect(201);
    assert!(["QUEUED", "RUNNING"].contains(&run["status"].as_str().unwrap()), "{run}");
    let id = run["run_id"].as_str().unwrap();
    assert_eq!(
        service.client.get(&format!("/runs/{id}")).await.expect(200)["final_output"],
        Value::Null
    );
    gate.open();
    assert_eq!(service.client.ended(id).await["final_output"], "42");
}

#[tokio::test]
async fn run_stream_gives_text_tool_call_and_tool_result() {
    let service = Service::demo().await;
    let mut stream = service.client.post_stream(&spec("demo/assistant", "What is 6*7?"), &[]).await;
    let events: Vec<Value> = stream.rest().await.iter().map(|block| block.data()).collect();
    let text: String =
        of(&events, "text").iter().map(|event| event["content"].as_str().unwrap()).collect();
    assert!(text.ends_with("The result is 42."), "{text}");
    assert_eq!(of(&events, "tool_call")[0]["tool_name"], "calculator");
    assert_eq!(of(&events, "tool_result")[0]["result"], 42);
}

#[tokio::test]
async fn run_config_has_the_runners_names_and_defaults_and_is_enforced() {
    let (stub, service) = stubbed().await;
    stub.on("m", |_| say("ok"));
    stub.on("loop", |_| calculate(1));
    let client = &service.client;
    let run = run_sync(client, &spec("openai/m", "x")).await;
    for (name, default) in [
        ("max_turns", json!(10)),
        ("max_time", json!(300.0)),
        ("timeout_per_turn", json!(60.0)),
        ("stop_on_tool_error", json!(false)),
        ("verbose", json!(false)),
        ("trace_enabled", json!(true)),
        ("metadata", json!({})),
    ] {
        assert_eq!(run["config"][name], default, "{name}");
    }
    let config = json!({"max_turns": 2, "max_time": 60.0, "timeout_per_turn": 30.0,
        "stop_on_tool_error": true, "verbose": true, "trace_enabled": false,
        "run_id": "custom-id", "metadata": {"user_id": "123"}});
    let run = run_sync(client, &with(spec("openai/loop", "x"), json!({"config": config}))).await;
    assert_eq!(
        (&run["run_id"], &run["metadata"]),
        (&json!("custom-id"), &json!({"user_id": "123"}))
    );
    assert_eq!((&run["stop_reason"], &run["turn_count"]), (&json!("max_turns"), &json!(2)));
    for name in ["max_turns", "max_time", "timeout_per_turn", "stop_on_tool_error", "verbose"] {
        assert_eq!(run["config"][name], config[name], "{name}");
    }
}

#[tokio::test]
async fn run_context_gives_the_model_variables_and_history_and_counts() {
    let (stub, service) = stubbed().await;
    stub.on("m", |_| say("Hello Alice."));
    let history =
        json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]);
    let body = json!({
        "agent": {"instructions": "You help {{user}}.", "model": "openai/m"},
        "input": "Who am I?", "variables": {"user": "Alice"}, "history": history,
    });
    let run = run_sync(&service.client, &body).await;
    let request = stub.calls("m")[0].request["messages"].clone();
    let said: Vec<&str> =
        request.as_array().unwrap().iter().map(|one| one["content"].as_str().unwrap()).collect();
    assert_eq!(said, ["You help Alice.", "Hi", "Yes?", "Who am I?"]);
    assert_eq!(run["variables"], json!({"user": "Alice"}));
    assert_eq!(run["history"].as_array().unwrap().len(), 4);
    assert_eq!(run["turn_count"], 1);
    assert!(run["elapsed_time"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn run_result_has_every_field_of_the_runners() {
    let service = Service::demo().await;
    let run = run_sync(&service.client, &spec("demo/assistant", "What is 6*7?")).await;
    for name in [
        "final_output",
        "run_id",
        "status",
        "turn_count",
        "elapsed_time",
        "tool_calls",
        "history",
        "metadata",
        "error",
    ] {
        assert!(run.get(name).is_some(), "{name} in {run}");
    }
    assert_eq!((&run["turn_count"], &run["error"]), (&json!(2), &Value::Null));
    let call = &run["tool_calls"][0];
    assert_eq!((&call["tool_name"], &call["result"]), (&json!("calculator"), &json!(42)));
}

#[tokio::test]
async fn run_status_has_five_values() {
    let (stub, service) = stubbed().await;
    stub.on("m", |_| say("ok"));
    stub.on("hang", |_| vec![Do::Hang]);
    stub.on("no", |_| vec![Do::Refuse(400, &[], "{}".into())]);
    let client = &service.client;
    let mut seen = BTreeSet::new();
    let mut saw = |run: &Value| seen.insert(run["status"].as_str().unwrap().to_owned());
    saw(&run_sync(client, &spec("openai/m", "x")).await);
    saw(&run_sync(client, &spec("openai/no", "x")).await);
    let run = client.run("openai/hang", "x").await;
    stub.called("hang", 1).await;
    saw(&client.get(&format!("/runs/{run}")).await.expect(200));
    client.delete(&format!("/runs/{run}")).await.expect(202);
    saw(&client.ended(&run).await);
    // The first status of every run, before anybody drives it.
    assert_eq!(client.log(&run).await[0]["type"], "run.queued");
    assert_eq!(seen, ["CANCELLED", "COMPLETED", "FAILED", "RUNNING"].map(str::to_owned).into());
}

#[tokio::test]
async fn a_conversation_of_several_turns_goes_on_from_the_last_runs_history() {
    let (stub, service) = stubbed().await;
    stub.on("m", |call| say(&format!("answer to {}", call.input)));
    let first = run_sync(&service.client, &spec("openai/m", "one")).await;
    let more = json!({"history": first["history"]});
    let second = run_sync(&service.client, &with(spec("openai/m", "two"), more)).await;
    // The Runner's own example puts the user's words into the history and passes them as input.
    let mut doubled = second["history"].as_array().unwrap().clone();
    doubled.push(json!({"role": "user", "content": "three"}));
    let more = json!({"history": doubled});
    let third = run_sync(&service.client, &with(spec("openai/m", "three"), more)).await;
    let said: Vec<&str> = third["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["content"].as_str().unwrap())
        .collect();
    assert_eq!(said, ["one", "answer to one", "two", "answer to two", "three", "answer to three"]);
}

#[tokio::test]
async fn gather_runs_many_at_once() {
    let (stub, service) = stubbed().await;
    let gate = Gate::new();
    let opened = gate.clone();
    stub.on("m", move |call| {
        vec![Do::Wait(opened.clone()), Do::Say(call.input.clone()), Do::Finish("stop")]
    });
    let bodies = ["a", "b", "c", "d"].map(|input| spec("openai/m", input));
    let gathered =
        futures_util::future::join_all(bodies.iter().map(|body| run_sync(&service.client, body)));
    let all_are_under_way = async {
        stub.called("m", 4).await;
        gate.open();
    };
    let (runs, ()) = tokio::join!(gathered, all_are_under_way);
    let outputs: Vec<&str> = runs.iter().map(|run| run["final_output"].as_str().unwrap()).collect();
    assert_eq!(outputs, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn timeout_error_is_max_time_or_turn_timeout() {
    let (stub, service) = stubbed().await;
    stub.on("m", |_| vec![Do::Words(1000, Duration::from_millis(20))]);
    for (limit, code) in [("max_time", "max_time"), ("timeout_per_turn", "turn_timeout")] {
        let more = json!({"config": {limit: 0.2}});
        let run = run_sync(&service.client, &with(spec("openai/m", limit), more)).await;
        assert_eq!((&run["status"], &run["error"]["code"]), (&json!("FAILED"), &json!(code)));
    }
}

#[tokio::test]
async fn agent_error_is_every_other_failure_and_a_refusal_is_a_problem() {
    let (stub, service) = stubbed().await;
    stub.on("no", |_| vec![Do::Refuse(400, &[], json!({"error": {"message": "bad"}}).to_string())]);
    stub.on("zero", |_| {
        vec![Do::Call("calculator", json!({"expression": "1/0"})), Do::Finish("tool_calls")]
    });
    stub.on("loop", |_| calculate(1));
    for (model, config, code) in [
        ("openai/no", json!({}), "model_error"),
        ("openai/zero", json!({"stop_on_tool_error": true}), "tool_error"),
        ("openai/loop", json!({"max_turns": 1}), "max_turns"),
    ] {
        let body = with(spec(model, "x"), json!({"config": config}));
        let run = run_sync(&service.client, &body).await;
        assert_eq!((&run["status"], &run["error"]["code"]), (&json!("FAILED"), &json!(code)));
        assert!(!run["error"]["message"].as_str().unwrap().is_empty());
    }
    let refused = service.client.post("/runs", &spec("nobody/knows", "x")).await;
    assert_eq!(refused.header("content-type"), "application/problem+json");
    assert_eq!(refused.expect(422)["code"], "unknown_model");
}
