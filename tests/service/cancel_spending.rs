//! A cancel stops the spending, wherever it is asked for: nothing starts behind it, and the provider's
//! connection closes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bulk;
use crate::chance::Chance;
use crate::client::{of, spec};
use crate::nodes::Nodes;
use crate::scale::scaled;
use crate::service::{Service, Setup};
use crate::stub::Call;
use crate::waiting::until;
use crate::wire_stub::{HEAD, Wire, WireStub, chunk, stream_of};

/// What a model says that asks for the calculator, again and again.
fn busy(call: &Call) -> Vec<u8> {
    let arguments = json!({"expression": format!("{}+1", call.turn)}).to_string();
    let calls: Vec<Value> = (0..2)
        .map(|n| {
            json!({"index": n, "id": format!("call_{n}"), "type": "function",
                "function": {"name": "calculator", "arguments": arguments}})
        })
        .collect();
    let choice = json!({"index": 0, "delta": {"tool_calls": calls}, "finish_reason": "tool_calls"});
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 5});
    let chunk = json!({"choices": [choice], "usage": usage});
    stream_of(format!("data: {chunk}\n\ndata: [DONE]\n\n").as_bytes())
}

/// Runs whose model hangs in its answer, or asks for tools for ever.
async fn stub() -> WireStub {
    WireStub::start(|call: &Call| match call.input.starts_with("hang") {
        true => {
            let say = json!({"choices": [{"index": 0, "delta": {"content": "So far"}}]});
            let begun = [HEAD.as_bytes(), &chunk(format!("data: {say}\n\n").as_bytes())].concat();
            vec![Wire::Bytes(begun), Wire::Silence]
        }
        false => vec![Wire::Bytes(busy(call))],
    })
    .await
}

/// What started behind the cancel.
fn started_late(log: &[Value], seen: u64) -> Vec<String> {
    let asked = log.iter().position(|event| event["type"] == "cancel.requested");
    let Some(asked) = asked else { return vec!["no cancel was read".to_owned()] };
    let starts = log.iter().enumerate().filter(|(place, event)| {
        let is_late = *place > asked || event["seq"].as_u64().unwrap() > seen;
        is_late && ["turn.started", "tool.started"].contains(&event["type"].as_str().unwrap())
    });
    starts.map(|(_, start)| format!("behind the cancel: {start}")).collect()
}

/// A run that was cancelled.
struct Cancelled {
    input: String,
    found: Vec<String>,
    asked_for: usize,
    /// From the `202` to the end of the provider's connection, where the model hung.
    closed: Option<Duration>,
}

async fn cancel(
    at: &Service,
    other: &Service,
    stub: &WireStub,
    input: String,
    chance: Chance,
) -> Cancelled {
    let mut body = spec("openai/m", &input);
    body["config"] = json!({"max_turns": 1000, "timeout_per_turn": 600, "max_time": 900});
    let (status, run) = bulk::ask(&at.client, reqwest::Method::POST, "/runs", &body).await;
    assert_eq!(status, 201, "{run}");
    let id = bulk::text(&run["run_id"]).to_owned();
    let hangs = input.starts_with("hang");
    let turns = if hangs { 1 } else { 1 + chance.clone().below(6) };
    let asked = || async { (stub.counts(&input).values().sum::<usize>() >= turns).then_some(()) };
    until("the model's calls", asked).await;
    if hangs {
        let text = format!("/runs/{id}/events?types=text&limit=1&wait=80");
        bulk::get(&at.client, &text).await;
    }
    let path = format!("/runs/{id}");
    let (status, run) =
        bulk::ask(&other.client, reqwest::Method::DELETE, &path, &Value::Null).await;
    let told = Instant::now();
    assert_eq!(status, 202, "{run}");
    let seen = run["last_seq"].as_u64().unwrap();
    let run = bulk::ended(&at.client, &id).await;
    let log = bulk::log(&at.client, &id).await;
    let mut found = started_late(&log, seen);
    let asked_for = stub.counts(&input).values().sum::<usize>();
    if run["status"] != "CANCELLED" || asked_for > of(&log, "turn.started").len() {
        found.push(format!("asked {asked_for} times, {}", run["status"]));
    }
    let closed = match hangs {
        true => Some(until("the hang-up", || async { stub.hung_up(&input) }).await),
        false => None,
    };
    let closed = closed.map(|at| at.saturating_duration_since(told));
    Cancelled { input, found, asked_for, closed }
}

/// reliability.md, row 16.
#[tokio::test]
async fn a_cancel_stops_the_spending_on_every_node() {
    let count = scaled(10, 168);
    let chance = Chance::given(16);
    let stub = stub().await;
    let url = format!("{}/v1", stub.root());
    let loud = Nodes::new().await.with("OPENAI_BASE_URL", &url);
    let quiet = Nodes::new().await.with("OPENAI_BASE_URL", &url).with("DATABASE_LISTEN_URL", "off");
    let (pair, quiet) = (loud.start_many::<2>().await, quiet.start_many::<2>().await);
    let (mut ok, mut found, mut figures, mut cancelled) = (0, Vec::new(), Vec::new(), Vec::new());
    for (name, at, other) in [
        ("same_node", &pair[0], &pair[0]),
        ("other_node", &pair[0], &pair[1]),
        ("quiet", &quiet[0], &quiet[1]),
    ] {
        let stub = &stub;
        let runs = bulk::all(0..count, |n| {
            let kind = if n % 2 == 0 { "hang" } else { "busy" };
            cancel(at, other, stub, format!("{kind} {name} {n}"), chance.of(n))
        })
        .await;
        let mut closed: Vec<Duration> = runs.iter().filter_map(|run| run.closed).collect();
        figures.push(format!("{name}_closed_p99_ms={}", bulk::p99(&mut closed).as_millis()));
        cancelled.extend(runs);
    }
    for run in cancelled {
        ok += 1;
        found.extend(run.found.iter().map(|wrong| format!("{}: {wrong}", run.input)));
        let now: usize = stub.counts(&run.input).values().sum();
        if now != run.asked_for {
            found.push(format!("{}: asked again after its end", run.input));
        }
    }
    println!(
        "row=16 seed={} faults_fired={ok} ops_ok={ok} {} value={}",
        chance.seed(),
        figures.join(" "),
        found.len()
    );
    assert_eq!(found, Vec::<String>::new());
    assert!(ok == 3 * count, "{ok}");
}

/// The control: a run that went on behind a cancel that nobody carried out.
#[tokio::test]
async fn a_run_that_goes_on_behind_its_cancel_is_found() {
    let stub = stub().await;
    let setup = Setup::default().env("OPENAI_BASE_URL", format!("{}/v1", stub.root()));
    let service = Service::in_folder(Arc::new(tempfile::tempdir().unwrap()), setup).await;
    let mut body = spec("openai/m", "busy");
    body["config"] = json!({"max_turns": 4});
    let id = service.client.create(&body).await;
    service.client.ended(&id).await;
    let mut log = service.client.log(&id).await;
    let place = log.iter().position(|event| event["type"] == "turn.completed").unwrap();
    log.insert(place, json!({"type": "cancel.requested", "seq": log[place]["seq"]}));
    let found = started_late(&log, u64::MAX);
    println!("row=16 control=true faults_fired=1 value={}", found.len());
    assert!(found.len() >= 3, "{found:?}");
}
