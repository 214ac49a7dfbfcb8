//! The kill loop: a process that appends is killed at random moments; what it acknowledged is there.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use runledger::run::{RunId, Seq};
use runledger::store::{Append, BatchNumber, Create, Store, StoredEvent};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::bench::{Bench, Place, event, intent, to};

/// Where the child finds the store.
const PLACE: &str = "RUNLEDGER_KILL_LOOP_PLACE";

/// Set: the child acknowledges before the commit, as no store may.
const TOO_EARLY: &str = "RUNLEDGER_KILL_LOOP_TOO_EARLY";

/// How many events one append has: none of them without the others.
const TOGETHER: u64 = 3;

const RUNS: usize = 4;

/// Where the number of acknowledgements before each kill comes from.
const SEED: u64 = 0x5eed;

/// The longest time that a child may take for what takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(60);

/// What came of some rounds.
#[derive(Debug, Default)]
struct Found {
    kills: u32,
    acks: u64,
    lost: u64,
    gaps: u64,
    halves: u64,
    changed: u64,
}

pub(crate) async fn nothing_acknowledged_is_lost_by_a_kill(bench: Bench) {
    let found = rounds(bench, 20, false).await;
    println!(
        "row=kill_loop seed={SEED} faults_fired={} ops_ok={} value={}",
        found.kills,
        found.acks,
        found.lost + found.gaps + found.halves + found.changed
    );
    assert!(found.kills == 20 && found.acks >= 100, "{found:?}");
    assert_eq!((found.lost, found.gaps, found.halves, found.changed), (0, 0, 0, 0), "{found:?}");
}

pub(crate) async fn a_store_that_acknowledged_too_early_would_be_found_out(bench: Bench) {
    let found = rounds(bench, 20, true).await;
    println!(
        "row=kill_loop_control seed={SEED} faults_fired={} ops_ok={} value={}",
        found.kills, found.acks, found.lost
    );
    assert!(found.kills == 20 && found.acks >= 100, "{found:?}");
    assert!(found.lost > 0, "the loop would not notice a loss: {found:?}");
}

async fn rounds(mut bench: Bench, rounds: u32, is_too_early: bool) -> Found {
    let mut found = Found::default();
    let mut acked = BTreeMap::new();
    let mut seed = SEED;
    for _ in 0..rounds {
        bench.store.close().await;
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let acks = kill_after(&bench.place, 8 + (seed >> 33) % 24, is_too_early).await;
        found.kills += 1;
        found.acks += acks.len() as u64;
        for (run, seq) in acks {
            let most = acked.entry(run).or_insert(seq);
            *most = seq.max(*most);
        }
        bench.reopen().await;
        let checked = check(&bench.store, &acked).await;
        found = Found { kills: found.kills, acks: found.acks, ..checked };
    }
    found
}

/// Runs a child until it has acknowledged so much, kills it, and gives what it had said: which run
/// was committed up to where.
async fn kill_after(place: &Place, acks_min: u64, is_too_early: bool) -> Vec<(RunId, u64)> {
    let mut command = Command::new(std::env::current_exe().expect("it has a path"));
    command
        .args(["kill_loop::the_child_that_is_killed", "--exact", "--ignored", "--nocapture"])
        .env(PLACE, place.name())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    if is_too_early {
        command.env(TOO_EARLY, "1");
    }
    let mut child = command.spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut acks = Vec::new();
    let mut is_killed = false;
    let reading = async {
        while let Some(line) = lines.next_line().await.expect("it is text") {
            acks.extend(ack(&line));
            if !is_killed && acks.len() as u64 >= acks_min {
                child.start_kill().expect("it can be killed");
                is_killed = true;
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.expect("the child makes progress");
    assert!(is_killed, "the child ended by itself");
    child.wait().await.expect("it is reaped");
    acks
}

fn ack(line: &str) -> Option<(RunId, u64)> {
    let (run, seq) = line.strip_prefix("ack ")?.split_once(' ')?;
    Some((run.parse().ok()?, seq.parse().ok()?))
}

/// Looks at every run of every round: up to where it was acknowledged, it is there.
async fn check(store: &Store, acked: &BTreeMap<RunId, u64>) -> Found {
    let mut found = Found::default();
    for (&run, &seq) in acked {
        let log = store.events(run, Seq(0), 100_000).await.expect("the log is read");
        let row = store.load(run).await.expect("the row is read");
        let last = log.last().map_or(0, |event| event.seq.0);
        found.lost += u64::from(last < seq);
        found.gaps += u64::from(!log.iter().map(|event| event.seq.0).eq(1..=last));
        found.halves += u64::from(
            last % TOGETHER != 1 % TOGETHER && last != 0
                || row.map_or(0, |row| row.last_seq.0) != last,
        );
        found.changed +=
            log.iter().filter(|event| event.seq.0 > 1 && !is_ours(run, event)).count() as u64;
    }
    found
}

fn content(run: RunId, seq: u64) -> StoredEvent {
    let data = format!(r#"{{"seq":{seq},"content":"{run} {seq}"}}"#);
    StoredEvent { data: Arc::from(data), ..event(seq, "text") }
}

fn is_ours(run: RunId, event: &StoredEvent) -> bool {
    *event == content(run, event.seq.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the kill loop runs it"]
async fn the_child_that_is_killed() {
    let Ok(place) = std::env::var(PLACE) else { panic!("only the kill loop runs it") };
    let is_too_early = std::env::var_os(TOO_EARLY).is_some();
    let store = Place::parse(&place).open().await;
    let (node, _) = store.register("child").await.expect("it registers");
    let creates: Vec<Create> =
        (0..RUNS).map(|_| Create { owner: Some(node), ..intent("killed") }).collect();
    let runs: Vec<RunId> = creates.iter().map(|create| create.id).collect();
    store.create(creates).await.expect("they are created");
    let mut head = 1;
    for number in 1.. {
        let batch = runs
            .iter()
            .map(|run| Append {
                events: (head + 1..=head + TOGETHER).map(|seq| content(*run, seq)).collect(),
                ..to(*run)
            })
            .collect();
        head += TOGETHER;
        let tell = |head| {
            for run in &runs {
                println!("ack {run} {head}");
            }
        };
        if is_too_early {
            // And what comes next too: a server commits what it was sent before the kill.
            tell(head + TOGETHER);
        }
        store.append(node, BatchNumber(number), Arc::new(batch)).await.expect("it is committed");
        if !is_too_early {
            tell(head);
        }
    }
}
