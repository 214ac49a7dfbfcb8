//! Keeps this process a node: renews its lease from a task of its own, ends everything before the
//! lease does, and registers anew when the store is there again.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::jitter::jitter;
use crate::admission::{Admission, BootTime, Lease};
use crate::failpoint::{Step, reach};
use crate::store::{Beat, Node, NodeId, Notice, Rescued, Store, StoreError};

/// How often a node that is alone looks for runs that it owns and nobody drives.
const ALONE: Duration = Duration::from_secs(2);

/// A lease is renewed five times before it would end: four heartbeats may fail.
const BEATS: u32 = 5;

/// So much of the lease, a tenth, is left for stopping what runs.
const MARGINS: u32 = 10;

/// How often the leases of others are looked at, in parts of the lease.
const LOOKS: u32 = 20;

/// How soon a failed heartbeat, or a failed registration, is tried again at most.
const RETRY: Duration = Duration::from_millis(250);

/// The last heartbeat's answer, and whose it was.
pub type LastBeat = (NodeId, Beat);

/// The loop that renews the lease.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    lease: Lease,
    admission: Admission,
    machine: String,
    beats: watch::Sender<LastBeat>,
}

/// When a lease that is renewed by a heartbeat begun now has to be given up.
pub fn lease_from(now: BootTime, store: &Store) -> BootTime {
    store.lease().map_or(BootTime::NEVER, |lease| now.after(lease - lease / MARGINS))
}

impl Keeper {
    /// The loop, and where its heartbeats are heard. `machine` is what the log calls this machine.
    pub fn new(
        store: Store,
        lease: Lease,
        admission: Admission,
        machine: &str,
    ) -> (Keeper, watch::Receiver<LastBeat>) {
        let (beats, heard) = watch::channel((lease.node().id, Beat::default()));
        (Keeper { store, lease, admission, machine: machine.to_owned(), beats }, heard)
    }

    /// Renews the lease until everything is over. A node that is alone and has lost what it owned
    /// can't go on: then this ends earlier.
    pub async fn run(self, over: CancellationToken) {
        over.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&self) {
        loop {
            let node = self.lease.node();
            self.hold(&node).await;
            node.lost.cancel();
            if self.store.lease().is_none() {
                return;
            }
            tracing::warn!(node = &*node.name, "the lease is lost: all runs of this node stop");
            self.lease.is_let_go(node.id).await;
            self.join_again(&node).await;
        }
    }

    /// Beats until the lease can't be renewed in time.
    async fn hold(&self, node: &Node) {
        let every = self.store.lease().map_or(ALONE, |lease| lease / BEATS);
        loop {
            let begun = Instant::now();
            let next = tokio::select! {
                biased;
                () = node.lost.cancelled() => return,
                // Whatever the store does, not beyond the lease.
                () = ended(&self.lease) => return,
                beat = self.beat(node) => match beat {
                    Ok(()) => begun + every,
                    Err(StoreError::Fenced) => return,
                    Err(error) => {
                        tracing::warn!(error = %error, "the lease is not renewed yet");
                        Instant::now() + every.min(RETRY)
                    }
                },
            };
            tokio::select! {
                biased;
                () = node.lost.cancelled() => return,
                () = ended(&self.lease) => return,
                () = sleep_until(next) => {}
            }
        }
    }

    async fn beat(&self, node: &Node) -> Result<(), StoreError> {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (busy, slots) = self.admission.usage();
        // From before the statement: the store's lease begins when it is carried out.
        let until = lease_from(self.lease.now(), &self.store);
        reach(Step::BeatAsked);
        let beat = self.store.heartbeat(node.id, count(slots), count(busy)).await;
        self.lease.set_away(matches!(beat, Err(StoreError::Unavailable(_))));
        let beat = beat?;
        reach(Step::BeatCommitted);
        self.lease.extend(until);
        for run in &beat.news {
            self.admission.wake(*run);
        }
        self.beats.send_replace((node.id, beat));
        Ok(())
    }

    /// Becomes another node. What the last one had is handed over, so that no crash is counted, where
    /// nobody has taken it yet.
    async fn join_again(&self, last: &Node) {
        loop {
            match self.try_to_join(last).await {
                Ok(node) => {
                    tracing::info!(node = &*node.name, "this process is a node again");
                    return;
                }
                Err(error) => {
                    tracing::debug!(error = %error, "this process is no node yet");
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn try_to_join(&self, last: &Node) -> Result<Node, StoreError> {
        match self.store.hand_over(last.id).await {
            Ok(_) | Err(StoreError::Fenced) => {}
            Err(error) => return Err(error),
        }
        let until = lease_from(self.lease.now(), &self.store);
        let (id, _) = self.store.register(&self.machine).await?;
        let node = Node::new(id, &self.machine);
        self.lease.begin(node.clone(), until);
        self.lease.set_away(false);
        self.admission.queued();
        Ok(node)
    }
}

/// Waits until the lease has ended, by the clock that goes on while the machine sleeps.
async fn ended(lease: &Lease) {
    loop {
        if lease.until() == BootTime::NEVER {
            return std::future::pending().await;
        }
        let left = lease.until().0.saturating_sub(lease.now().0);
        if left == 0 {
            return;
        }
        // A machine that slept wakes late; a lease that is renewed meanwhile ends later.
        sleep(Duration::from_millis(left.min(1000))).await;
    }
}

/// Looks for nodes whose lease has ended, and takes over what they left.
///
/// # Cancel safety
/// Dropping it leaves each rescue done whole or not at all.
pub async fn rescue(store: Store, lease: Lease, admission: Admission, over: CancellationToken) {
    let Some(time) = store.lease() else { return };
    let looking = async {
        loop {
            sleep(time.div_f64(f64::from(LOOKS)).mul_f64(0.5 + jitter())).await;
            if !lease.is_held() {
                continue;
            }
            let node = lease.node().id;
            reach(Step::RescueAsked);
            match store.rescue(node).await {
                Ok(Rescued { crashed: 0, .. }) => {}
                Ok(Rescued { crashed, .. }) => {
                    reach(Step::RescueCommitted);
                    tracing::warn!(runs.crashed = crashed, "another node has died; its runs go on");
                    admission.queued();
                    if let Err(error) = store.notify(node, vec![Notice::Queued]).await {
                        tracing::debug!(error = %error, "the other nodes look by themselves");
                    }
                }
                Err(error) => tracing::debug!(error = %error, "dead nodes can't be looked for"),
            }
        }
    };
    over.run_until_cancelled(looking).await;
}
