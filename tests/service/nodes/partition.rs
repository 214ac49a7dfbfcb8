//! The way between a node and its database goes silent, loses answers, or is cut off.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Nodes;
use crate::proxy::Proxy;
use crate::recovery::violations;
use crate::scale::scaled;
use crate::service::{Service, Setup};
use crate::stub::{Call, Do, calculate, say};
use crate::waiting::until;

const TURNS: usize = 4;

/// The deadline of a statement and a second: that of a client's read is three seconds, that of a create
/// five.
const READS_AGAIN_MAX: Duration = Duration::from_secs(4);
const WRITES_AGAIN_MAX: Duration = Duration::from_secs(6);

/// The lease of `Nodes`, and what stopping, looking and taking over may need beyond it.
const LEASE: Duration = Duration::from_millis(1500);
const RESCUE_MAX: Duration = Duration::from_millis(4500);

fn turns(call: &Call) -> Vec<Do> {
    let words = Do::Words(8, Duration::from_millis(10));
    match call.turn {
        1..TURNS => [vec![words], calculate(1)].concat(),
        _ => vec![words, Do::Finish("stop")],
    }
}

fn is_whole() -> bool {
    scaled(0, 1) == 1
}

impl Nodes {
    /// A node that reaches its database by a way that can be disturbed.
    async fn behind(&self, setup: impl FnOnce(Setup) -> Setup) -> (Service, Proxy) {
        let proxy = Proxy::to(&self.url).await;
        let setup = setup(self.setup.clone()).env("DATABASE_URL", &proxy.url);
        let folder = Arc::new(tempfile::tempdir().unwrap());
        (Service::in_folder(folder, setup).await, proxy)
    }
}

#[tokio::test]
async fn connections_that_go_silent_under_load_are_left_and_nothing_is_lost_or_repeated() {
    let times = scaled(1, 20);
    let nodes = Nodes::new().await.with("RUNLEDGER_LEASE", "20");
    nodes.stub.on("load", turns);
    let (service, proxy) = nodes.behind(|setup| setup).await;
    let client = &service.client;
    let (mut runs, mut reads, mut writes) = (Vec::new(), Duration::ZERO, Duration::ZERO);
    for round in 0..times {
        let calls = nodes.stub.calls("load").len();
        for n in 0..6 {
            let input = format!("load {round} {n}");
            runs.push((client.run("openai/load", &input).await, input));
        }
        nodes.stub.called("load", calls + 9).await;
        proxy.hold();
        let began = Instant::now();
        let path = format!("/runs/{}", runs[0].0);
        let reading = until("it can be read", || async {
            (client.get(&path).await.status == 200).then(|| began.elapsed())
        });
        let body = crate::client::spec("openai/load", &format!("again {round}"));
        let writing = until("it can be written", || async {
            (client.post("/runs", &body).await.status == 201).then(|| began.elapsed())
        });
        let (read, written) = tokio::join!(reading, writing);
        (reads, writes) = (reads.max(read), writes.max(written));
        // What was held comes late.
        proxy.release();
    }
    let (ops, mut found) = (runs.len(), Vec::new());
    for (run, input) in runs {
        let ended = client.ended(&run).await;
        assert_eq!(ended["status"], "COMPLETED", "{ended}");
        found.extend(violations(&client.log(&run).await, &[], &nodes.stub.counts(&input)));
    }
    println!(
        "row=8 fault=silent-under-load faults_fired={times} ops_ok={ops} value={} \
         reads_again_ms={} writes_again_ms={}",
        found.len(),
        reads.as_millis(),
        writes.as_millis()
    );
    assert_eq!(found, Vec::<String>::new());
    if is_whole() {
        assert!(reads <= READS_AGAIN_MAX && writes <= WRITES_AGAIN_MAX, "{reads:?} {writes:?}");
    }
}

#[tokio::test]
async fn a_node_that_is_cut_off_stops_within_its_lease_and_another_takes_over() {
    let times = scaled(1, 20);
    let nodes = Nodes::new().await;
    nodes.stub.on("parted", |call| match call.attempt {
        1 => vec![Do::Say("Before".into()), Do::Hang],
        _ => say("After."),
    });
    let (parted, proxy) = nodes.behind(|setup| setup).await;
    let other = nodes.start().await;
    let (mut found, mut stopped, mut taken) = (Vec::new(), Duration::ZERO, Duration::ZERO);
    let (mut round, mut others) = (0, 0);
    while round < times {
        let input = format!("parted {round} {others}");
        let run = parted.client.run("openai/parted", &input).await;
        other.client.event(&run, "text").await;
        // A node that has just come back may leave what is new to the other.
        let started = other.client.event(&run, "run.started").await;
        if started["node"] == other.node_name() {
            others += 1;
            assert!(others <= times, "{others} runs of {round} went to the other node");
            other.client.delete(&format!("/runs/{run}?wait=30")).await.expect(202);
            continue;
        }
        round += 1;
        proxy.part();
        let began = Instant::now();
        nodes.stub.hung_up("parted", round + others).await;
        stopped = stopped.max(began.elapsed());
        let ended = other.client.ended(&run).await;
        taken = taken.max(began.elapsed());
        let log = other.client.log(&run).await;
        proxy.release();
        parted.ready().await;
        found.extend(violations(&log, &[], &nodes.stub.counts(&input)));
        if ended["final_output"] != "After." || nodes.stub.counts(&input) != [(1, 2)].into() {
            found.push(format!("{ended}"));
        }
        if parted.client.log(&run).await != log {
            found.push("the node that came back wrote something".to_owned());
        }
    }
    println!(
        "row=8 fault=partition faults_fired={times} ops_ok={times} value={} stopped_ms={} \
         taken_over_ms={}",
        found.len(),
        stopped.as_millis(),
        taken.as_millis()
    );
    assert_eq!(found, Vec::<String>::new());
    if is_whole() {
        assert!(stopped <= LEASE && taken <= RESCUE_MAX, "{stopped:?} {taken:?}");
    }
}

/// A claimer is frozen inside its claim, with all that it has sent; another node is killed, and a third
/// rescues what that one had. How long until it is driven; none where that took too long.
async fn rescue_beside_a_frozen_claimer(nodes: &Nodes, name: &'static str) -> Option<Duration> {
    const RUNS: usize = 4;
    nodes.stub.on(name, |call| match call.attempt {
        1 => vec![Do::Say("Before".into()), Do::Hang],
        _ => say("After."),
    });
    let is_frozen_too = name == "control";
    let asks_always = |setup: Setup| setup.env("FAILPOINTS", "claim.asked=sleep(900)");
    let (claimer, proxy) = nodes.behind(asks_always).await;
    let (dying, rescuer) = (nodes.start().await, nodes.start().await);
    let mut runs = Vec::new();
    for n in 0..RUNS {
        let input = format!("{name} {n} {}", "x".repeat(100_000));
        let run = dying.client.run(&format!("openai/{name}"), &input).await;
        dying.client.event(&run, "text").await;
        runs.push(run);
    }
    proxy.part();
    claimer.signal("STOP");
    if is_frozen_too {
        rescuer.signal("STOP");
    }
    let began = Instant::now();
    drop(dying.kill().await);
    let driven = nodes.stub.called(name, 2 * RUNS);
    let took = tokio::time::timeout(RESCUE_MAX, driven).await.ok().map(|()| began.elapsed());
    rescuer.signal("CONT");
    claimer.signal("CONT");
    proxy.release();
    for run in &runs {
        assert_eq!(rescuer.client.ended(run).await["final_output"], "After.");
    }
    took
}

#[tokio::test]
async fn a_claimer_that_is_frozen_in_its_claim_holds_up_no_rescue_of_another_node() {
    const NAMES: [&str; 10] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9"];
    let nodes = Nodes::new().await;
    let times = scaled(1, NAMES.len());
    let (mut late, mut slowest) = (0, Duration::ZERO);
    for name in &NAMES[..times] {
        match rescue_beside_a_frozen_claimer(&nodes, name).await {
            Some(took) => slowest = slowest.max(took),
            None => late += 1,
        }
    }
    println!(
        "row=28 faults_fired={} ops_ok={} value={late} rescued_ms={}",
        2 * times,
        4 * times,
        slowest.as_millis()
    );
    if is_whole() {
        assert_eq!(late, 0, "within the lease and three seconds");
    }
}

/// The control: where nobody rescues, the check says so.
#[tokio::test]
async fn a_rescue_that_does_not_come_in_time_is_found_out() {
    let nodes = Nodes::new().await;
    let late = usize::from(rescue_beside_a_frozen_claimer(&nodes, "control").await.is_none());
    println!("row=28 control=true faults_fired=3 value={late}");
    assert_eq!(late, 1);
}
