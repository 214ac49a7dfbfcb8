//! Commits of other nodes: heard of by notification, found out by looking.
//!
//! A notice is a hint. It may be lost, late, or repeated, and the operator may have turned
//! notifications off; so every run that is listened to here and driven elsewhere is also looked up
//! each second. A node tells of a run's commits only while somebody elsewhere listens to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Hub, NOTICES_MAX, Others, Runs};
use crate::run::{RunId, Seq};
use crate::store::{Heard, NodeId, Notice, Store};

/// The least time between two messages to the other nodes: what comes meanwhile goes together.
const GATHER: Duration = Duration::from_millis(10);

/// How often the runs of other nodes are looked up: so late is a listener without notifications.
const LOOK: Duration = Duration::from_secs(1);

/// How long after somebody began to listen the run is looked up: what was committed before its owner
/// knew of the listener was told to nobody.
const FIRST_LOOK: Duration = Duration::from_millis(50);

/// How often the other nodes are told anew which runs are listened to here.
const REMIND: Duration = Duration::from_secs(10);

/// How long a node tells of a run's commits after it was asked to: some reminders may be lost.
const LISTENED: Duration = Duration::from_secs(30);

/// Of how many runs a node tells: those beyond are found by looking.
const LISTENED_MAX: usize = 65_536;

/// How many runs one statement looks up.
const LOOK_RUNS: usize = 1000;

/// How long to wait before the notifications are asked for again.
const DEAF: Duration = Duration::from_secs(1);

/// What others' notices mean on this node.
#[derive(Clone)]
pub struct Wakes {
    /// Which node this is.
    pub node: Arc<dyn Fn() -> NodeId + Send + Sync>,
    /// Something waits in the queue.
    pub queued: Arc<dyn Fn() + Send + Sync>,
    /// A run of this node has news in its inbox.
    pub news: Arc<dyn Fn(RunId) + Send + Sync>,
}

impl std::fmt::Debug for Wakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wakes").finish_non_exhaustive()
    }
}

/// The loop between this node's hub and the other nodes.
#[derive(Debug)]
pub struct Remote {
    store: Store,
    hub: Hub,
    wakes: Wakes,
    notices: mpsc::Receiver<Notice>,
    look: Arc<Notify>,
}

impl Hub {
    /// The hub of a node that has others beside it, and the loop that connects them.
    pub fn among_others(store: Store, wakes: Wakes) -> (Hub, Remote) {
        let (sender, notices) = mpsc::channel(NOTICES_MAX);
        let look = Arc::new(Notify::new());
        let others = Others { notices: sender, look: Arc::clone(&look) };
        let hub = Hub { runs: Arc::default(), others: Some(others) };
        (hub.clone(), Remote { store, hub, wakes, notices, look })
    }

    /// A run is committed up to here, elsewhere.
    fn advance_to(&self, run: RunId, seq: Seq) {
        if let Some(entry) = self.lock().watched.get(&run) {
            entry.position.send_if_modified(|seen| {
                let is_news = seq > *seen;
                *seen = seq.max(*seen);
                is_news
            });
        }
    }

    /// A run is not there any more: its listeners look, and find nothing.
    pub fn gone(&self, run: RunId) {
        self.advance_to(run, Seq(u64::MAX));
    }

    /// The runs that are listened to here and driven elsewhere.
    fn remote(&self) -> Vec<RunId> {
        let runs = self.lock();
        let is_remote = |run: &RunId| !runs.local.contains(run) && !runs.watched[run].is_expected;
        runs.watched.keys().copied().filter(is_remote).collect()
    }

    /// Somebody elsewhere listens to a run.
    fn listened(&self, run: RunId) {
        let now = Instant::now();
        let Runs { listened, .. } = &mut *self.lock();
        // Where there are too many, the next sweep makes room, and those beyond look by themselves.
        if listened.len() < LISTENED_MAX || listened.contains_key(&run) {
            listened.insert(run, now + LISTENED);
        }
    }

    fn forget_listened(&self) {
        let now = Instant::now();
        self.lock().listened.retain(|_, until| *until > now);
    }
}

impl Remote {
    /// Tells, hears and looks until it is over.
    pub async fn run(self, over: CancellationToken) {
        let Remote { store, hub, wakes, notices, look } = self;
        let all = async {
            tokio::join!(
                tell(&store, &wakes, notices),
                hear(&store, &hub, &wakes, &look),
                keep_looking(&store, &hub, &look),
            )
        };
        over.run_until_cancelled(all).await;
    }
}

/// Sends what this node has to tell: the first at once, what follows closely together.
async fn tell(store: &Store, wakes: &Wakes, mut notices: mpsc::Receiver<Notice>) {
    let mut last = Instant::now();
    while let Some(first) = notices.recv().await {
        sleep_until(last + GATHER).await;
        let mut heads: BTreeMap<RunId, Seq> = BTreeMap::new();
        let mut others = BTreeSet::new();
        let mut next = Some(first);
        while let Some(notice) = next {
            match notice {
                Notice::Committed(run, seq) => {
                    let head = heads.entry(run).or_insert(seq);
                    *head = seq.max(*head);
                }
                Notice::Queued | Notice::News(..) | Notice::Listened(_) => {
                    others.insert(notice);
                }
            }
            next = notices.try_recv().ok();
        }
        others.extend(heads.into_iter().map(|(run, seq)| Notice::Committed(run, seq)));
        if let Err(error) = store.notify((wakes.node)(), others.into_iter().collect()).await {
            tracing::debug!(error = %error, "the other nodes were not told; they look by themselves");
        }
        last = Instant::now();
    }
}

async fn hear(store: &Store, hub: &Hub, wakes: &Wakes, look: &Notify) {
    loop {
        match store.hear((wakes.node)()).await {
            Ok(Heard::Notices(notices)) => {
                for notice in notices {
                    heard(notice, hub, wakes);
                }
            }
            Ok(Heard::Missed) => {
                (wakes.queued)();
                look.notify_one();
            }
            Err(error) => {
                tracing::debug!(error = %error, "notifications can't be heard; runs are looked up");
                sleep(DEAF).await;
            }
        }
    }
}

fn heard(notice: Notice, hub: &Hub, wakes: &Wakes) {
    match notice {
        Notice::Queued => (wakes.queued)(),
        Notice::News(node, run) if node == (wakes.node)() => (wakes.news)(run),
        Notice::News(..) => {}
        Notice::Committed(run, seq) => hub.advance_to(run, seq),
        Notice::Listened(run) => hub.listened(run),
    }
}

/// Looks up the runs of others each second, and soon after somebody began to listen to one.
async fn keep_looking(store: &Store, hub: &Hub, look: &Notify) {
    let mut every = interval(LOOK);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reminded = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = look.notified() => sleep(FIRST_LOOK).await,
            _ = every.tick() => {}
        }
        let runs = hub.remote();
        if reminded.elapsed() > REMIND {
            reminded = Instant::now();
            hub.forget_listened();
            for run in &runs {
                hub.tell(Notice::Listened(*run));
            }
        }
        for some in runs.chunks(LOOK_RUNS) {
            match store.positions(some.to_vec()).await {
                Ok(positions) => {
                    let there: BTreeMap<RunId, Seq> = positions.into_iter().collect();
                    for run in some {
                        match there.get(run) {
                            Some(seq) => hub.advance_to(*run, *seq),
                            None => hub.gone(*run),
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(error = %error, "runs of other nodes can't be looked up yet");
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
