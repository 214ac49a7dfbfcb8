//! Hostile models and tools, and a full log: they harm their own run and no other.

use serde_json::{Value, json};

use crate::client::{Client, is_terminal, of, spec};
use crate::service::Service;
use crate::stub::{Call, Do, Stub, calculate, say};
use crate::tool_stub::{self, ToolStub};

/// How much more memory the service may hold after all of it, KiB. The build is one for tests, and the
/// allocator keeps what it once had.
const MEMORY_MORE_KIB: u64 = 128 * 1024;

fn event(data: &str) -> Vec<u8> {
    format!("data: {data}\n\n").into_bytes()
}

fn delta(fields: &str) -> Vec<u8> {
    event(&format!("{{\"choices\":[{{\"index\":0,\"delta\":{fields}}}]}}"))
}

/// Streams that have broken readers before.
fn streams() -> Vec<Vec<u8>> {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let calls: String = (0..400)
        .map(|n| {
            format!("{{\"index\":{n},\"id\":\"c{n}\",\"function\":{{\"name\":\"f\",\"arguments\":\"{{\"}}}},")
        })
        .collect();
    vec![
        Vec::new(),
        event("[DONE]"),
        event("not json"),
        event("[]"),
        event("7"),
        event("{\"choices\":7}"),
        event("{\"choices\":[7,null,{}]}"),
        event("{\"error\":{\"message\":7,\"code\":[]}}"),
        event(&deep(50_000)),
        b"data: {\"choices\":[{\"delta\":{\"content\":\"caf\xe9\xff\"}}]}\n\n".to_vec(),
        b"\xff\xfe\x00".repeat(100),
        b"data: ".repeat(20_000),
        vec![b'x'; 2 * 1024 * 1024],
        event(&format!("{{\"junk\":\"{}\"}}", "y".repeat(900_000))),
        delta("{\"content\":\"\\u0000\\ud83d\"}"),
        delta("{\"content\":\"\\u0000 nul\"}"),
        delta("{\"content\":1e999}"),
        delta("{\"content\":{\"a\":[]},\"tool_calls\":{}}"),
        delta("{\"tool_calls\":[{\"index\":-1},{\"index\":1e300,\"function\":7},null,[]]}"),
        delta(&format!("{{\"tool_calls\":[{}null]}}", calls)),
        event(
            "{\"usage\":{\"prompt_tokens\":-1,\"completion_tokens\":1e300,\"total_tokens\":\"x\"}}",
        ),
        event("{\"choices\":[{\"index\":0,\"finish_reason\":7}]}"),
        b"HTTP/1.1 500 Oops\r\n\r\n".to_vec(),
    ]
}

fn hostile_run(model: &str, input: String, tool: &str) -> Value {
    let mut body = spec(&format!("openai/{model}"), &input);
    body["agent"]["tools"] = json!([{"type": "http", "name": "fetch", "url": tool, "timeout": 5,
        "effect": "once"}]);
    body["config"] = json!({"timeout_per_turn": 20, "max_turns": 3});
    body
}

async fn finished(http: &Client, ids: &[String]) -> Vec<Value> {
    let mut runs = Vec::new();
    for id in ids {
        let run = http.ended(id).await;
        assert!(is_terminal(&run));
        runs.push(run);
    }
    runs
}

/// reliability.md, row 13, with real sockets.
#[tokio::test]
async fn hostile_models_and_tools_harm_only_their_own_run() {
    const NEIGHBOURS: usize = 40;
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let streams = streams();
    let kinds = streams.len();
    let answers = streams.clone();
    // First the stream, then a good end, so that the text is used where it can be.
    stub.on("hostile", move |call: &Call| {
        let which: usize = call.input.parse().unwrap();
        let stream = Do::Bytes(answers[which % answers.len()].clone());
        vec![stream, Do::Finish("stop")]
    });
    stub.on("asks", |call| match call.turn {
        1 => vec![Do::Call("fetch", json!({})), Do::Finish("tool_calls")],
        _ => say("So it is."),
    });
    stub.on("good", |call| if call.turn == 1 { calculate(2) } else { say("Good.") });
    tools.on("/hostile", move |call| {
        let which = call.body["arguments"].to_string().len() + call.key.len();
        let body = streams[which % streams.len()].clone();
        tool_stub::Reply::Send(200, vec![("content-type", "application/json".to_owned())], body)
    });
    tools.on("/flood", |_| tool_stub::Reply::Flood(10 * 1024 * 1024));
    let service = Service::start(&stub).await;
    let http = &service.client;
    finished(http, &[http.run("openai/good", "warm").await]).await;
    let before = service.memory_kib("VmRSS");
    let (mut hostile, mut good) = (Vec::new(), Vec::new());
    for n in 0..3 * kinds {
        let tool = format!("{}/hostile", tools.url);
        hostile.push(http.create(&hostile_run("hostile", n.to_string(), &tool)).await);
        let path = if n % 5 == 0 { "flood" } else { "hostile" };
        let tool = format!("{}/{path}", tools.url);
        hostile.push(http.create(&hostile_run("asks", format!("asks {n}"), &tool)).await);
        if good.len() < NEIGHBOURS {
            good.push(http.run("openai/good", &format!("good {n}")).await);
        }
    }
    for run in finished(http, &good).await {
        assert_eq!((&run["status"], &run["final_output"]), (&json!("COMPLETED"), &json!("Good.")));
    }
    let ended = finished(http, &hostile).await;
    let failed = ended.iter().filter(|run| run["status"] == "FAILED").count();
    let more = service.memory_kib("VmHWM").saturating_sub(before);
    println!(
        "row=13 faults_fired={} ops_ok={} failed={failed} memory_kib={more} value=0",
        hostile.len(),
        good.len()
    );
    assert!(failed >= kinds, "hostile streams should fail their runs: {failed}");
    assert!(more < MEMORY_MORE_KIB, "{more} KiB more");
    assert_eq!(http.get("/readyz").await.status, 200);
}

/// api.md, the last row of what happens.
#[tokio::test]
async fn a_log_that_is_full_ends_its_run_and_keeps_what_was_said() {
    let stub = Stub::start().await;
    // Text and reasoning in turn are never merged: each is an event.
    stub.on("endless", |_| {
        let pair: String = [r#"{"content":"a"}"#, r#"{"reasoning_content":"b"}"#]
            .map(|fields| String::from_utf8(delta(fields)).unwrap())
            .concat();
        let many = Do::Raw(pair.repeat(500));
        std::iter::repeat_n(many, 110).chain([Do::Hang]).collect()
    });
    let service = Service::start(&stub).await;
    let http = &service.client;
    let mut body = spec("openai/endless", "go");
    body["config"] = json!({"timeout_per_turn": 600, "max_time": 600});
    let id = http.create(&body).await;
    let good = http.run("openai/any", "meanwhile").await;
    assert_eq!(http.ended(&good).await["status"], "COMPLETED");
    let run = http.ended(&id).await;
    assert_eq!((&run["status"], &run["stop_reason"]), (&json!("FAILED"), &json!("log_full")));
    stub.hung_up("endless", 1).await;
    let last = run["last_seq"].as_u64().unwrap();
    assert!((99_000..=100_000).contains(&last), "{last}");
    assert!(run["final_output"].as_str().unwrap().len() > 40_000, "what was said is kept");
    let end = http.get(&format!("/runs/{id}/events?before=100001&limit=3")).await.expect(200);
    let end = end["data"].as_array().unwrap();
    assert_eq!(of(end, "turn.aborted")[0]["reason"], "limit");
    assert_eq!(end[2]["type"], "run.failed");
}
