//! What a simulated cluster shares: the database, what the seed says, and what has happened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use runledger::run::RunId;
use runledger::run::event::Effect;
use runledger::store::StoredEvent;
use runledger::store::memory::{Database, Flaws};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use crate::process::Process;
use crate::rng::Rng;

pub(crate) const TENANT: &str = "default";

/// As in production, but shorter: four heartbeats may fail.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// What goes wrong with a seed, and how often; seeds differ, so that some have much of one thing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Swarm {
    pub(crate) processes: usize,
    pub(crate) runs: u64,
    /// Of a hundred statements so many have their answer lost, come late, are refused, are slow.
    pub(crate) lost: u64,
    pub(crate) late: u64,
    pub(crate) refused: u64,
    pub(crate) slow: u64,
    /// Of a hundred calls of models and tools so many fail.
    pub(crate) failures: u64,
    pub(crate) freezes: bool,
    pub(crate) cuts: bool,
    pub(crate) drains: bool,
    /// The database's clock is put forward and back: then no lease protects what is outside.
    pub(crate) jumps: bool,
}

impl Swarm {
    fn of(seed: u64) -> Swarm {
        let mut rng = Rng::of(seed, &[1]);
        let rate = |rng: &mut Rng| rng.pick(&[0, 1, 2, 6]);
        Swarm {
            processes: rng.pick(&[2, 2, 3, 3, 4]),
            runs: rng.between(2, 5),
            lost: rate(&mut rng),
            late: rate(&mut rng),
            refused: rate(&mut rng),
            slow: rate(&mut rng),
            failures: rng.pick(&[0, 10, 25]),
            freezes: rng.percent(60),
            cuts: rng.percent(50),
            drains: rng.percent(50),
            jumps: rng.percent(10),
        }
    }
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) crashes: u64,
    /// Crashes of a process that had a run which another crash had brought it.
    pub(crate) in_recovery: u64,
    pub(crate) freezes: u64,
    pub(crate) cuts: u64,
    pub(crate) drains: u64,
    pub(crate) jumps: u64,
    /// Statements whose answer was lost, that came late, that were refused.
    pub(crate) statements: u64,
    /// Calls of models and tools that failed or hung.
    pub(crate) calls: u64,
    /// Statements of nodes that were dead, or no owners.
    pub(crate) fenced: u64,
    /// What worked: statements, calls, events that readers saw.
    pub(crate) ok: u64,
}

impl Counts {
    pub(crate) fn faults(&self) -> u64 {
        let Counts { crashes, freezes, cuts, drains, jumps, statements, calls, .. } = *self;
        crashes + freezes + cuts + drains + jumps + statements + calls
    }

    pub(crate) fn add(&mut self, more: &Counts) {
        self.crashes += more.crashes;
        self.in_recovery += more.in_recovery;
        self.freezes += more.freezes;
        self.cuts += more.cuts;
        self.drains += more.drains;
        self.jumps += more.jumps;
        self.statements += more.statements;
        self.calls += more.calls;
        self.fenced += more.fenced;
        self.ok += more.ok;
    }
}

/// A tool call as the tool saw it.
#[derive(Clone, Debug)]
pub(crate) struct ToolCalls {
    pub(crate) effect: Effect,
    pub(crate) arguments: Value,
    pub(crate) times: u64,
}

/// What clients, models and tools have seen: the logs are held against it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Which client asked for the run of this id.
    pub(crate) asked: BTreeMap<RunId, u64>,
    /// The runs that a client was told of: one, if all is well.
    pub(crate) accepted: BTreeMap<u64, BTreeSet<RunId>>,
    /// Calls of the model for a client's run, by turn.
    pub(crate) model_calls: BTreeMap<(u64, u64), u64>,
    pub(crate) tool_calls: BTreeMap<String, ToolCalls>,
    /// Accepted cancels: how many starts the log had by then.
    pub(crate) cancels: BTreeMap<RunId, usize>,
    /// Accepted changes, by what they set.
    pub(crate) changes: Vec<(RunId, String)>,
    /// What each reader saw.
    pub(crate) reads: BTreeMap<(RunId, u64), Vec<StoredEvent>>,
    /// Where somebody reads which run: two at one place would wake in an order that no seed says.
    pub(crate) reading: BTreeSet<(usize, RunId)>,
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<String>,
}

/// A simulated cluster.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) swarm: Swarm,
    pub(crate) database: Arc<Database>,
    pub(crate) processes: Vec<Process>,
    pub(crate) began: Instant,
    is_calm: AtomicBool,
    is_traced: bool,
    ledger: Mutex<Ledger>,
    ids: Mutex<u128>,
}

impl World {
    pub(crate) fn new(seed: u64, flaws: Flaws, is_traced: bool) -> Arc<World> {
        let swarm = Swarm::of(seed);
        Arc::new(World {
            seed,
            swarm,
            database: Database::new(flaws),
            processes: (0..swarm.processes).map(|_| Process::default()).collect(),
            began: Instant::now(),
            is_calm: AtomicBool::new(false),
            is_traced,
            ledger: Mutex::default(),
            ids: Mutex::new(0),
        })
    }

    pub(crate) fn rng(&self, purpose: &[u64]) -> Rng {
        Rng::of(self.seed, purpose)
    }

    /// Nothing goes wrong any more.
    pub(crate) fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    pub(crate) fn calm_down(&self) {
        self.is_calm.store(true, Ordering::Relaxed);
        self.say(|| "calm".to_owned());
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    pub(crate) fn count(&self, what: impl FnOnce(&mut Counts)) {
        what(&mut self.ledger().counts);
    }

    pub(crate) fn violation(&self, words: String) {
        self.say(|| format!("VIOLATION {words}"));
        self.ledger().violations.push(words);
    }

    /// A line for whoever looks at one seed.
    pub(crate) fn say(&self, words: impl FnOnce() -> String) {
        if self.is_traced {
            println!("{:>9.3} {}", self.began.elapsed().as_secs_f64(), words());
        }
    }

    /// As the journal makes them, but for the random bits.
    pub(crate) fn new_run_id(&self, now_ms: i64) -> RunId {
        let mut ids = self.ids.lock().unwrap();
        *ids += 1;
        let ms = u128::from(now_ms.unsigned_abs());
        RunId(Uuid::from_u128((ms << 80) | (7 << 76) | (2 << 62) | *ids))
    }

    /// The runs of a client that are there.
    pub(crate) fn runs_of(&self, client: u64) -> Vec<RunId> {
        let asked: Vec<RunId> = {
            let ledger = self.ledger();
            ledger.asked.iter().filter(|(_, by)| **by == client).map(|(run, _)| *run).collect()
        };
        asked.into_iter().filter(|run| self.database.row(*run).is_some()).collect()
    }
}
