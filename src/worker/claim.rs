//! Takes runs from the queue, and finds owned runs that nobody drives.

use tokio::sync::OwnedSemaphorePermit;

use super::{Drain, Driving, Pool};
use crate::failpoint::{Step, reach};
use crate::run::RunId;
use crate::store::LetGo;

/// How many runs are claimed in one go: the next go follows at once while there are more.
const CLAIM_MAX: usize = 128;

impl Pool {
    /// Takes due runs until the queue, this node's share of it or the slots are used up; true where
    /// slots are free and the rest is others' share.
    pub(super) async fn claim(&mut self, drain: &Drain) -> bool {
        loop {
            let mut permits = self.tools.admission.take(CLAIM_MAX);
            let asked = permits.len();
            let slots = u32::try_from(asked).expect("a claim is small");
            reach(Step::ClaimAsked);
            let claims = match self.tools.store.claim(self.tools.node.id, slots).await {
                Ok(claims) => claims,
                Err(error) => {
                    tracing::warn!(error = %error, "the queue can't be read; it is tried again");
                    return false;
                }
            };
            if !claims.runs.is_empty() {
                reach(Step::ClaimCommitted);
            }
            let to_drive = claims.runs.iter().filter(|one| !one.for_inbox).count();
            let has_inboxes = claims.runs.len() > to_drive;
            self.tools.admission.set_backlog(claims.is_more);
            for one in claims.runs {
                let permit: Option<OwnedSemaphorePermit> =
                    if one.for_inbox { None } else { permits.pop() };
                let slot = permit.map(|permit| self.tools.admission.slot(permit));
                let driving = Driving { run: one.run, fresh: None, reason: one.reason, slot };
                self.drive(driving, drain);
            }
            // A claim takes only so many inboxes, which need no slot: perhaps there are more.
            if has_inboxes {
                continue;
            }
            // A slot that was freed before the backlog was known woke nobody.
            let (used, slots) = self.tools.admission.usage();
            if to_drive < asked || (asked == 0 && used == slots) {
                return claims.is_more && to_drive < asked;
            }
        }
    }

    /// Queues runs that this node owns and nobody has driven for two heartbeats: the answer of their
    /// create or claim was lost, or their driver let go while the store was away.
    pub(super) async fn sweep(&mut self) {
        let (node, beat) = self.beats.borrow_and_update().clone();
        if node != self.tools.node.id || !beat.is_listed {
            return;
        }
        let is_orphan =
            |run: &RunId| !self.tools.admission.has_driver(*run) && !self.given_up.contains(run);
        let orphans = beat.owned.into_iter().filter(is_orphan).collect();
        let before = std::mem::replace(&mut self.orphans, orphans);
        let stuck: Vec<RunId> = self.orphans.intersection(&before).copied().collect();
        for run in stuck {
            tracing::warn!(run.id = %run, "nobody drives run {run}; it is queued again");
            self.requeue(run, LetGo::ForSlot).await;
        }
    }

    pub(super) async fn requeue(&mut self, run: RunId, why: LetGo) {
        reach(Step::RequeueAsked);
        match self.tools.store.requeue(self.tools.node.id, run, why).await {
            Ok(()) => {
                reach(Step::RequeueCommitted);
                self.tools.admission.queued();
            }
            Err(error) => {
                tracing::warn!(run.id = %run, error = %error, "run {run} can't be queued yet");
            }
        }
    }
}
