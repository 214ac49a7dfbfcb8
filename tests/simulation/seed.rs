//! One seed: a cluster from its start to the end of all its runs, and what was found wrong.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Once};
use std::time::Duration;

use runledger::store::memory::Flaws;
use runledger::worker;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::check::check;
use crate::client::client;
use crate::faults::faults;
use crate::process::live;
use crate::world::{Counts, World};

/// How long what is left may take when nothing goes wrong any more: several leases, and the longest
/// time of a run.
const CALM: Duration = Duration::from_secs(90);

thread_local! {
    /// What has panicked on this thread.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What came of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<String>,
    pub(crate) counts: Counts,
    /// Of all logs, byte for byte.
    pub(crate) hash: u64,
    pub(crate) runs: usize,
}

/// Simulates one seed.
pub(crate) fn simulate(seed: u64, flaws: Flaws, is_traced: bool) -> Outcome {
    listen_for_panics();
    worker::seed_jitter(seed);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let outcome = runtime.block_on(run(seed, flaws, is_traced));
    drop(runtime);
    let mut outcome = outcome;
    outcome.violations.extend(PANICS.take().into_iter().map(|words| format!("a panic: {words}")));
    outcome
}

async fn run(seed: u64, flaws: Flaws, is_traced: bool) -> Outcome {
    let world = World::new(seed, flaws, is_traced);
    world.say(|| format!("seed {seed}: {:?}", world.swarm));
    let mut processes = JoinSet::new();
    for place in 0..world.processes.len() {
        processes.spawn(live(Arc::clone(&world), place));
    }
    let mut clients = JoinSet::new();
    for number in 1..=world.swarm.runs {
        clients.spawn(client(Arc::clone(&world), number));
    }
    faults(Arc::clone(&world)).await;
    let all = async {
        while clients.join_next().await.is_some() {}
        while !have_ended(&world) {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let begun = Instant::now();
    if timeout(CALM, all).await.is_err() {
        for run in world.database.runs() {
            let (row, remains) = (world.database.row(run), world.database.remains(run));
            let row = row.map(|row| (row.status, row.last_seq, row.crashes));
            world.violation(format!("{run} does not end: {row:?} {remains:?}"));
        }
        if world.ledger().violations.is_empty() {
            world.violation("a client waits for ever".to_owned());
        }
    }
    world.say(|| format!("all ended {:?} after the last fault", begun.elapsed()));
    processes.shutdown().await;
    outcome(&world)
}

fn have_ended(world: &World) -> bool {
    let rows = world.database.runs().into_iter().filter_map(|run| world.database.row(run));
    rows.map(|row| row.status).all(|status| status.is_terminal())
}

fn outcome(world: &World) -> Outcome {
    let mut found = check(world);
    let mut hasher = DefaultHasher::new();
    let runs = world.database.runs();
    for run in &runs {
        for event in world.database.log(*run) {
            event.data.hash(&mut hasher);
        }
    }
    let ledger = world.ledger();
    let mut violations = ledger.violations.clone();
    violations.append(&mut found);
    let counts = Counts { fenced: world.database.refused(), ..ledger.counts };
    Outcome { violations, counts, hash: hasher.finish(), runs: runs.len() }
}

/// No part may panic, though the pool would catch it.
fn listen_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() == Some(THREAD) {
                PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
            } else {
                before(info);
            }
        }));
    });
}

/// The name of the threads that simulate.
pub(crate) const THREAD: &str = "simulation";
