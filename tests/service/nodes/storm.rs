//! Nodes that are killed and frozen at random, by a seed, under many short runs; and who checks what
//! is left of the runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use tokio::time::{Instant, sleep};

use super::Nodes;
use crate::chance::Chance;
use crate::client::{Client, of};
use crate::effects::{self, Effects};
use crate::recovery::violations;
use crate::service::Service;
use crate::stub::{Call, Do};
use crate::tool_stub::{Reply, ToolStub, text};
use crate::tools::body;
use crate::waiting::until;

/// Nodes at once.
const PLACES: usize = 4;

/// Runs that are under way at once.
const UNDER_WAY: usize = 12;

const TURNS: usize = 3;

/// Starts of one node before something else must be wrong.
const STARTS_MAX: usize = 20;

/// How long a client waits for a node that may be dead or frozen.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a frozen node stays so, at the most, where nobody declares it dead.
const FROZEN_MAX: Duration = Duration::from_secs(3);

/// Between two faults the model is called up to so often. By progress and not by time, so that a slow
/// machine does not hit each turn again and again.
const CALLS_MAX: usize = 5;

pub struct Storm {
    nodes: Nodes,
    pub tools: ToolStub,
    seed: u64,
    /// How often the model was called, and at which call the next fault is due.
    calls: Arc<AtomicUsize>,
    due: AtomicUsize,
    /// How many faults are still to come.
    left: AtomicUsize,
    pub kills: AtomicUsize,
    pub freezes: AtomicUsize,
    /// Appends of dead nodes that the database has refused.
    pub fenced: AtomicUsize,
    /// Starts that failed.
    pub stillborn: AtomicUsize,
    clients: Mutex<[Option<Client>; PLACES]>,
    is_over: AtomicBool,
}

/// A run that the load has made, and what a client has once seen of its log.
struct Made {
    id: String,
    input: String,
    seen: Vec<Value>,
}

/// What was left.
#[derive(Default)]
pub struct Found {
    pub runs: usize,
    pub takeovers: usize,
    /// Runs that were hit so often in one turn that they were given up, as they should.
    pub crash_loops: usize,
    /// Calls whose outcome nobody knows.
    pub unknown: usize,
    /// Nodes that were declared dead: killed, frozen, or held up.
    pub dead: i64,
    pub violations: Vec<String>,
    /// Of these, what the log says of `once` and the world doesn't.
    pub lies: usize,
}

fn turns(call: &Call) -> Vec<Do> {
    let words = Do::Words(3, Duration::from_millis(5));
    let tools = ["once", "once", "once", "idempotent", "read"];
    match call.turn {
        1..TURNS => {
            let calls = tools.into_iter().zip(1..).map(|(tool, n)| effects::call(call, tool, n));
            std::iter::once(words).chain(calls).chain([Do::Finish("tool_calls")]).collect()
        }
        _ => vec![words, Do::Finish("stop")],
    }
}

/// A fault that a node gets.
#[derive(PartialEq)]
enum Fault {
    Kill,
    Freeze,
}

impl Storm {
    /// With so many seconds of a lease, and these failpoints.
    pub async fn new(seed: u64, faults: usize, lease: &str, failpoints: &str) -> Storm {
        let nodes = Nodes::new().await.with("RUNLEDGER_LEASE", lease);
        let nodes = nodes.with("RUNLEDGER_SLOTS", "16").with("RUNLEDGER_LOG", "off");
        let nodes = nodes.with("FAILPOINTS", failpoints);
        let calls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&calls);
        nodes.stub.on("storm", move |call| {
            counted.fetch_add(1, Ordering::SeqCst);
            turns(call)
        });
        let tools = ToolStub::start().await;
        for path in ["/once", "/idempotent", "/read"] {
            tools.on(path, |_| Reply::After(Duration::from_millis(50), Box::new(text("done"))));
        }
        Storm {
            nodes,
            tools,
            seed,
            calls,
            due: AtomicUsize::new(0),
            left: AtomicUsize::new(faults),
            kills: AtomicUsize::new(0),
            freezes: AtomicUsize::new(0),
            fenced: AtomicUsize::new(0),
            stillborn: AtomicUsize::new(0),
            clients: Mutex::default(),
            is_over: AtomicBool::new(false),
        }
    }

    pub fn faults(&self) -> usize {
        self.kills.load(Ordering::SeqCst) + self.freezes.load(Ordering::SeqCst)
    }

    /// Lets the storm pass, then looks at every run.
    pub async fn pass(&self) -> Found {
        let places = futures_util::future::join_all((0..PLACES).map(|place| self.at(place)));
        let weather = async {
            let services = places.await;
            self.is_over.store(true, Ordering::SeqCst);
            services
        };
        let (services, made) = tokio::join!(weather, self.load());
        let connection = self.connect().await;
        let connection = tokio::sync::Mutex::new(connection);
        until("the end of all runs", || async {
            (unfinished(&mut *connection.lock().await).await == 0).then_some(())
        })
        .await;
        self.look_at(&services, &made).await
    }

    async fn connect(&self) -> PgConnection {
        use sqlx::Connection;
        PgConnection::connect(&self.nodes.url).await.unwrap()
    }

    /// One place's nodes, one after another; gives the last, which lives.
    async fn at(&self, place: usize) -> Service {
        let mut chance = Chance::new(self.seed * 16 + place as u64);
        let mut connection = self.connect().await;
        let mut node = self.begin(place).await;
        loop {
            self.let_live(&mut chance).await;
            if chance.below(5) < 3 {
                if !self.takes(Fault::Freeze) {
                    return node;
                }
                self.freeze(&node, &mut connection).await;
                self.let_live(&mut chance).await;
            }
            self.note_fenced(&node).await;
            if !self.takes(Fault::Kill) {
                return node;
            }
            self.clients.lock().unwrap()[place] = None;
            drop(node.kill().await);
            node = self.begin(place).await;
        }
    }

    /// Starts a node. One that finds its database too slow for so short a lease ends at its start, and
    /// is started again, as its keeper would.
    async fn begin(&self, place: usize) -> Service {
        for _ in 0..STARTS_MAX {
            let folder = Arc::new(tempfile::tempdir().unwrap());
            if let Ok(node) = Service::try_in_folder(folder, self.nodes.setup.clone()).await {
                self.clients.lock().unwrap()[place] = Some(node.client.clone());
                return node;
            }
            self.stillborn.fetch_add(1, Ordering::SeqCst);
        }
        panic!("{STARTS_MAX} starts in a row failed");
    }

    /// Waits for the place of the next fault among the calls of the model.
    async fn let_live(&self, chance: &mut Chance) {
        let more = 1 + chance.below(CALLS_MAX);
        let due = more + self.due.fetch_add(more, Ordering::SeqCst);
        let look = || async { (self.calls.load(Ordering::SeqCst) >= due).then_some(()) };
        until("more calls of the model", look).await;
    }

    fn takes(&self, fault: Fault) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        let is_taken = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
        let count = if fault == Fault::Kill { &self.kills } else { &self.freezes };
        count.fetch_add(usize::from(is_taken), Ordering::SeqCst);
        is_taken
    }

    /// Freezes a node until the others have declared it dead, and not a moment longer: when it wakes,
    /// its runs are just changing hands.
    async fn freeze(&self, node: &Service, connection: &mut PgConnection) {
        let (_, id) = node.node_name().rsplit_once('-').expect("a name ends with the node's id");
        let id: i64 = id.parse().unwrap();
        node.signal("STOP");
        let begun = Instant::now();
        while begun.elapsed() < FROZEN_MAX {
            let (is_dead,): (bool,) =
                sqlx::query_as("select dead_at is not null from nodes where node_id = $1")
                    .bind(id)
                    .fetch_one(&mut *connection)
                    .await
                    .unwrap();
            if is_dead {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
        node.signal("CONT");
    }

    async fn note_fenced(&self, node: &Service) {
        let text = ask(&node.client, Method::GET, "/metrics", None).await.unwrap_or_default();
        self.fenced.fetch_add(metric(&text, "runledger_appends_fenced_total"), Ordering::SeqCst);
    }

    /// Somebody's client, of a node that was there a moment ago.
    fn somebody(&self, chance: &mut Chance) -> Option<Client> {
        self.clients.lock().unwrap()[chance.below(PLACES)].clone()
    }

    /// Keeps so many runs under way until the storm is over.
    async fn load(&self) -> Vec<Made> {
        let mut chance = Chance::new(self.seed * 16 + PLACES as u64);
        let mut connection = self.connect().await;
        let mut made: Vec<Made> = Vec::new();
        // The schema comes with the first node.
        while self.clients.lock().unwrap().iter().all(Option::is_none) {
            sleep(Duration::from_millis(5)).await;
        }
        while !self.is_over.load(Ordering::SeqCst) {
            let room = UNDER_WAY.saturating_sub(unfinished(&mut connection).await);
            let next = made.len()..made.len() + room;
            let chances = next.map(|n| (n, Chance::new(self.seed * 0x1_0000 + n as u64)));
            let creates = chances.map(|(n, chance)| self.create(n, chance));
            made.extend(futures_util::future::join_all(creates).await);
            self.see_some(&mut made, &mut chance).await;
            sleep(Duration::from_millis(20)).await;
        }
        made
    }

    /// Creates a run, by whatever node answers: a key makes it one run, however often it is asked for.
    async fn create(&self, n: usize, mut chance: Chance) -> Made {
        let input = format!("storm-{n}");
        let fields =
            ["once", "idempotent", "read"].map(|effect| (effect, json!({"effect": effect})));
        let mut spec = body("storm", &self.tools, &fields);
        spec["input"] = json!(input);
        // However slow the machine is.
        spec["config"] = json!({"max_time": 3600, "timeout_per_turn": 3600});
        let deadline = Instant::now() + crate::waiting::TEST_MAX;
        loop {
            if let Some(client) = self.somebody(&mut chance)
                && let Some(text) = ask(&client, Method::POST, "/runs", Some((&spec, &input))).await
            {
                let run: Value = serde_json::from_str(&text).unwrap();
                return Made { id: run["run_id"].as_str().unwrap().into(), input, seen: vec![] };
            }
            assert!(Instant::now() < deadline, "no node takes a run");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads the log of some of the last runs, as clients do.
    async fn see_some(&self, made: &mut [Made], chance: &mut Chance) {
        let last = made.len().saturating_sub(UNDER_WAY);
        let Some(client) = self.somebody(chance) else { return };
        let Some(run) = made[last..].get_mut(chance.below(UNDER_WAY)) else { return };
        let path = format!("/runs/{}/events?limit=1000", run.id);
        let Some(text) = ask(&client, Method::GET, &path, None).await else { return };
        let page: Value = serde_json::from_str(&text).unwrap();
        run.seen = page["data"].as_array().unwrap().clone();
    }

    async fn look_at(&self, services: &[Service], made: &[Made]) -> Found {
        let mut found = Found { runs: made.len(), ..Found::default() };
        let once = Effects::of(&self.tools, "/once");
        let mut counts: BTreeMap<String, BTreeMap<usize, usize>> = BTreeMap::new();
        for call in self.nodes.stub.calls("storm") {
            *counts.entry(call.input).or_default().entry(call.turn).or_default() += 1;
        }
        let none = BTreeMap::new();
        for (n, run) in made.iter().enumerate() {
            let client = &services[n % PLACES].client;
            let ended = client.ended(&run.id).await;
            let log = client.log(&run.id).await;
            let asked = counts.get(&run.input).unwrap_or(&none);
            let mut of_run = violations(&log, &run.seen, asked);
            let lies = once.lies(&log, "once", &mut found.unknown);
            found.lies += lies.len();
            of_run.extend(lies);
            let starts = of(&log, "run.started");
            let crashes = starts.last().map_or(0, |one| one["crashes"].as_u64().unwrap());
            match (ended["status"].as_str().unwrap(), ended["stop_reason"].as_str()) {
                ("COMPLETED", _) if ended["turn_count"] == TURNS => {}
                ("FAILED", Some("crash_loop")) if crashes > 5 => found.crash_loops += 1,
                _lost => of_run.push(format!("it ended as {ended}")),
            }
            found.takeovers += starts.len().saturating_sub(1);
            let of_run = of_run.into_iter().map(|one| format!("{}: {one}", run.input));
            found.violations.extend(of_run);
        }
        for service in services {
            self.note_fenced(service).await;
            let metrics = service.client.get("/metrics").await.text;
            let stuck = metric(&metrics, "runledger_runs_stuck");
            found.violations.extend((stuck > 0).then(|| format!("{stuck} runs are stuck")));
        }
        let dead = "select count(*) from nodes where dead_at is not null";
        found.dead = self.nodes.count(dead).await;
        found
    }
}

async fn unfinished(connection: &mut PgConnection) -> usize {
    let (count,): (i64,) = sqlx::query_as("select count(*) from runs where finished_at is null")
        .fetch_one(connection)
        .await
        .unwrap();
    usize::try_from(count).unwrap()
}

/// The body of a good answer; none where there was no answer, or a bad one. What is posted has a key.
async fn ask(
    client: &Client,
    method: Method,
    path: &str,
    posted: Option<(&Value, &str)>,
) -> Option<String> {
    let mut request = client.request(method, path).timeout(PATIENCE);
    if let Some((body, key)) = posted {
        request = request
            .header("content-type", "application/json")
            .header("idempotency-key", key)
            .body(body.to_string());
    }
    let answer = request.send().await.ok()?;
    let status = answer.status();
    let text = answer.text().await.ok()?;
    assert!(!status.is_client_error(), "{path}: {text}");
    status.is_success().then_some(text)
}

/// The value of a metric; 0 where it was never counted.
pub fn metric(text: &str, name: &str) -> usize {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse::<f64>().unwrap() as usize)
}
