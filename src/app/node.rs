//! What makes a process a node: journal, hub, pool, lease, rescue. It starts and stops it in order; the
//! service puts its HTTP face on it, and a simulation puts several beside each other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, BootClock, Lease};
use crate::failpoint::{Step, reach};
use crate::hub::{Hub, Remote, Wakes};
use crate::journal::{Journal, journal};
use crate::model::Registry;
use crate::run::Catalog;
use crate::store::{Node, NodeId, Notice, Rescued, Store, StoreError};
use crate::tool::Toolbox;
use crate::worker::{self, Drain, Keeper, Pool, Stuck, Tools};

/// How many new runs may wait for the pool before the create lane waits: it is faster than a claim.
const NEW_RUNS_MAX: usize = 1024;

/// Of the time to drain, what is kept for the end: cutting turns, the last commits, handing over.
const LAST_STEPS: Duration = Duration::from_secs(2);

/// How often the store is prepared for the days to come, and how soon again where that failed.
const MAINTAIN: Duration = Duration::from_secs(3600);
const MAINTAIN_AGAIN: Duration = Duration::from_secs(60);

/// How long a stop tries to hand its runs over, and how soon it tries again.
const HAND_OVER: Duration = Duration::from_secs(2);
const HAND_OVER_AGAIN: Duration = Duration::from_millis(200);

/// What a node is made of.
#[derive(Debug)]
pub struct Parts {
    /// Where facts live.
    pub store: Store,
    /// Which node it is, and until when.
    pub lease: Lease,
    /// The models.
    pub models: Arc<Registry>,
    /// The tools.
    pub toolbox: Toolbox,
    /// What specs may name.
    pub catalog: Arc<Catalog>,
    /// Active runs at once.
    pub slots: usize,
    /// What the log calls this machine.
    pub machine: String,
}

/// How the node is asked for something.
#[derive(Clone, Debug)]
pub struct Doors {
    /// Where runs are created.
    pub journal: Journal,
    /// Where commits are heard of.
    pub hub: Hub,
    /// Slots, and the wake-ups of drivers.
    pub admission: Admission,
}

/// The node while it runs. Dropping it ends it where it stands, as its process's death would.
#[derive(Debug)]
pub struct Running {
    /// What ends with the drain.
    pub tasks: JoinSet<()>,
    /// What keeps this process a node until then, and hears the others.
    membership: JoinSet<()>,
    drain: Drain,
    /// Ends the membership.
    over: CancellationToken,
}

/// Makes this process a node.
///
/// # Errors
/// Where the store can't be reached.
pub async fn register(
    store: &Store,
    machine: &str,
    clock: BootClock,
) -> Result<(Lease, Rescued), StoreError> {
    let until = worker::lease_from(clock.now(), store);
    let (id, rescued) = store.register(machine).await?;
    reach(Step::Registered);
    Ok((Lease::new(Node::new(id, machine), until, clock), rescued))
}

impl Parts {
    /// Puts everything together and spawns its loops. They end with `drain`, once nobody has the doors
    /// any more.
    pub fn start(self, drain: Drain) -> (Doors, Running) {
        let Parts { store, lease, models, toolbox, catalog, slots, machine } = self;
        let admission = Admission::new(slots);
        let (hub, remote) = hub(&store, &lease, &admission);
        let (to_pool, new_runs) = mpsc::channel(NEW_RUNS_MAX);
        let (journal, loops) = journal(store.clone(), hub.clone(), to_pool);
        let (keeper, beats) =
            Keeper::new(store.clone(), lease.clone(), admission.clone(), &machine);
        let node = lease.node();
        let tools = Tools {
            store: store.clone(),
            journal: journal.clone(),
            admission: admission.clone(),
            models,
            toolbox,
            catalog,
            lease: lease.clone(),
            node,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(loops.writer.run());
        tasks.spawn(loops.creator.run());
        let stuck = Stuck {
            store: store.clone(),
            lease: lease.clone(),
            admission: admission.clone(),
            beats: beats.clone(),
        };
        tasks.spawn(stuck.watch(drain.soon.clone()));
        tasks.spawn(Pool::new(tools, new_runs, beats).run(drain.clone()));
        let (mut membership, over) = (JoinSet::new(), CancellationToken::new());
        membership.spawn(keeper.run(over.clone()));
        membership.spawn(maintain(store.clone(), over.clone()));
        if let Some(remote) = remote {
            membership.spawn(remote.run(over.clone()));
            membership.spawn(worker::rescue(store, lease, admission.clone(), over.clone()));
        }
        (Doors { journal, hub, admission }, Running { tasks, membership, drain, over })
    }
}

impl Running {
    /// Waits until it is told to stop; or until it can't go on, and why.
    pub async fn ended_early(&mut self) -> Option<anyhow::Error> {
        tokio::select! {
            biased;
            () = self.drain.soon.cancelled() => None,
            // Among others it goes on as another node; alone it can't.
            _ = self.membership.join_next() => {
                Some(anyhow::anyhow!(
                    "this node may not write any more: another process has taken over its runs, or \
                     the data is damaged; the log says which"
                ))
            }
            ended = self.tasks.join_next() => {
                Some(anyhow::anyhow!("a part of the service ended: {ended:?}"))
            }
        }
    }

    /// Stops: no new work, open turns to their ends within this time, everything committed.
    pub async fn stop(self, drain_time: Duration) {
        let Running { tasks, mut membership, drain, over } = self;
        drain.soon.cancel();
        finish(tasks, drain, drain_time).await;
        over.cancel();
        while membership.join_next().await.is_some() {}
    }
}

/// Hands this node's runs over, and tells the others.
///
/// # Errors
/// Where the store did not answer in time: the runs wait for the lease to end.
pub async fn leave(store: &Store, node: NodeId) -> anyhow::Result<()> {
    reach(Step::HandOverAsked);
    let left = hand_over(store, node).await.context("the runs wait for the lease to end")?;
    reach(Step::HandOverCommitted);
    if left > 0
        && let Err(error) = store.notify(node, vec![Notice::Queued]).await
    {
        tracing::debug!(error = %error, "the other nodes look by themselves");
    }
    tracing::info!(runs.handed_over = left, "stopped; every event is committed");
    Ok(())
}

/// Gives this node's runs to the others, so that none counts a crash. A store that is away for a
/// moment is asked again.
async fn hand_over(store: &Store, node: NodeId) -> anyhow::Result<u64> {
    let begun = tokio::time::Instant::now();
    loop {
        match store.hand_over(node).await {
            Err(StoreError::Unavailable(reason)) if begun.elapsed() < HAND_OVER => {
                tracing::warn!(reason, "the runs can't be handed over yet");
                tokio::time::sleep(HAND_OVER_AGAIN).await;
            }
            done => return Ok(done?),
        }
    }
}

/// The hub, and the loop that connects it with those of other nodes, where there may be others.
fn hub(store: &Store, lease: &Lease, admission: &Admission) -> (Hub, Option<Remote>) {
    if store.lease().is_none() {
        return (Hub::alone(), None);
    }
    let (lease, queue, inbox) = (lease.clone(), admission.clone(), admission.clone());
    let wakes = Wakes {
        node: Arc::new(move || lease.node().id),
        queued: Arc::new(move || queue.queued_elsewhere()),
        news: Arc::new(move |run| inbox.wake(run)),
    };
    let (hub, remote) = Hub::among_others(store.clone(), wakes);
    (hub, Some(remote))
}

/// Joins everything. The server and the pool end by themselves; the journal's loops end with the last
/// handle that those two held. What has not ended when all the time is over waits for a store that
/// is away: nothing more of it can be committed, and the next start goes on from the log.
async fn finish(mut tasks: JoinSet<()>, drain: Drain, time: Duration) {
    let cut_after = time.saturating_sub(LAST_STEPS);
    let cut = tokio::time::sleep(cut_after);
    let end = tokio::time::sleep(cut_after + 2 * LAST_STEPS);
    tokio::pin!(cut, end);
    loop {
        // What has ended first: the times are for what has not.
        tokio::select! {
            biased;
            joined = tasks.join_next() => match joined {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::error!(error = %error, "a part of the service panicked"),
            },
            () = &mut cut, if !drain.now.is_cancelled() => drain.now.cancel(),
            () = &mut end => {
                tracing::error!("the store is away: what waits for it is left to the next start");
                tasks.shutdown().await;
                return;
            }
        }
    }
}

/// Makes room for the days to come, each hour: were it ever late, it would be days too early still.
async fn maintain(store: Store, over: CancellationToken) {
    let mut wait = MAINTAIN;
    while over.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
        wait = match store.maintain().await {
            Ok(()) => MAINTAIN,
            Err(error) => {
                tracing::error!(error = %error, "the store is not prepared for the days to come");
                MAINTAIN_AGAIN
            }
        };
    }
}
