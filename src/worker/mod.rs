//! Who makes runs move: a pool of slots that takes runs from the create lane and the queue, drives
//! each in a task of its own, and joins them all.

mod claim;
mod driver;
mod inbox;
mod jitter;
mod lease;
mod opening;
mod plan;
mod stuck;
mod tools;
mod trace;
mod turn;
mod verbose;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "testing")]
pub use jitter::seed_jitter;
pub use lease::{Keeper, LastBeat, lease_from, rescue};
pub use stuck::Stuck;

use crate::admission::{Admission, Lease, Slot};
use crate::journal::{Journal, NewRun};
use crate::model::Registry;
use crate::run::{Catalog, RunId, limits};
use crate::store::{LetGo, Node, Store, StoredRun};
use crate::tool::Toolbox;

/// How often the queue is looked at when nobody wakes the pool: the truth behind every wake-up.
const POLL: Duration = Duration::from_secs(1);

/// How soon the queue is looked at again where a node took only its share: what the others have not
/// taken by then is anybody's.
const SHARE_POLL: Duration = Duration::from_millis(100);

/// How often a run's driver may panic before the run is left alone until the next start: each panic
/// counts as a crash, so that `decide` ends the run before, if it is asked at all.
const PANICS_MAX: u32 = limits::CRASHES + 1;

/// What every driver works with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Where runs are read.
    pub store: Store,
    /// Where facts are written.
    pub journal: Journal,
    /// Slots and wake-ups.
    pub admission: Admission,
    /// The models.
    pub models: Arc<Registry>,
    /// The tools.
    pub toolbox: Toolbox,
    /// What specs may name.
    pub catalog: Arc<Catalog>,
    /// Until when this process may act for its runs.
    pub lease: Lease,
    /// This node: the one that drives.
    pub node: Node,
}

/// How the pool is told to stop. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    /// Nothing new is begun; a turn that is under way goes on to its end.
    pub soon: CancellationToken,
    /// Turns that are under way are cut; whoever drives the run next begins them anew.
    pub now: CancellationToken,
}

/// The loop that drives this node's runs.
#[derive(Debug)]
pub struct Pool {
    tools: Tools,
    new_runs: mpsc::Receiver<NewRun>,
    beats: watch::Receiver<LastBeat>,
    drivers: JoinSet<Left>,
    /// Which run a driver's task drives, for when it panics.
    driven: BTreeMap<Id, RunId>,
    panics: BTreeMap<RunId, u32>,
    /// Owned runs that had no driver at the last look.
    orphans: BTreeSet<RunId>,
    /// Runs that are left alone until the next start: every driver of theirs failed.
    given_up: BTreeSet<RunId>,
}

/// A run to be driven.
#[derive(Debug)]
struct Driving {
    run: RunId,
    /// What is stored of it, where nobody can have done anything to it since it was created.
    fresh: Option<Arc<StoredRun>>,
    /// Why it waited for an owner.
    reason: String,
    /// None where only its inbox is to be read, or its end to be committed.
    slot: Option<Slot>,
}

/// A driver has let go of its run.
#[derive(Debug)]
pub(crate) struct Left {
    run: RunId,
    /// The run is not finished and still this node's: it has to be queued again.
    requeue: Option<LetGo>,
    /// No driver can do anything for it: it is left alone until the next start.
    is_given_up: bool,
}

impl Pool {
    /// A pool that hears of new runs through `new_runs`, and what it owns through `beats`.
    pub fn new(
        tools: Tools,
        new_runs: mpsc::Receiver<NewRun>,
        beats: watch::Receiver<LastBeat>,
    ) -> Pool {
        let (drivers, driven, panics) = (JoinSet::new(), BTreeMap::new(), BTreeMap::new());
        let (orphans, given_up) = (BTreeSet::new(), BTreeSet::new());
        Pool { tools, new_runs, beats, drivers, driven, panics, orphans, given_up }
    }

    /// Drives runs until it is told to stop; then joins every driver at the end of its turn. Where the
    /// node is lost, all of it stops at once, and goes on as the next node that this process becomes.
    pub async fn run(mut self, drain: Drain) {
        loop {
            let lost = self.tools.node.lost.clone();
            if lost.run_until_cancelled(self.hold(&drain)).await.is_some() {
                return;
            }
            self.abandon().await;
            let last = self.tools.node.id;
            self.tools.lease.let_go(last);
            let lease = self.tools.lease.clone();
            match drain.soon.run_until_cancelled(lease.next(last)).await {
                None => return,
                Some(node) => self.tools.node = node,
            }
        }
    }

    /// Drives this node's runs until the service stops, and to the ends of their turns.
    async fn hold(&mut self, drain: &Drain) {
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Stop first; then what has ended, so that slots are free for what comes.
            let is_shared = tokio::select! {
                biased;
                () = drain.soon.cancelled() => break,
                Some(ended) = self.drivers.join_next_with_id() => {
                    self.ended(ended).await;
                    false
                }
                Some(news) = self.new_runs.recv() => self.hear(news, drain).await,
                () = self.tools.admission.freed() => self.claim(drain).await,
                _ = poll.tick() => self.claim(drain).await,
                Ok(()) = self.beats.changed() => {
                    self.sweep().await;
                    false
                }
            };
            if is_shared {
                poll.reset_after(SHARE_POLL.mul_f64(0.5 + jitter::jitter()));
            }
        }
        while let Some(ended) = self.drivers.join_next_with_id().await {
            if let Err(panic) = ended {
                tracing::error!(error = %panic, "a driver panicked while it stopped");
            }
        }
    }

    /// Drops every driver where it stands, which ends its calls, and forgets its runs: they are no
    /// longer this node's.
    async fn abandon(&mut self) {
        self.drivers.shutdown().await;
        for (_, run) in std::mem::take(&mut self.driven) {
            self.tools.journal.close(run).await;
            self.tools.admission.detach(run);
        }
        self.orphans.clear();
        self.given_up.clear();
    }

    /// Runs were created: all that were told of meanwhile, with one claim for those that are queued.
    /// True as [`Pool::claim`] says it.
    async fn hear(&mut self, first: NewRun, drain: &Drain) -> bool {
        let (mut next, mut is_queued) = (Some(first), false);
        while let Some(news) = next {
            match news {
                NewRun::Born { node, run, fresh, permit } if node == self.tools.node.id => {
                    let slot = self.tools.admission.slot(permit);
                    let driving =
                        Driving { run, fresh, reason: "new".to_owned(), slot: Some(slot) };
                    self.drive(driving, drain);
                }
                // It is rescued with all that the node had.
                NewRun::Born { .. } => {}
                NewRun::Queued => is_queued = true,
            }
            next = self.new_runs.try_recv().ok();
        }
        is_queued && self.queued(drain).await
    }

    /// A run was queued. Where no slot is free, there is nothing to claim, and each claim is a
    /// transaction before which all creates and appends wait.
    async fn queued(&mut self, drain: &Drain) -> bool {
        // Before the look at the slots: one that is freed after it wakes the claimer.
        self.tools.admission.set_backlog(true);
        let (used, slots) = self.tools.admission.usage();
        used < slots && self.claim(drain).await
    }

    fn drive(&mut self, driving: Driving, drain: &Drain) {
        let run = driving.run;
        let task = self.drivers.spawn(driver::drive(self.tools.clone(), driving, drain.clone()));
        self.driven.insert(task.id(), run);
        metrics::gauge!("runledger_drivers").set(self.drivers.len() as f64);
    }

    async fn ended(&mut self, ended: Result<(Id, Left), tokio::task::JoinError>) {
        metrics::gauge!("runledger_drivers").set(self.drivers.len() as f64);
        let left = match ended {
            Ok((task, left)) => {
                self.driven.remove(&task);
                left
            }
            Err(error) => {
                let Some(run) = self.driven.remove(&error.id()) else { return };
                self.tools.journal.close(run).await;
                self.tools.admission.detach(run);
                let panics = self.panics.entry(run).or_insert(0);
                *panics += 1;
                tracing::error!(run.id = %run, error = %error, "the driver of run {run} panicked");
                let requeue = (*panics <= PANICS_MAX).then_some(LetGo::Crashed);
                let is_given_up = requeue.is_none();
                Left { run, requeue, is_given_up }
            }
        };
        if left.is_given_up {
            self.given_up.insert(left.run);
            metrics::gauge!("runledger_runs_given_up").set(self.given_up.len() as f64);
        }
        if let Some(why) = left.requeue {
            self.requeue(left.run, why).await;
        }
    }
}

#[cfg(test)]
mod tests;
