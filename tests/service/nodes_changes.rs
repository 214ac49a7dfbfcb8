//! Cancels and changes that race a run's end, its wait in the queue or for a retry, and its handing over
//! to another node: each that was accepted is taken once.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection};

use crate::bulk;
use crate::chance::Chance;
use crate::client::{Client, is_terminal, of, spec};
use crate::nodes::Nodes;
use crate::scale::scaled;
use crate::service::Service;
use crate::stub::{Do, Gate, say};
use crate::waiting::until;

/// What a run is about to do when it is asked for something.
const KINDS: [&str; 4] = ["end", "queue", "retry", "long"];

/// Changes of one run; the last one of each second run is a cancel.
const OPS: usize = 4;

/// Runs that are under way at once: more than both nodes have slots for.
const AT_ONCE: usize = 60;

/// What came of one change.
#[derive(Debug)]
struct Asked {
    /// Its label; none: a cancel.
    label: Option<String>,
    status: u16,
    /// An earlier try had no answer.
    is_doubtful: bool,
}

/// What is wrong with the log of a run that was asked for these.
fn violations(log: &[Value], asked: &[Asked]) -> Vec<String> {
    let mut found = Vec::new();
    let last = log.last().map(|event| event["type"].clone());
    for one in asked {
        let taken = match &one.label {
            Some(label) => {
                let updates = of(log, "run.updated");
                updates.iter().filter(|event| event["metadata"]["op"] == *label).count()
            }
            None => of(log, "cancel.requested").len(),
        };
        let is_right = match (one.status, &one.label) {
            (202, Some(_)) => taken == 1,
            (202, None) => taken == 1 && last == Some(json!("run.cancelled")),
            // The run had ended, and its client was told.
            (409, Some(_)) | (200, None) => taken == 0 || (one.is_doubtful && taken == 1),
            _ => false,
        };
        if !is_right {
            found.push(format!("{one:?} was taken {taken} times, and the end is {last:?}"));
        }
    }
    found
}

/// Two nodes of which one at a time may be away.
struct Pair {
    clients: Mutex<[Client; 2]>,
    asked: AtomicUsize,
}

impl Pair {
    fn client(&self, n: usize) -> Client {
        self.clients.lock().unwrap()[n % 2].clone()
    }

    /// Asks one node, and the other where that one goes away.
    async fn ask(
        &self,
        mut node: usize,
        method: reqwest::Method,
        path: &str,
        body: &Value,
        key: &str,
    ) -> (u16, Value, bool) {
        let mut is_doubtful = false;
        loop {
            let headers: &[(&str, &str)] =
                if key.is_empty() { &[] } else { &[("idempotency-key", key)] };
            let client = self.client(node);
            match bulk::try_ask(&client, method.clone(), path, body, headers).await {
                Ok((503, _)) | Err(_) => {
                    // Where it is still the same node, its successor is not there yet.
                    is_doubtful = true;
                    node += 1;
                    tokio::task::yield_now().await;
                }
                Ok((status, body)) => return (status, body, is_doubtful),
            }
        }
    }
}

/// One run from its creation to the last thing that it is asked for.
async fn run(pair: &Pair, n: usize, mut chance: Chance) -> (String, Vec<Asked>) {
    let input = format!("{} {n}", KINDS[n % KINDS.len()]);
    let mut body = spec("openai/race", &input);
    body["config"] = json!({"max_turns": 10, "timeout_per_turn": 300, "max_time": 600});
    let (post, patch) = (reqwest::Method::POST, reqwest::Method::PATCH);
    let (status, made, _) =
        pair.ask(n, post, "/runs", &body, &format!("run {n}").replace(' ', "-")).await;
    assert!(status < 300, "{status}: {made}");
    let id = bulk::text(&made["run_id"]).to_owned();
    let path = format!("/runs/{id}");
    let mut asked = Vec::new();
    for op in 0..OPS {
        for _ in 0..chance.below(2 + 2 * op) {
            pair.ask(chance.below(2), reqwest::Method::GET, &path, &Value::Null, "").await;
        }
        let node = chance.below(2);
        let one = if op + 1 == OPS && n.is_multiple_of(2) {
            let (status, _, is_doubtful) =
                pair.ask(node, reqwest::Method::DELETE, &path, &Value::Null, "").await;
            Asked { label: None, status, is_doubtful }
        } else {
            let label = format!("{n}-{op}");
            let body = json!({"metadata": {"op": label}, "config": {"max_turns": 11 + op}});
            let (status, told, is_doubtful) =
                pair.ask(node, patch.clone(), &path, &body, &label).await;
            assert!(status == 202 || status == 409, "{told}");
            Asked { label: Some(label), status, is_doubtful }
        };
        asked.push(one);
        pair.asked.fetch_add(1, Ordering::Relaxed);
    }
    (id, asked)
}

async fn started() -> (Nodes, Vec<Service>) {
    let nodes = Nodes::new().await.with("RUNLEDGER_SLOTS", "20").with("RUNLEDGER_DRAIN", "1");
    nodes.stub.on("race", |call| {
        let words =
            |count, pause| vec![Do::Words(count, Duration::from_millis(pause)), Do::Finish("stop")];
        match (call.input.split(' ').next().unwrap(), call.attempt) {
            ("retry", 1) => vec![Do::Refuse(429, &[("retry-after-ms", "1100")], "{}".into())],
            ("long", _) => words(30, 70),
            _ => words(10, 60),
        }
    });
    let services = Vec::from(nodes.start_many::<2>().await);
    (nodes, services)
}

/// reliability.md, row 26. Answers, approvals and expiries are not there yet.
#[tokio::test]
async fn each_change_is_taken_once_whatever_its_run_is_about_to_do() {
    let ops = scaled(160, 10_000);
    let deploys = scaled(2, 40);
    let chance = Chance::given(26);
    let (nodes, mut services) = started().await;
    let clients = [services[0].client.clone(), services[1].client.clone()];
    let pair = Pair { clients: Mutex::new(clients), asked: AtomicUsize::new(0) };
    let asking = bulk::each(0..ops / OPS, AT_ONCE, |n| run(&pair, n, chance.of(n)));
    let asking = asking.collect::<Vec<_>>();
    let deploying = async {
        for n in 0..deploys {
            let enough = (n + 1) * ops / (deploys + 1);
            let reached = || async { (pair.asked.load(Ordering::Relaxed) >= enough).then_some(()) };
            until("enough changes", reached).await;
            let place = n % 2;
            let (status, _) = services.remove(place).terminate().await;
            assert!(status.success(), "{status}");
            services.insert(place, nodes.start().await);
            pair.clients.lock().unwrap()[place] = services[place].client.clone();
        }
    };
    let (runs, ()) = tokio::join!(asking, deploying);
    let (mut found, mut moves, mut counts) = (Vec::new(), 0, BTreeMap::<u16, usize>::new());
    let logs = bulk::all(&runs, |(id, _)| {
        let client = pair.client(0);
        async move {
            let run = bulk::ended(&client, id).await;
            assert!(is_terminal(&run));
            bulk::log(&client, id).await
        }
    });
    let logs = logs.await;
    for ((id, asked), log) in runs.iter().zip(&logs) {
        found.extend(violations(log, asked).into_iter().map(|wrong| format!("{id}: {wrong}")));
        moves += of(log, "run.started").len().saturating_sub(1);
        for one in asked {
            *counts.entry(one.status).or_default() += 1;
        }
    }
    let of = |status| counts.get(&status).copied().unwrap_or_default();
    println!(
        "row=26 seed={} faults_fired={} ops_ok={} ended={} deploys={deploys} moves={moves} value={}",
        chance.seed(),
        of(202),
        counts.values().sum::<usize>(),
        of(409) + of(200),
        found.len()
    );
    assert_eq!(found, Vec::<String>::new());
    assert!(of(202) >= ops / 5 && of(409) + of(200) >= ops / 50, "{counts:?}");
}

/// The control: a note that is lost from the inbox after it was accepted.
#[tokio::test]
async fn a_change_that_was_accepted_and_lost_is_found() {
    let nodes = Nodes::new().await.with("RUNLEDGER_SLOTS", "1");
    let gate = Gate::new();
    let opened = gate.clone();
    nodes.stub.on("wait", move |_| [vec![Do::Wait(opened.clone())], say("x")].concat());
    let service = nodes.start().await;
    let http = &service.client;
    http.run("openai/wait", "busy").await;
    nodes.stub.called("wait", 1).await;
    let queued = http.run("openai/any", "queued").await;
    // The run would read its note at once: the note is lost as it is written.
    let options: sqlx::postgres::PgConnectOptions = nodes.url.parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql(
        "create function lose() returns trigger language plpgsql as 'begin return null; end';
         create trigger lose before insert on inbox for each row execute function lose()",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    let body = json!({"metadata": {"op": "lost"}});
    let patch = reqwest::Method::PATCH;
    let (status, _) = bulk::ask(http, patch, &format!("/runs/{queued}"), &body).await;
    gate.open();
    http.ended(&queued).await;
    let asked = [Asked { label: Some("lost".into()), status, is_doubtful: false }];
    let found = violations(&http.log(&queued).await, &asked);
    println!("row=26 control=true faults_fired=1 value={}", found.len());
    assert!(status == 202 && !found.is_empty(), "{status}: the loss is not seen");
}
