//! What a run tells beside its events: lines in its log, and spans in the service's.

use serde_json::{Value, json};

use crate::client::{kinds, of, spec};
use crate::service::{Service, Setup};
use crate::stub::{Do, Stub, calculate, say};

#[tokio::test]
async fn a_verbose_run_tells_what_it_asks_and_how_long_things_take() {
    let stub = Stub::start().await;
    stub.on("told", |call| match (call.turn, call.attempt) {
        (1, 1) => vec![Do::Refuse(503, &[("retry-after-ms", "1")], "{}".into())],
        (1, _) => calculate(1),
        _ => say("Two."),
    });
    let service =
        Service::start_with(&stub, Setup::default().env("OPENAI_API_KEY", "sk-canary")).await;
    let http = &service.client;
    let mut body = spec("openai/told", "a secret question");
    body["agent"]["instructions"] = json!("a secret instruction");
    let quiet = http.create(&body).await;
    http.ended(&quiet).await;
    assert!(of(&http.log(&quiet).await, "log").is_empty());

    body["config"] = json!({"verbose": true});
    body["input"] = json!("another secret question");
    let run = http.create(&body).await;
    assert_eq!(http.ended(&run).await["status"], "COMPLETED");
    let log = http.log(&run).await;
    let lines = of(&log, "log");
    let messages: Vec<&str> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    let begins = [
        "calling openai/told",
        "",
        "calling",
        "stub-model answered in",
        "calculator ended in",
        "calling",
        "stub-model answered in",
    ];
    assert_eq!(messages.len(), begins.len(), "{messages:?}");
    for (message, begin) in messages.iter().zip(begins) {
        assert!(message.starts_with(begin), "{message}: {begin}");
    }
    assert_eq!(
        (&lines[1]["level"], &lines[1]["data"]["provider_status"]),
        (&json!("warn"), &json!(503))
    );
    assert_eq!(lines[0]["data"]["tools"], json!(["calculator", "current_time"]));
    assert_eq!(lines[3]["data"]["provider_request_id"], "stub-request");
    let told = json!(lines).to_string();
    assert!(!told.contains("secret") && !told.contains("canary"), "{told}");
    // Beside its lines the log is the same.
    let without: Vec<&str> = kinds(&log).into_iter().filter(|kind| *kind != "log").collect();
    assert_eq!(without, kinds(&http.log(&quiet).await));
}

#[tokio::test]
async fn a_run_without_traces_records_no_span() {
    let stub = Stub::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let setup = Setup { log: Some(path.clone()), ..Setup::default() }
        .env("RUNLEDGER_LOG", "warn,runledger=debug")
        .env("RUNLEDGER_LOG_FORMAT", "json");
    let service = Service::start_with(&stub, setup).await;
    for is_traced in [true, false] {
        let mut body = spec("openai/any", "hello");
        body["config"] = json!({"trace_enabled": is_traced});
        let run = service.client.create(&body).await;
        service.client.ended(&run).await;
    }
    service.terminate().await;
    let text = std::fs::read_to_string(path).unwrap();
    let ends: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["message"] == "the run has ended")
        .collect();
    let spans: Vec<&Value> = ends.iter().map(|line| &line["span"]["name"]).collect();
    assert_eq!(spans, [&json!("drive"), &Value::Null]);
}
