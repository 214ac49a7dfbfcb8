//! What runs use and cost: prices, estimates where nobody said, and the limit of money.

use serde_json::{Value, json};

use crate::client::{of, spec};
use crate::service::{Service, Setup};
use crate::stub::{Do, Stub, calculate, say};

/// A service whose provider `mine` is the stub, at 1 USD for 1000 tokens in and 2 for 1000 out: an
/// answer of the stub (10 in, 5 out) costs 0.02.
async fn start(stub: &Stub) -> (Service, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut file =
        format!("[providers.mine]\nkind = \"openai\"\nbase_url = \"{}\"\n", stub.base_url);
    for model in ["tools", "flaky", "slow", "silent", "refuses"] {
        file += &format!("prices.{model} = {{ input = 1000, output = 2000 }}\n");
    }
    let service = Service::start_with(stub, Setup::default().file(folder.path(), &file)).await;
    (service, folder)
}

async fn run(service: &Service, model: &str, config: Value) -> (Value, Vec<Value>) {
    let mut body = spec(&format!("mine/{model}"), "go");
    body["agent"]["tools"] = json!([{"type": "builtin", "name": "calculator"}]);
    body["config"] = config;
    let id = service.client.create(&body).await;
    (service.client.ended(&id).await, service.client.log(&id).await)
}

#[tokio::test]
async fn money_is_counted_by_the_configured_price_and_is_a_limit() {
    let stub = Stub::start().await;
    stub.on("tools", |call| if call.turn < 3 { calculate(1) } else { say("Done.") });
    let (service, _folder) = start(&stub).await;
    let (done, log) = run(&service, "tools", json!({})).await;
    let costs: Vec<f64> = of(&log, "turn.completed")
        .iter()
        .map(|turn| turn["usage"]["cost_usd"].as_f64().unwrap())
        .collect();
    assert_eq!(costs, [0.02; 3]);
    assert!((done["usage"]["cost_usd"].as_f64().unwrap() - 0.06).abs() < 1e-9);

    let (failed, log) = run(&service, "tools", json!({"max_cost_usd": 0.03})).await;
    let got = (&failed["status"], &failed["stop_reason"], &failed["turn_count"]);
    assert_eq!(got, (&json!("FAILED"), &json!("max_cost_usd"), &json!(2)));
    assert_eq!(of(&log, "tool.started").len(), 1, "the calls of the turn that met it do not run");
    assert_eq!(failed["error"]["details"], json!({"max_cost_usd": 0.03}));

    let last = json!({"max_cost_usd": 0.03, "on_limit": "finalize"});
    let (done, log) = run(&service, "tools", last).await;
    let got = (&done["status"], &done["stop_reason"], &done["turn_count"]);
    assert_eq!(got, (&json!("COMPLETED"), &json!("max_cost_usd"), &json!(3)));
    assert_eq!(of(&log, "tool.started").len(), 1);

    let (done, _) = run(&service, "tools", json!({"max_cost_usd": 0.05})).await;
    let got = (&done["status"], &done["stop_reason"]);
    assert_eq!(got, (&json!("COMPLETED"), &json!("end_turn")), "the answer passes the limit");

    let mut body = spec("mine/other", "go");
    body["config"] = json!({"max_cost_usd": 1});
    let refused = service.client.post("/runs", &body).await.expect(422);
    assert_eq!(refused["code"], "unknown_price");
    let (done, _) = run(&service, "other", json!({})).await;
    assert_eq!(done["usage"]["cost_usd"], Value::Null, "no price is no cost of 0");
}

#[tokio::test]
async fn void_attempts_count_with_an_estimate_where_the_provider_did_not_say() {
    let stub = Stub::start().await;
    stub.on("flaky", |call| match call.attempt {
        1 => vec![Do::Refuse(429, &[("retry-after-ms", "1")], String::new())],
        2 => vec![Do::Say("x".repeat(400)), Do::Cut],
        _ => say("Whole."),
    });
    let (service, _folder) = start(&stub).await;
    let (done, log) = run(&service, "flaky", json!({})).await;
    let aborted = of(&log, "turn.aborted");
    assert!(aborted[0].get("usage").is_none(), "what was refused costs nothing");
    let usage = &aborted[1]["usage"];
    assert_eq!((&usage["estimated"], &usage["output_tokens"]), (&json!(true), &json!(100)));
    let input = usage["input_tokens"].as_u64().unwrap();
    assert!((20..400).contains(&input), "{input}");
    let cost = (input as f64 + 200.0) / 1000.0;
    assert!((usage["cost_usd"].as_f64().unwrap() - cost).abs() < 1e-9, "{usage}");
    let total = &done["usage"];
    assert_eq!(total["input_tokens"], input + 10);
    assert_eq!((&total["output_tokens"], &total["estimated"]), (&json!(105), &json!(true)));
    assert!((total["cost_usd"].as_f64().unwrap() - cost - 0.02).abs() < 1e-9, "{total}");

    stub.forget();
    let (failed, log) = run(&service, "flaky", json!({"max_cost_usd": 0.01})).await;
    let got = (&failed["status"], &failed["stop_reason"]);
    assert_eq!(got, (&json!("FAILED"), &json!("max_cost_usd")), "a void attempt met the limit");
    assert_eq!(of(&log, "turn.completed").len(), 0);
}

#[tokio::test]
async fn what_is_cancelled_or_cut_by_a_limit_counts_too() {
    let stub = Stub::start().await;
    stub.on("slow", |_| vec![Do::Say("x".repeat(80)), Do::Hang]);
    stub.on("silent", |_| {
        let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
        vec![Do::Say("x".repeat(80)), Do::Raw(format!("data: {end}\n\ndata: [DONE]\n\n"))]
    });
    let (service, _folder) = start(&stub).await;
    let http = &service.client;
    let id = http.run("mine/slow", "go").await;
    http.event(&id, "text").await;
    http.delete(&format!("/runs/{id}")).await.expect(202);
    let cancelled = http.ended(&id).await;
    let log = http.log(&id).await;
    let usage = &of(&log, "turn.aborted")[0]["usage"];
    assert_eq!((&usage["estimated"], &usage["output_tokens"]), (&json!(true), &json!(20)));
    assert_eq!(cancelled["usage"]["cost_usd"], usage["cost_usd"]);
    let (late, log) = run(&service, "slow", json!({"timeout_per_turn": 0.3})).await;
    assert_eq!(late["stop_reason"], "turn_timeout");
    assert_eq!(of(&log, "turn.aborted")[0]["usage"]["output_tokens"], 20);
    let (done, log) = run(&service, "silent", json!({})).await;
    let usage = &of(&log, "turn.completed")[0]["usage"];
    assert_eq!((&usage["estimated"], &usage["output_tokens"]), (&json!(true), &json!(20)));
    assert_eq!(done["usage"]["estimated"], true, "limits hold where a server never says");
}

#[tokio::test]
async fn what_a_crash_cut_counts_by_what_was_committed() {
    let stub = Stub::start().await;
    stub.on("slow", |call| match call.attempt {
        1 => vec![Do::Say("x".repeat(80)), Do::Hang],
        _ => say("Whole."),
    });
    let (service, _folder) = start(&stub).await;
    let id = service.client.run("mine/slow", "go").await;
    service.client.event(&id, "text").await;
    let service = service.kill().await.start().await;
    let done = service.client.ended(&id).await;
    assert_eq!((&done["status"], &done["final_output"]), (&json!("COMPLETED"), &json!("Whole.")));
    let log = service.client.log(&id).await;
    let aborted = of(&log, "turn.aborted")[0];
    assert_eq!(aborted["reason"], "crash");
    let usage = &aborted["usage"];
    assert_eq!((&usage["estimated"], &usage["output_tokens"]), (&json!(true), &json!(20)));
    let total = done["usage"]["cost_usd"].as_f64().unwrap();
    assert!((total - usage["cost_usd"].as_f64().unwrap() - 0.02).abs() < 1e-9, "{total}");
}

#[tokio::test]
async fn the_configured_providers_are_told_without_their_secrets() {
    let stub = Stub::start().await;
    let (service, _folder) = start(&stub).await;
    let told = service.client.get("/models").await.expect(200);
    assert_eq!(told["default_model"], "demo/assistant");
    let providers = told["data"].as_array().unwrap();
    let names: Vec<&str> = providers.iter().map(|one| one["provider"].as_str().unwrap()).collect();
    assert_eq!(names, ["openai", "mine", "demo"]);
    let price = json!({"input": 1000.0, "cached_input": null, "cache_write_input": null,
        "output": 2000.0});
    assert_eq!(providers[1]["prices"]["tools"], price);
    let (kind, models) = (&providers[1]["kind"], &providers[1]["models"]);
    assert_eq!((kind, models), (&json!("openai"), &Value::Null), "any name may be asked for");
    let demo = json!({"provider": "demo", "kind": "demo", "models": ["assistant"],
        "default": "assistant", "prices": {}});
    assert_eq!(providers[2], demo);
    let fields: Vec<&String> = providers[1].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["default", "kind", "models", "prices", "provider"], "and nothing else");
}
