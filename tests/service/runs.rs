//! A run as a resource: create, poll, wait, its spec, its log as JSON.

use serde_json::{Value, json};

use crate::client::{kinds, of, spec};
use crate::service::Service;
use crate::stub::{Do, Gate, Stub, calculate, say};

/// Two turns: a call of the calculator, then an answer.
fn tool_script(stub: &Stub) {
    stub.on("tools", |call| match call.turn {
        1 => {
            let mut steps = vec![Do::Say("Let me ".into()), Do::Say("see.".into())];
            steps.extend(calculate(1));
            steps
        }
        _ => say("It is 2."),
    });
}

#[tokio::test]
async fn a_run_goes_from_post_to_done() {
    let stub = Stub::start().await;
    tool_script(&stub);
    let service = Service::start(&stub).await;
    let http = &service.client;
    let created = http.post("/runs", &spec("openai/tools", "1+1?")).await;
    let location = created.header("location").to_owned();
    assert_eq!(created.header("content-location"), location);
    let id = created.expect(201)["run_id"].as_str().unwrap().to_owned();
    assert_eq!(location, format!("/runs/{id}"));

    let run = http.ended(&id).await;
    for (field, expected) in [
        ("status", json!("COMPLETED")),
        ("stop_reason", json!("end_turn")),
        ("final_output", json!("It is 2.")),
        ("turn_count", json!(2)),
        ("error", json!(null)),
        ("model", json!("openai/tools")),
        ("agent", json!({"name": "Test", "version": null})),
        ("input", json!("1+1?")),
        ("created_by", json!("local")),
        ("queue_position", json!(null)),
        ("required_action", json!(null)),
    ] {
        assert_eq!(run[field], expected, "{field}");
    }
    assert_eq!(run["usage"]["total_tokens"], 30);
    let call = &run["tool_calls"][0];
    assert_eq!(call["result"], 2);
    assert_eq!((&call["turn"], &call["outcome"]), (&json!(1), &json!("ok")));
    assert_eq!(call["provider_call_id"], "provider-0");
    assert_eq!(run["history"].as_array().unwrap().len(), 4);

    let log = http.log(&id).await;
    let kinds: Vec<&str> = kinds(&log).into_iter().filter(|kind| *kind != "text").collect();
    assert_eq!(
        kinds.join(" "),
        "run.queued run.started turn.started tool_call turn.completed tool.started tool_result \
         turn.started turn.completed run.completed"
    );
    let seqs: Vec<u64> = log.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    // What the model was sent back has the result of its call.
    let second = &stub.calls("tools")[1].request;
    assert_eq!(second["messages"][2]["content"], "2");
    assert_eq!(second["messages"][1]["tool_calls"][0]["id"], second["messages"][2]["tool_call_id"]);
}

#[tokio::test]
async fn the_resource_has_the_documented_fields_and_no_others() {
    let service = Service::demo().await;
    let id = service.client.run("demo/assistant", "What is 6*7?").await;
    let run = service.client.ended(&id).await;
    let documented = "agent batch_id cancel_requested_at config continued_from created_at \
        created_by elapsed_time error final_output finished_at history input last_seq metadata \
        model output parent_run_id queue_position required_action run_id started_at status \
        stop_reason thread_id tool_calls turn_count usage variables waiting_time";
    let fields: Vec<&str> = run.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields.join(" "), documented);
    let call: Vec<&String> = run["tool_calls"][0].as_object().unwrap().keys().collect();
    assert_eq!(
        call,
        [
            "arguments",
            "call_id",
            "child_run_id",
            "elapsed_time",
            "is_error",
            "outcome",
            "provider_call_id",
            "result",
            "tool_name",
            "turn"
        ]
    );
    assert!(run["final_output"].as_str().unwrap().contains("The result is 42."));
    let config = json!({"max_turns": 10, "max_time": 300.0, "timeout_per_turn": 60.0,
        "stop_on_tool_error": false, "verbose": false, "trace_enabled": true, "metadata": {},
        "on_limit": "fail"});
    assert_eq!(run["config"], config);
    let omitting = "history tool_calls input variables config";
    let query: String = omitting.split(' ').map(|part| format!("omit={part}&")).collect();
    let less = service.client.get(&format!("/runs/{id}?{query}")).await.expect(200);
    for part in omitting.split(' ') {
        assert!(less.get(part).is_none(), "{part}");
    }
    assert_eq!(less["final_output"], run["final_output"]);
}

#[tokio::test]
async fn a_wait_ends_with_the_run_or_with_its_time() {
    let stub = Stub::start().await;
    let gate = Gate::new();
    let opened = gate.clone();
    stub.on("gated", move |_| [vec![Do::Wait(opened.clone())], say("Done.")].concat());
    let service = Service::start(&stub).await;
    let http = &service.client;
    let body = spec("openai/gated", "go");
    let early = http.post("/runs?wait=0", &body).await.expect(201);
    assert!(early["status"] == "QUEUED" || early["status"] == "RUNNING", "{early}");
    let prefer = http.post_with("/runs", &body, &[("prefer", "respond-async, wait=1")]).await;
    assert_eq!(prefer.header("preference-applied"), "wait=1");
    let id = prefer.expect(201)["run_id"].as_str().unwrap().to_owned();
    let path = format!("/runs/{id}?wait=80");
    let waiting = http.get(&path);
    gate.open();
    let done = waiting.await.expect(200);
    assert_eq!((&done["status"], &done["final_output"]), (&json!("COMPLETED"), &json!("Done.")));
    let at_once = http.post("/runs?wait=80", &body).await.expect(201);
    assert_eq!(at_once["status"], "COMPLETED");
}

#[tokio::test]
async fn the_spec_posted_again_gives_the_same_run() {
    let stub = Stub::start().await;
    tool_script(&stub);
    let service = Service::start(&stub).await;
    let http = &service.client;
    let mut body = spec("openai/tools", "1+1, {user}?");
    body["agent"]["instructions"] = json!("You help {{user.name}}.");
    body["agent"]["model_settings"] = json!({"temperature": 0.5, "extra": {"seed": 7}});
    body["variables"] = json!({"user": {"name": "Ann"}});
    body["history"] = json!([{"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"}]);
    body["config"] = json!({"run_id": "first", "max_turns": 5, "metadata": {"a": "b"}});
    http.post("/runs", &body).await.expect(201);
    let first = http.ended("first").await;
    let spec = http.get("/runs/first/spec").await.expect(200);
    assert_eq!(spec["config"].get("run_id"), None);
    let second = http.ended(&http.create(&spec).await).await;
    for field in ["status", "final_output", "history", "variables", "metadata", "usage", "config"] {
        let plain = |run: &Value| {
            // Call ids are unique over all runs.
            run[field]
                .to_string()
                .split("call_")
                .map(|part| part.get(22..).unwrap_or(part).to_owned())
                .collect::<String>()
        };
        assert_eq!(plain(&first), plain(&second), "{field}");
    }
    assert_eq!(
        http.get(&format!("/runs/{}/spec", second["run_id"].as_str().unwrap())).await.json(),
        spec
    );
    let digests = |log: &[Value]| -> Vec<Value> {
        of(log, "turn.started").iter().map(|event| event["request_sha256"].clone()).collect()
    };
    let first_log = http.log("first").await;
    let second_log = http.log(second["run_id"].as_str().unwrap()).await;
    assert_eq!(digests(&first_log), digests(&second_log));
    assert_eq!(digests(&first_log).len(), 2);
    // And the requests that the provider got are the same.
    let calls = stub.calls("tools");
    assert_eq!(calls[0].request, calls[2].request);
    assert_eq!(calls[1].request, calls[3].request);
    assert_eq!(calls[0].request["messages"][0]["content"], "You help Ann.");
}

#[tokio::test]
async fn the_log_alone_tells_the_question_and_every_whole_message() {
    let stub = Stub::start().await;
    tool_script(&stub);
    let service = Service::start(&stub).await;
    let http = &service.client;
    let id = http.run("openai/tools", "1+1?").await;
    http.ended(&id).await;
    let log = http.log(&id).await;
    assert_eq!(of(&log, "run.queued")[0]["input"], "1+1?");
    assert_eq!(of(&log, "run.queued")[0]["run_id"], id.as_str());
    for (turn, text) in [(1, "Let me see."), (2, "It is 2.")] {
        let completed = of(&log, "turn.completed");
        let parts = &completed.iter().find(|event| event["turn"] == turn).unwrap()["parts"];
        assert_eq!(parts[0]["text"], text);
        let deltas: String = of(&log, "text")
            .iter()
            .filter(|event| event["turn"] == turn)
            .map(|event| event["content"].as_str().unwrap())
            .collect();
        assert_eq!(deltas, text, "deltas join to the message");
    }
    let other = http.run("openai/tools", "1+1?").await;
    http.ended(&other).await;
    let third = http.run("openai/tools", "2+2?").await;
    http.ended(&third).await;
    let digest = |log: &[Value]| of(log, "turn.started")[0]["request_sha256"].clone();
    assert_eq!(digest(&log), digest(&http.log(&other).await));
    assert_ne!(digest(&log), digest(&http.log(&third).await));
}

#[tokio::test]
async fn a_history_goes_on_where_the_last_run_ended() {
    let stub = Stub::start().await;
    tool_script(&stub);
    let service = Service::start(&stub).await;
    let http = &service.client;
    let first = http.ended(&http.run("openai/tools", "1+1?").await).await;
    let mut body = spec("openai/other", "Thanks!");
    body["history"] = first["history"].clone();
    let second = http.ended(&http.create(&body).await).await;
    assert_eq!(second["status"], "COMPLETED");
    let sent = stub.calls("other")[0].request["messages"].as_array().unwrap().clone();
    let roles: Vec<&str> = sent.iter().map(|one| one["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "assistant", "user"]);
    // The user's last message in `history` and the same again as `input` count once.
    let mut doubled = spec("openai/other", "Thanks!");
    doubled["history"] = json!([{"role": "user", "content": "Thanks!"}]);
    http.ended(&http.create(&doubled).await).await;
    let sent = stub.calls("other")[1].request["messages"].as_array().unwrap().clone();
    assert_eq!(sent, [json!({"role": "user", "content": "Thanks!"})]);
}

#[tokio::test]
async fn the_log_can_be_paged_filtered_and_waited_for() {
    let stub = Stub::start().await;
    tool_script(&stub);
    let gate = Gate::new();
    let opened = gate.clone();
    stub.on("gated", move |_| [vec![Do::Wait(opened.clone())], say("Done.")].concat());
    let service = Service::start(&stub).await;
    let http = &service.client;
    let id = http.run("openai/tools", "1+1?").await;
    let run = http.ended(&id).await;
    let log = http.log(&id).await;
    let last = run["last_seq"].as_u64().unwrap();
    assert_eq!(last, log.len() as u64);
    let page = |query: &str| {
        let path = format!("/runs/{id}/events?{query}");
        async move { http.get(&path).await.expect(200) }
    };
    let first = page("limit=3").await;
    assert_eq!(first["data"].as_array().unwrap(), &log[..3]);
    assert_eq!((&first["next_after"], &first["status"]), (&json!(3), &json!("COMPLETED")));
    assert_eq!(first["last_seq"], last);
    let rest = page("after=3").await;
    assert_eq!(rest["data"].as_array().unwrap(), &log[3..]);
    let empty = page(&format!("after={last}")).await;
    assert_eq!((&empty["data"], &empty["next_after"]), (&json!([]), &json!(last)));
    let some = page("types=tool_call,tool_result").await;
    assert_eq!(kinds(some["data"].as_array().unwrap()), ["tool_call", "tool_result"]);
    assert_eq!(some["next_after"], last, "how far the log was looked through");
    let without = page("types=-text,-run.queued").await;
    assert_eq!(without["data"][0]["type"], "run.started");
    assert!(of(without["data"].as_array().unwrap(), "text").is_empty());
    let before = page(&format!("before={last}&limit=2")).await;
    assert_eq!(before["data"].as_array().unwrap(), &log[log.len() - 3..log.len() - 1]);
    let before = page("before=100000&limit=1&types=text").await;
    assert_eq!(before["data"][0], **of(&log, "text").last().unwrap());
    // Nothing more comes of a run that has ended: the wait is over at once.
    assert_eq!(page(&format!("after={last}&wait=80")).await["data"], json!([]));

    let live = http.run("openai/gated", "go").await;
    http.event(&live, "turn.started").await;
    let path = format!("/runs/{live}/events?types=run.completed&wait=80");
    let waiting = tokio::spawn({
        let http = http.clone();
        async move { http.get(&path).await.expect(200) }
    });
    gate.open();
    assert_eq!(waiting.await.unwrap()["data"][0]["type"], "run.completed");

    for wrong in [
        "after=x",
        "after=-1",
        "after=99999",
        "limit=0",
        "limit=1001",
        "types=nope",
        "wait=301",
        "types=text,-run.queued",
        "before=3&after=1",
        "before=3&wait=1",
        "after=1&after=2",
        "what=1",
    ] {
        let refused = http.get(&format!("/runs/{id}/events?{wrong}")).await.expect(422);
        assert_eq!(refused["code"], "invalid_request", "{wrong}");
        assert!(refused["errors"][0]["parameter"].is_string(), "{wrong}: {refused}");
    }
}

#[tokio::test]
async fn every_answer_has_the_headers_that_keep_it_safe() {
    let service = Service::demo().await;
    let http = &service.client;
    let id = http.run("demo/assistant", "hello").await;
    http.ended(&id).await;
    let paths = ["/", "/healthz", "/readyz", "/metrics", "/nowhere", "/runs/unknown"];
    let run = format!("/runs/{id}");
    for path in paths.into_iter().chain([run.as_str()]) {
        let answer = http.get(path).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        assert!(!answer.header("x-request-id").is_empty(), "{path}");
    }
    let about = http.get("/").await.expect(200);
    assert_eq!(about["name"], "runledger");
    let ready = http.get("/readyz").await.expect(200);
    assert!(ready["store"].as_str().unwrap().starts_with("SQLite"), "{ready}");
    let metrics = http.get("/metrics").await;
    for name in ["runledger_slots 1024", "runledger_runs_queued 0", "runledger_runs_owned 0"] {
        assert!(metrics.text.contains(name), "{name} in {}", metrics.text);
    }
    let own_id = http.post_with("/runs", &json!(1), &[("x-request-id", "mine-7")]).await;
    assert_eq!(own_id.header("x-request-id"), "mine-7");
    assert_eq!(own_id.json()["request_id"], "mine-7");
}

#[tokio::test]
async fn an_inline_image_goes_to_the_model_and_the_log_has_its_digest() {
    let stub = Stub::start().await;
    let service = Service::start(&stub).await;
    let http = &service.client;
    let mut body = spec("openai/eyes", "");
    body["input"] = json!([
        {"type": "text", "text": "What is this?"},
        {"type": "image", "media_type": "image/png", "data": "aGVsbG8="},
        {"type": "image", "url": "https://example.com/cat.png"},
    ]);
    let id = http.create(&body).await;
    http.ended(&id).await;
    let queued = &http.log(&id).await[0]["input"];
    let digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let image = json!({"type": "image", "media_type": "image/png", "bytes": 5, "sha256": digest});
    assert_eq!(queued[1], image, "sha256 of the bytes");
    assert_eq!(queued[2], body["input"][2]);
    let sent = &stub.calls("eyes")[0].request["messages"][0]["content"];
    assert_eq!(sent[1]["image_url"]["url"], "data:image/png;base64,aGVsbG8=");
    body["history"] = json!([{"role": "user", "content": [
        {"type": "image", "media_type": "image/png", "data": "no base 64"}]}]);
    body["input"][1]["data"] = json!("aGVsbG8");
    let refused = http.post("/runs", &body).await.expect(422);
    let pointers: Vec<&Value> =
        refused["errors"].as_array().unwrap().iter().map(|error| &error["pointer"]).collect();
    assert_eq!(pointers, ["/input/1/data", "/history/0/content/0/data"]);
}

#[tokio::test]
async fn an_id_that_is_no_text_names_nothing() {
    let service = Service::demo().await;
    let http = &service.client;
    for path in
        ["/runs/%FF", "/runs/%FF/events", "/runs/%FF/stream", "/runs/%FF/spec", "/batches/%FF"]
    {
        let absent = http.get(path).await.expect(404);
        assert_eq!(absent["code"], "not_found", "{path}");
    }
    http.delete("/runs/%FF").await.expect(404);
    http.post("/runs/%FF/purge", &json!(null)).await.expect(404);
}
