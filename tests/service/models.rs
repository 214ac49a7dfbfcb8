//! Models that fail, and what becomes of the run: retries, fallbacks, voids that are announced.

use serde_json::{Value, json};

use crate::client::{Client, of, spec};
use crate::service::{Service, Setup};
use crate::stub::{Do, Stub, say};

async fn run(http: &Client, models: &[&str]) -> (Value, Vec<Value>) {
    let mut body = spec("", models[0]);
    let names: Vec<String> = models.iter().map(|model| format!("openai/{model}")).collect();
    body["agent"]["model"] = json!(names);
    let id = http.create(&body).await;
    let run = http.ended(&id).await;
    let log = http.log(&id).await;
    (run, log)
}

fn refuse(status: u16) -> Vec<Do> {
    vec![Do::Refuse(
        status,
        &[("retry-after-ms", "1")],
        json!({"error": {"message": "no"}}).to_string(),
    )]
}

#[tokio::test]
async fn a_failed_attempt_is_announced_as_void_and_made_again() {
    let stub = Stub::start().await;
    stub.on("flaky", |call| match call.attempt {
        1 => refuse(429),
        2 => vec![Do::Say("Half an ans".into()), Do::Cut],
        3 => vec![Do::Say("Half".into()), Do::Raw("data: [DONE]\n\n".into())],
        _ => say("A whole answer."),
    });
    let service = Service::start(&stub).await;
    let (done, log) = run(&service.client, &["flaky"]).await;
    assert_eq!(done["status"], "COMPLETED");
    assert_eq!(done["final_output"], "A whole answer.");
    assert_eq!(done["history"].as_array().unwrap().len(), 2, "void text is no history");
    let aborted = of(&log, "turn.aborted");
    let told: Vec<(&Value, &Value)> =
        aborted.iter().map(|one| (&one["reason"], &one["provider_status"])).collect();
    assert_eq!(
        told,
        [
            (&json!("rate_limited"), &json!(429)),
            (&json!("cut"), &Value::Null),
            (&json!("cut"), &Value::Null)
        ]
    );
    assert_eq!(
        aborted[0]["retry_in"].as_f64().unwrap().min(0.1),
        0.1,
        "backoff, not the server's 1 ms"
    );
    for one in &aborted {
        let started = of(&log, "turn.started");
        let own = started.iter().find(|start| start["attempt"] == one["attempt"]).unwrap();
        assert_eq!(one["discard_from_seq"], own["seq"]);
    }
    let attempts: Vec<&Value> =
        of(&log, "turn.started").iter().map(|one| &one["attempt"]).collect();
    assert_eq!(attempts, [1, 2, 3, 4]);
    let items: Vec<u64> =
        of(&log, "text").iter().map(|one| one["item"].as_u64().unwrap()).collect();
    assert_eq!(items, [1, 2, 3], "the numbers of void items are not used again");
}

#[tokio::test]
async fn fallbacks_follow_when_a_model_is_spent_or_will_never_answer() {
    let stub = Stub::start().await;
    stub.on("busy", |_| refuse(500));
    stub.on("locked", |_| refuse(401));
    stub.on("absent", |_| refuse(404));
    stub.on("wrong", |_| refuse(400));
    stub.on("good", |_| say("Here."));
    let service = Service::start(&stub).await;
    let http = &service.client;
    let (done, log) = run(http, &["locked", "absent", "good"]).await;
    assert_eq!((&done["status"], &done["final_output"]), (&json!("COMPLETED"), &json!("Here.")));
    assert_eq!((stub.calls("locked").len(), stub.calls("absent").len()), (1, 1));
    let waits: Vec<&Value> = of(&log, "turn.aborted").iter().map(|one| &one["retry_in"]).collect();
    assert_eq!(waits, [0.0, 0.0], "the next model is asked at once");

    let (failed, log) = run(http, &["wrong", "good"]).await;
    assert_eq!(
        (&failed["status"], &failed["stop_reason"]),
        (&json!("FAILED"), &json!("model_error"))
    );
    assert_eq!(failed["error"]["details"]["last"]["status"], 400);
    assert!(failed["error"]["message"].as_str().unwrap().contains("no"));
    assert_eq!(failed["final_output"], Value::Null);
    assert!(of(&log, "turn.aborted")[0].get("retry_in").is_none(), "the last has no wait");

    let (done, _) = run(http, &["busy", "good"]).await;
    assert_eq!(done["status"], "COMPLETED");
    assert_eq!(stub.calls("busy").len(), 2, "the same 500 twice, and another is asked");
    let (failed, _) = run(http, &["busy"]).await;
    assert_eq!(failed["stop_reason"], "model_error");
    assert_eq!(stub.calls("busy").len(), 2 + 4, "alone it has its four attempts");

    stub.on("limited", |_| vec![Do::Refuse(429, &[("retry-after", "3600")], "{}".into())]);
    let (done, _) = run(http, &["limited", "good"]).await;
    assert_eq!(done["final_output"], "Here.", "an hour is more than the turn has");
    assert_eq!(stub.calls("limited").len(), 1);
    let (failed, _) = run(http, &["limited"]).await;
    assert_eq!(failed["stop_reason"], "model_error");
}

#[tokio::test]
async fn ends_that_are_no_success_are_told_apart() {
    let stub = Stub::start().await;
    for reason in ["length", "content_filter", "strange"] {
        stub.on(reason, move |_| {
            vec![
                Do::Say("Part".into()),
                Do::Call("calculator", json!({"expression": "1"})),
                Do::Finish(reason),
            ]
        });
    }
    stub.on("empty", |_| vec![Do::Finish("stop")]);
    stub.on("thought", |_| vec![Do::Think("Hm.".into()), Do::Finish("stop")]);
    stub.on("long", |_| {
        let error = json!({"error": {"message": "too long", "code": "context_length_exceeded"}});
        vec![Do::Refuse(400, &[], error.to_string())]
    });
    stub.on("huge", |_| {
        let piece = Do::Say("x".repeat(64 * 1024));
        std::iter::repeat_n(piece, 9).chain([Do::Finish("stop")]).collect()
    });
    let service = Service::start(&stub).await;
    let http = &service.client;
    for (model, status, stop_reason, output) in [
        ("length", "FAILED", "max_output_tokens", json!("Part")),
        ("content_filter", "FAILED", "content_filter", json!("Part")),
        ("strange", "FAILED", "model_error", json!("Part")),
        ("empty", "COMPLETED", "end_turn", Value::Null),
        ("thought", "COMPLETED", "end_turn", Value::Null),
        ("long", "FAILED", "context_overflow", Value::Null),
        ("huge", "FAILED", "model_error", Value::Null),
    ] {
        let (done, log) = run(http, &[model, "never"]).await;
        let got = (&done["status"], &done["stop_reason"], &done["final_output"]);
        assert_eq!(got, (&json!(status), &json!(stop_reason), &output), "{model}");
        assert!(of(&log, "tool.started").is_empty(), "no tool runs: {model}");
        assert_eq!(stub.calls(model).len(), 1, "{model}");
    }
    assert!(stub.calls("never").is_empty());
    let (done, log) = run(http, &["thought"]).await;
    assert_eq!(of(&log, "reasoning")[0]["content"], "Hm.");
    assert_eq!(done["turn_count"], 1);
}

#[tokio::test]
async fn keys_and_headers_go_to_the_provider_and_nowhere_else() {
    let stub = Stub::start().await;
    stub.on("leaky", |call| {
        let [key, pass] =
            ["authorization", "x-pass"].map(|name| call.headers[name].to_str().unwrap());
        vec![Do::Refuse(
            400,
            &[],
            format!("{{\"error\":{{\"message\":\"bad key {key}, {pass}\"}}}}"),
        )]
    });
    let folder = tempfile::tempdir().unwrap();
    let file = format!(
        "[providers.mine]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key_env = \"MY_KEY\"\n\
         headers = {{ X-Team = \"blue\", X-Pass = \"canary-5678\" }}\noutput_limit_field = \"max_completion_tokens\"\n\
         stream_usage = false\n",
        stub.base_url
    );
    let setup = Setup::default().env("MY_KEY", "sk-canary-1234").file(folder.path(), &file);
    let service = Service::start_with(&stub, setup).await;
    let http = &service.client;
    let mut body = spec("mine/leaky", "go");
    body["agent"]["model_settings"] = json!({"max_output_tokens": 9});
    let id = http.create(&body).await;
    let failed = http.ended(&id).await;
    assert_eq!(failed["stop_reason"], "model_error");
    let call = &stub.calls("leaky")[0];
    assert_eq!(call.headers["authorization"], "Bearer sk-canary-1234");
    assert_eq!(call.headers["x-team"], "blue");
    assert_eq!(call.request["max_completion_tokens"], 9);
    assert_eq!(call.request.get("stream_options"), None);
    let everything = [
        failed.to_string(),
        json!(http.log(&id).await).to_string(),
        http.get("/metrics").await.text,
        service.greeting.clone(),
    ];
    assert!(everything.iter().all(|text| !text.contains("canary")), "{everything:?}");
    assert!(failed["error"]["message"].as_str().unwrap().contains("***"));
}

#[tokio::test]
async fn a_provider_is_asked_by_so_many_at_once_as_it_may_be() {
    let stub = Stub::start().await;
    let gate = crate::stub::Gate::new();
    let opened = gate.clone();
    stub.on("narrow", move |_| [vec![Do::Wait(opened.clone())], say("Done.")].concat());
    let folder = tempfile::tempdir().unwrap();
    let file = format!(
        "[providers.mine]\nkind = \"openai\"\nbase_url = \"{}\"\nmax_concurrency = 2\n",
        stub.base_url
    );
    let service = Service::start_with(&stub, Setup::default().file(folder.path(), &file)).await;
    let http = &service.client;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(http.run("mine/narrow", &n.to_string()).await);
        http.event(&ids[n], "turn.started").await;
    }
    stub.called("narrow", 2).await;
    assert_eq!(stub.calls("narrow").len(), 2);
    gate.open();
    for id in ids {
        assert_eq!(http.ended(&id).await["status"], "COMPLETED");
    }
}
