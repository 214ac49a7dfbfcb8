//! Clients that go away while they create a run: it exists and ends, or it does not exist.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bulk;
use crate::chance::Chance;
use crate::client::{Client, is_terminal, spec};
use crate::scale::scaled;
use crate::service::{Service, Setup};
use crate::stub::{Do, Stub};
use crate::waiting::until;

/// How long a run may wait in the queue while slots are free.
const QUEUED_MAX: Duration = Duration::from_secs(5);

/// Clients at once.
const AT_ONCE: usize = 20;

/// The bytes of a request, and where its body begins.
fn request(n: usize) -> (Vec<u8>, usize, Value) {
    let mut body = spec("openai/any", &format!("gone {n}"));
    body["config"] = json!({"metadata": {"gone": "1"}});
    let text = body.to_string();
    let head = format!(
        "POST /runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Idempotency-Key: gone-{n}\r\nContent-Length: {}\r\n\r\n",
        text.len()
    );
    ((head.clone() + &text).into_bytes(), head.len(), body)
}

/// Sends so much of a request and is gone: in order, by a reset, or once the first byte of the answer
/// has come. True where the whole was sent.
async fn go(client: &Client, n: usize, mut chance: Chance) -> bool {
    let (bytes, body, _) = request(n);
    let sent = match n % 3 {
        0 => chance.below(body),
        1 => body + chance.below(bytes.len() - body),
        _ => bytes.len(),
    };
    let address = client.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&bytes[..sent]).await.unwrap();
    match chance.below(3) {
        0 => {}
        1 => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
        _ if sent == bytes.len() => drop(stream.read_u8().await),
        _ => stream.shutdown().await.unwrap(),
    }
    sent == bytes.len()
}

/// Every run with the label.
async fn listed(client: &Client) -> Vec<Value> {
    let (mut runs, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/runs?metadata=gone:1&limit=100{cursor}");
        let page = bulk::get(client, &path).await;
        runs.extend(page["data"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return runs,
        }
    }
}

/// Looks until no run is under way; gives all of them, and those that were seen in the queue for too
/// long.
async fn stuck(client: &Client, most: Duration) -> (Vec<Value>, Vec<String>) {
    let began = Instant::now();
    until("the ends of the runs", || async {
        let runs = listed(client).await;
        let waits = |run: &&Value| run["status"] == "QUEUED";
        let stuck: Vec<String> =
            runs.iter().filter(waits).map(|run| run["run_id"].to_string()).collect();
        let is_late = began.elapsed() > most && !stuck.is_empty();
        (is_late || runs.iter().all(is_terminal)).then_some((runs, stuck))
    })
    .await
}

/// reliability.md, row 18.
#[tokio::test]
async fn a_client_that_goes_away_leaves_a_run_that_ends_or_none() {
    let count = scaled(60, 500);
    let chance = Chance::given(18);
    let stub = Stub::start().await;
    let service = Service::start(&stub).await;
    let client = &service.client;
    let gone: Vec<bool> =
        bulk::each(0..count, AT_ONCE, |n| go(client, n, chance.of(n))).collect().await;
    let whole = gone.iter().filter(|sent| **sent).count();
    let (runs, mut found) = stuck(client, QUEUED_MAX).await;
    if runs.len() > whole {
        found.push(format!("{} runs of {whole} whole requests", runs.len()));
    }
    // Who asks again, with the key, gets the run that is there, or makes it.
    for n in 0..count {
        let key = format!("gone-{n}");
        let (body, key) = (request(n).2, [("idempotency-key", key.as_str())]);
        let post = reqwest::Method::POST;
        let (status, run) = bulk::try_ask(client, post, "/runs", &body, &key).await.unwrap();
        let id = bulk::text(&run["run_id"]).to_owned();
        let was_there = runs.iter().any(|one| one["run_id"] == json!(id));
        if (status == 200) != was_there || bulk::ended(client, &id).await["status"] != "COMPLETED" {
            found.push(format!("{n}: {status}, {was_there}, {run}"));
        }
        if stub.counts(&format!("gone {n}")) != [(1, 1)].into() {
            found.push(format!("{n}: {:?} calls", stub.counts(&format!("gone {n}"))));
        }
    }
    let made = runs.len();
    println!(
        "row=18 seed={} faults_fired={count} ops_ok={made} whole={whole} value={}",
        chance.seed(),
        found.len()
    );
    assert_eq!(found, Vec::<String>::new());
    assert!(whole >= count / 3 && made >= whole / 5, "{made} runs of {whole}");
}

/// The control: a run that nobody can take from the queue.
#[tokio::test]
async fn a_run_that_is_stuck_in_the_queue_is_found() {
    let stub = Stub::start().await;
    stub.on("hang", |_| vec![Do::Hang]);
    let service = Service::start_with(&stub, Setup::default().env("RUNLEDGER_SLOTS", "1")).await;
    service.client.run("openai/hang", "busy").await;
    stub.called("hang", 1).await;
    service.client.create(&request(0).2).await;
    let (_, found) = stuck(&service.client, Duration::from_millis(200)).await;
    println!("row=18 control=true faults_fired=1 value={}", found.len());
    assert_eq!(found.len(), 1);
}
