//! Finds runs that nobody moves. There should be none, ever: each is a mistake of this program.
//!
//! A run that has not ended is in the queue, or a living node owns it and has a driver for it that
//! keeps its promises. Between two steps none of this may be so for a moment; what is found twice,
//! with the time of a rescue between the looks, is stuck.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::LastBeat;
use crate::admission::{Admission, Lease};
use crate::run::RunId;
use crate::store::{Store, StoreError};

/// Beside the lease, the time between two looks: what a rescue or a heartbeat may take.
const GRACE: Duration = Duration::from_secs(2);

/// How many stuck runs the log names.
const NAMED_MAX: usize = 8;

/// The loop that looks for stuck runs.
#[derive(Debug)]
#[expect(missing_docs, reason = "the parts of this node that are looked at")]
pub struct Stuck {
    pub store: Store,
    pub lease: Lease,
    pub admission: Admission,
    pub beats: watch::Receiver<LastBeat>,
}

impl Stuck {
    /// Says how many runs are stuck until the service stops.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn watch(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep_looking()).await;
    }

    async fn keep_looking(&self) {
        let every = self.store.lease().unwrap_or_default() + GRACE;
        let mut before = BTreeSet::new();
        loop {
            sleep(every).await;
            if self.lease.is_away() || !self.lease.is_held() {
                // Everything waits for the store, and nothing is wrong with the runs.
                before.clear();
                continue;
            }
            let found = match self.look().await {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(error = %error, "stuck runs can't be looked for");
                    continue;
                }
            };
            self.tell(found.intersection(&before).copied().collect());
            before = found;
        }
    }

    fn tell(&self, stuck: Vec<RunId>) {
        if stuck.len() != self.admission.stuck() && !stuck.is_empty() {
            let named: Vec<String> = stuck.iter().take(NAMED_MAX).map(RunId::to_string).collect();
            let named = named.join(", ");
            tracing::error!(runs.stuck = stuck.len(), "nobody moves {named}");
        }
        self.admission.set_stuck(stuck.len());
        metrics::gauge!("runledger_runs_stuck").set(stuck.len() as f64);
    }

    /// Runs that nobody moves at this moment.
    async fn look(&self) -> Result<BTreeSet<RunId>, StoreError> {
        let mut found: BTreeSet<RunId> = self.store.stranded().await?.into_iter().collect();
        found.extend(self.admission.late());
        let (node, beat) = self.beats.borrow().clone();
        if node == self.lease.node().id {
            let is_driven = |run: &RunId| self.admission.has_driver(*run);
            found.extend(beat.owned.into_iter().filter(|run| !is_driven(run)));
        }
        Ok(found)
    }
}
