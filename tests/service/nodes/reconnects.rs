//! Streams whose readers are cut at any byte and go on at any node, while nodes are killed: what was
//! read is the log, byte for byte.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Method;
use tokio::time::{sleep, timeout};

use super::Nodes;
use crate::chance::{Chance, seed};
use crate::client::Client;
use crate::scale::scaled;
use crate::service::Service;
use crate::stub::{Call, Do, calculate};
use crate::waiting::TEST_MAX;

const TURNS: usize = 3;

/// The longest piece that a reader gets of a stream: about two events.
const PIECE_MAX: usize = 600;

/// Connections from one kill to the next, on average.
const CONNECTIONS: usize = 100;

/// How long a reader waits for a node that may be dead.
const PATIENCE: Duration = Duration::from_secs(2);

fn turns(call: &Call) -> Vec<Do> {
    let words = Do::Words(16, Duration::from_millis(4));
    match call.turn {
        1..TURNS => [vec![words], calculate(1)].concat(),
        _ => vec![words, Do::Finish("stop")],
    }
}

/// By how much a reader is wrong about the last id that it has, once.
#[derive(Clone, Copy, PartialEq)]
enum Off {
    Never,
    Early,
    Late,
}

/// Two nodes, of which now and then one is killed.
struct Pair {
    nodes: Nodes,
    clients: Mutex<[Option<Client>; 2]>,
    is_over: AtomicBool,
    kills: AtomicUsize,
    reconnects: AtomicUsize,
}

/// What one connection gave.
struct Piece {
    /// The lines of whole blocks, and the ids of these.
    blocks: Vec<(u64, String)>,
    has_ended: bool,
}

impl Pair {
    async fn new() -> Pair {
        let nodes = Nodes::new().await.with("RUNLEDGER_LEASE", "1").with("RUNLEDGER_LOG", "off");
        nodes.stub.on("cuts", turns);
        Pair {
            nodes,
            clients: Mutex::default(),
            is_over: AtomicBool::new(false),
            kills: AtomicUsize::new(0),
            reconnects: AtomicUsize::new(0),
        }
    }

    async fn begin(&self, place: usize) -> Service {
        loop {
            let folder = Arc::new(tempfile::tempdir().unwrap());
            // It may find its database too slow for so short a lease.
            if let Ok(node) = Service::try_in_folder(folder, self.nodes.setup.clone()).await {
                self.clients.lock().unwrap()[place] = Some(node.client.clone());
                return node;
            }
        }
    }

    async fn kill_now_and_then(&self, seed: u64) -> [Service; 2] {
        let mut chance = Chance::new(seed);
        let mut services = [self.begin(0).await, self.begin(1).await];
        let mut due = 0;
        loop {
            // By progress and not by time, so that a slow machine hits no turn again and again.
            due += CONNECTIONS / 2 + chance.below(CONNECTIONS);
            while self.reconnects.load(Ordering::SeqCst) < due {
                if self.is_over.load(Ordering::SeqCst) {
                    return services;
                }
                sleep(Duration::from_millis(5)).await;
            }
            let place = chance.below(2);
            self.clients.lock().unwrap()[place] = None;
            let next = self.begin(place).await;
            drop(std::mem::replace(&mut services[place], next).kill().await);
            self.kills.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn somebody(&self, chance: &mut Chance) -> Option<Client> {
        self.clients.lock().unwrap()[chance.below(2)].clone()
    }

    async fn create(&self, chance: &mut Chance, input: &str) -> String {
        let body = crate::client::spec("openai/cuts", input).to_string();
        loop {
            if let Some(client) = self.somebody(chance) {
                let request = client
                    .request(Method::POST, "/runs")
                    .header("content-type", "application/json")
                    .header("idempotency-key", input);
                if let Ok(answer) = request.timeout(PATIENCE).body(body.clone()).send().await
                    && answer.status().is_success()
                    && let Ok(text) = answer.text().await
                {
                    let run: serde_json::Value = serde_json::from_str(&text).unwrap();
                    return run["run_id"].as_str().unwrap().to_owned();
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads a run's stream to its end, piece by piece; gives the lines with their ids.
    async fn read(
        &self,
        input: String,
        mut chance: Chance,
        mut off: Off,
    ) -> (String, Vec<(u64, String)>) {
        let run = self.create(&mut chance, &input).await;
        let mut blocks: Vec<(u64, String)> = Vec::new();
        loop {
            let last = blocks.last().map_or(0, |(id, _)| *id);
            let is_wrong = off != Off::Never && last > 3;
            let after = match off {
                Off::Early if is_wrong => last - 1,
                Off::Late if is_wrong => last + 1,
                _right => last,
            };
            let most = 1 + chance.below(PIECE_MAX);
            let Some(client) = self.somebody(&mut chance) else {
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            let Some(piece) = piece(&client, &run, after, most).await else {
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            self.reconnects.fetch_add(1, Ordering::SeqCst);
            if is_wrong && !piece.blocks.is_empty() {
                off = Off::Never;
            }
            blocks.extend(piece.blocks);
            if piece.has_ended {
                return (run, blocks);
            }
        }
    }
}

/// So many bytes of a stream behind this id, or all until it breaks; none where no node answers.
async fn piece(client: &Client, run: &str, after: u64, most: usize) -> Option<Piece> {
    let request = client.request(Method::GET, &format!("/runs/{run}/stream"));
    let request = request.header("last-event-id", after.to_string());
    let mut response = timeout(PATIENCE, request.send()).await.ok()?.ok()?;
    match response.status().as_u16() {
        200 => {}
        204 => return Some(Piece { blocks: Vec::new(), has_ended: true }),
        // Only who is wrong about its id asks for what is not there yet.
        status => {
            assert!([422, 503].contains(&status), "{status}");
            return None;
        }
    }
    let mut bytes = Vec::new();
    while bytes.len() < most
        && let Ok(Ok(Some(more))) = timeout(PATIENCE, response.chunk()).await
    {
        bytes.extend_from_slice(&more);
    }
    bytes.truncate(most);
    // What stands behind the last blank line is half of a block: whoever reads it throws it away.
    let whole = bytes.windows(2).rposition(|pair| pair == b"\n\n").map_or(0, |place| place + 2);
    let text = std::str::from_utf8(&bytes[..whole]).unwrap();
    let is_kept = |line: &&str| ["id: ", "event: ", "data: "].iter().any(|it| line.starts_with(it));
    let lines = text
        .split_terminator("\n\n")
        .map(|block| block.lines().filter(is_kept).collect::<Vec<_>>().join("\n"));
    let blocks: Vec<(u64, String)> = lines
        .filter(|lines| !lines.is_empty())
        .map(|lines| {
            let id = lines.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
            (id.parse().unwrap(), lines)
        })
        .collect();
    let ends = ["event: run.completed", "event: run.failed", "event: run.cancelled"];
    let has_ended =
        blocks.last().is_some_and(|(_, lines)| ends.iter().any(|it| lines.contains(it)));
    Some(Piece { blocks, has_ended })
}

/// What is wrong with what a reader has, where this is the log.
fn wrongs(read: &[(u64, String)], log: &[crate::client::Block]) -> Vec<String> {
    let mut found = Vec::new();
    for (before, after) in std::iter::once(0).chain(read.iter().map(|(id, _)| *id)).zip(read) {
        if after.0 != before + 1 {
            found.push(format!("{} comes behind {before}", after.0));
        }
    }
    if !read.iter().map(|(_, lines)| lines).eq(log.iter().map(|block| &block.lines)) {
        found.push("what was read is not the log".to_owned());
    }
    found
}

/// So many readers at once, each of a run of its own, until there were so many connections; gives what was wrong and how much was read.
async fn cut(seed: u64, reconnects: usize, at_once: usize, off: Off) -> (Pair, Vec<String>, usize) {
    let pair = Pair::new().await;
    let reading = async {
        let mut read = Vec::new();
        while pair.reconnects.load(Ordering::SeqCst) < reconnects {
            let next = read.len() as u64..(read.len() + at_once) as u64;
            let readers =
                next.map(|n| pair.read(format!("cuts-{n}"), Chance::new(seed * 0x1_0000 + n), off));
            let readers = futures_util::future::join_all(readers);
            read.extend(timeout(3 * TEST_MAX, readers).await.expect("all runs end"));
        }
        pair.is_over.store(true, Ordering::SeqCst);
        read
    };
    let (read, services) = tokio::join!(reading, pair.kill_now_and_then(seed));
    let (mut found, mut events) = (Vec::new(), 0);
    for (n, (run, blocks)) in read.iter().enumerate() {
        let path = format!("/runs/{run}/stream");
        let log = services[n % 2].client.stream(&path, &[]).await.rest().await;
        found.extend(wrongs(blocks, &log));
        events += log.len();
    }
    (pair, found, events)
}

/// reliability.md, row 11.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_at_any_byte_a_stream_goes_on_at_any_node_without_a_gap_or_a_repetition() {
    let seed = seed(11);
    println!("row=11 seed={seed}");
    let least = scaled(300, 10_000);
    let (pair, found, events) = cut(seed, least, scaled(6, 20), Off::Never).await;
    let reconnects = pair.reconnects.load(Ordering::SeqCst);
    println!(
        "row=11 faults_fired={reconnects} ops_ok={events} value={} kills={}",
        found.len(),
        pair.kills.load(Ordering::SeqCst)
    );
    assert_eq!(found, Vec::<String>::new());
    assert!(events >= scaled(100, 4000), "too little was read: {events} events");
    assert!(pair.kills.load(Ordering::SeqCst) >= scaled(0, 10), "too few kills");
}

/// The control: a reader that is wrong by one about its last id is found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_on_one_too_early_or_too_late_is_found_out() {
    for (off, name) in [(Off::Early, "early"), (Off::Late, "late")] {
        let (pair, found, _) = cut(seed(12), 1, 2, off).await;
        let reconnects = pair.reconnects.load(Ordering::SeqCst);
        println!("row=11 control=true faults_fired={reconnects} value={} off={name}", found.len());
        assert!(found.len() >= 2, "{found:?}");
    }
}
