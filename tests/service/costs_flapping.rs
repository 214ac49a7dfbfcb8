//! A provider that flaps under a limit of money: what it bills, void attempts included, passes the limit
//! by one call at most.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::bulk;
use crate::chance::Chance;
use crate::client::{of, spec};
use crate::recovery::violations;
use crate::scale::scaled;
use crate::service::{Service, Setup};
use crate::stub::Call;
use crate::wire_stub::{HEAD, Wire, WireStub, answer, chunk, stream_of};

/// USD for a thousand tokens of input, and of output.
const PRICES: (f64, f64) = (1.0, 2.0);

/// Runs that are under way at once.
const ROUND: usize = 100;

/// What the provider has billed, by a run's input: call by call.
type Bills = Arc<Mutex<HashMap<String, Vec<f64>>>>;

fn event(chunk: &Value) -> String {
    format!("data: {chunk}\n\n")
}

/// One answer: whole, or as a bad day of the provider has it. It bills what it has read and said.
fn answered(call: &Call, chance: &mut Chance, bills: &Bills) -> Vec<Wire> {
    // Its own count: words of four letters, as tokens are, about.
    let read = call.request["messages"].to_string().len() as u64 / 5;
    let words = 4 + chance.below(40) as u64;
    let bill = |said: u64| {
        let cost = (read as f64 * PRICES.0 + said as f64 * PRICES.1) / 1000.0;
        bills.lock().unwrap().entry(call.input.clone()).or_default().push(cost);
    };
    let text = |words: u64| -> String {
        let say = |n| {
            event(&json!({"choices": [{"index": 0, "delta": {"content": format!("w{n:02} ")}}]}))
        };
        (0..words).map(say).collect()
    };
    let usage = |said: u64| {
        event(&json!({"choices": [], "usage": {
        "prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said}}))
    };
    let arguments = json!({"expression": "1+1"}).to_string();
    let end = |reason| {
        let calls = json!([{"index": 0, "id": "c", "type": "function",
            "function": {"name": "calculator", "arguments": arguments}}]);
        event(
            &json!({"choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": reason}]}),
        )
    };
    let cut = |body: String| {
        let begun = [HEAD.as_bytes(), &chunk(body.as_bytes())].concat();
        vec![Wire::Bytes(begun), Wire::Close]
    };
    match chance.below(14) {
        // What is refused costs nothing.
        0 => vec![Wire::Bytes(answer(429, "retry-after-ms: 1\r\n", b"{}"))],
        1 => vec![Wire::Bytes(answer(503, "", b"{}"))],
        // It breaks off, and never says what that costs; or has said so.
        2 | 3 => {
            let said = chance.below(usize::try_from(words).unwrap()) as u64;
            bill(said);
            cut(text(said))
        }
        4 => {
            bill(words);
            cut(text(words) + &usage(words))
        }
        // It reads, says nothing and breaks off; or says that it is overloaded.
        5 => {
            bill(0);
            vec![Wire::Reset]
        }
        6 => {
            bill(words);
            let error = json!({"error": {"message": "overloaded", "type": "overloaded_error"}});
            vec![Wire::Bytes(stream_of((text(words) + &event(&error)).as_bytes()))]
        }
        _ => {
            bill(words + 8);
            let body = text(words) + &end("tool_calls") + &usage(words + 8) + "data: [DONE]\n\n";
            vec![Wire::Bytes(stream_of(body.as_bytes()))]
        }
    }
}

/// Runs of a model that asks for tools for ever, with this limit; what passed it by more than a call.
async fn spent(runs: usize, chance: &Chance, limit: impl Fn(usize) -> Option<f64>) -> Spent {
    let bills = Bills::default();
    let (to, seeds) = (bills.clone(), chance.clone());
    let stub = WireStub::start(move |call: &Call| {
        let n: usize = call.input.parse().unwrap();
        answered(call, &mut seeds.of(n * 10_000 + call.turn * 100 + call.attempt), &to)
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (PRICES.0 * 1000.0, PRICES.1 * 1000.0);
    let mut file = String::new();
    for provider in ["one", "two"] {
        file += &format!(
            "[providers.{provider}]\nkind = \"openai\"\nbase_url = \"{}/v1\"\n\
             prices.m = {{ input = {input}, output = {output} }}\n",
            stub.root()
        );
    }
    let setup = Setup::default().file(folder.path(), &file);
    let service = Service::in_folder(Arc::new(tempfile::tempdir().unwrap()), setup).await;
    let bodies: Vec<Value> = (0..runs)
        .map(|n| {
            let mut body = spec("one/m", &n.to_string());
            body["agent"]["model"] = json!(["one/m", "two/m"]);
            body["config"] = json!({"max_turns": 8, "timeout_per_turn": 600, "max_time": 900,
                "max_cost_usd": limit(n)});
            if limit(n).is_none() {
                body["config"].as_object_mut().unwrap().remove("max_cost_usd");
            }
            body
        })
        .collect();
    let mut spent = Spent::default();
    for (round, some) in bodies.chunks(ROUND).enumerate() {
        let ids = bulk::create(&service.client, some).await;
        let client = &service.client;
        let ended = bulk::all(&ids, |id| async move {
            (bulk::ended(client, id).await, bulk::log(client, id).await)
        });
        for (place, (run, log)) in ended.await.into_iter().enumerate() {
            let n = round * ROUND + place;
            let bills = bills.lock().unwrap().get(&n.to_string()).cloned().unwrap_or_default();
            spent.add(n, &run, &log, &bills);
            spent.found.extend(violations(&log, &[], &stub.counts(&n.to_string())));
        }
    }
    spent
}

/// What runs have spent.
#[derive(Default)]
struct Spent {
    found: Vec<String>,
    voids: usize,
    runs: usize,
    /// Runs that the limit ended.
    limited: usize,
    /// The most that was spent beyond a limit, in calls of that run.
    most: f64,
}

/// The limit of the `n`th run.
fn limit(n: usize) -> f64 {
    0.1 + (n % 9) as f64 / 10.0
}

impl Spent {
    fn add(&mut self, n: usize, run: &Value, log: &[Value], bills: &[f64]) {
        self.runs += 1;
        self.voids += of(log, "turn.aborted").len();
        self.limited += usize::from(run["stop_reason"] == "max_cost_usd");
        let (total, dearest) =
            (bills.iter().sum::<f64>(), bills.iter().copied().fold(0.0, f64::max));
        let beyond = (total - limit(n)) / dearest.max(f64::MIN_POSITIVE);
        self.most = self.most.max(beyond);
        if beyond > 1.0 {
            self.found.push(format!("run {n} spent {total} of {}, {beyond} calls more", limit(n)));
        }
    }
}

/// reliability.md, row 36.
#[tokio::test]
async fn a_flapping_provider_bills_one_call_more_than_the_limit_at_most() {
    let runs = scaled(30, 200);
    let chance = Chance::given(36);
    let spent = spent(runs, &chance, |n| Some(limit(n))).await;
    println!(
        "row=36 seed={} faults_fired={} ops_ok={} limited={} most_calls_beyond={:.2} value={}",
        chance.seed(),
        spent.voids,
        spent.runs,
        spent.limited,
        spent.most,
        spent.found.len()
    );
    assert_eq!(spent.found, Vec::<String>::new());
    assert!(spent.voids >= 2 * runs && spent.limited >= runs / 2 && spent.runs == runs);
}

/// The control: runs without the limit.
#[tokio::test]
async fn spending_beyond_a_limit_is_found() {
    let spent = spent(8, &Chance::given(36), |_| None).await;
    println!("row=36 control=true faults_fired={} value={}", spent.voids, spent.found.len());
    assert!(!spent.found.is_empty());
}
