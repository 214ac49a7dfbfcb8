//! How a driver begins: it folds what is stored of its run, opens it, and starts it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::driver::{Driver, Halt, Work};
use super::{Drain, Tools};
use crate::admission::{Pulse, Slot};
use crate::failpoint::{Step, reach};
use crate::journal::Effects;
use crate::run::event::{AbortReason, StartReason};
use crate::run::{Body, Clock, Draft, Event, RunId, Spec, State, Status};
use crate::store::{RunUpdate, StoreError, StoredRun};

/// From so many crashes on a run is driven alone among its like: the next waits for its turn's end.
const SUSPECT_CRASHES: u32 = 2;

impl Tools {
    /// What is stored of a run. Between the two reads somebody else may append to it: not this node,
    /// which has no pen for it.
    pub(super) async fn stored(&self, run: RunId, drain: &Drain) -> Result<Arc<StoredRun>, Halt> {
        let row = self.read(drain, || self.store.load(run)).await?.ok_or(Halt::NotOwner)?;
        let log = self.read(drain, || self.store.log_for_fold(run)).await?;
        if log.last().is_some_and(|last| last.seq > row.last_seq) {
            return Err(Halt::NotOwner);
        }
        Ok(Arc::new(StoredRun { row, log }))
    }
}

impl Driver {
    pub(super) async fn open(
        tools: &Tools,
        StoredRun { row, log }: &StoredRun,
        slot: Option<Slot>,
        pulse: &Arc<Pulse>,
        drain: &Drain,
    ) -> Result<Driver, Halt> {
        let corrupt = |what: &str, error: serde_json::Error| {
            Halt::Store(StoreError::Corrupt(format!("{what} of run {}: {error}", row.id)))
        };
        let spec: Spec = serde_json::from_str(&row.spec).map_err(|e| corrupt("the spec", e))?;
        let mut state = State::default();
        for stored in log {
            let event: Event =
                serde_json::from_str(&stored.data).map_err(|e| corrupt("an event", e))?;
            state.apply(&event);
        }
        assert_eq!(state.last_seq, row.last_seq, "the row and the log are one commit");
        let now = tools.journal.now_ms();
        let since = |ms: Option<i64>| {
            ms.map_or(Duration::ZERO, |ms| {
                Duration::from_millis(u64::try_from(now - ms).unwrap_or(0))
            })
        };
        let at = state.last_at.parse::<jiff::Timestamp>().unwrap_or_default().as_millisecond();
        let is_suspect = row.crashes >= SUSPECT_CRASHES;
        // Its place in line is for others' sake: none of its time, as it is none of its turn's.
        let waited = if is_suspect { since(Some(at)) } else { Duration::ZERO };
        let all_waited = state.waited.saturating_add(waited);
        let base = Clock {
            elapsed: since(row.started_at_ms).saturating_sub(all_waited),
            turn_elapsed: since(row.turn_started_at_ms),
        };
        let pen = tools.journal.open(&tools.node, row.id, row.last_seq, at).await?;
        let began = Instant::now();
        Ok(Driver {
            tools: tools.clone(),
            run: row.id,
            public_id: row.public_id.clone(),
            spec: Arc::new(spec),
            state,
            pen,
            slot,
            inbox_read: row.inbox_read,
            is_suspect,
            pulse: Arc::clone(pulse),
            drain: drain.clone(),
            base,
            waited,
            began,
            turn_began: began,
        })
    }

    /// From reading the inbox to the end, or to where the run has to be let go. A fresh run's inbox
    /// is empty: what comes from now on wakes the driver, or has the run's first start refused.
    pub(super) async fn whole_life(
        &mut self,
        crashes: u32,
        reason: &str,
        is_fresh: bool,
    ) -> Result<(), Halt> {
        if self.state.status.is_terminal() {
            return Ok(());
        }
        if !is_fresh {
            self.read_inbox().await?;
        }
        let work = match self.state.cancelled_by {
            Some(_) => Work::Again,
            None if self.slot.is_none() => return Err(Halt::NoSlot),
            None => self.start(crashes, reason).await?,
        };
        self.drive(work).await
    }

    /// Commits `run.started`, and with it what follows from it, but for the run's end.
    async fn start(&mut self, crashes: u32, reason: &str) -> Result<Work, Halt> {
        let reason = match reason {
            "drain" => StartReason::Drain,
            "crash" => StartReason::Crash,
            "inbox" => StartReason::Inbox,
            "timer" => StartReason::Timer,
            _new => StartReason::New,
        };
        let mut drafts = vec![self.draft(Body::RunStarted {
            node: self.tools.node.name.to_string(),
            reason,
            crashes,
            elapsed: self.base.elapsed.as_secs_f64(),
            turn_elapsed: self.base.turn_elapsed.as_secs_f64(),
            waited: self.waited.as_secs_f64(),
        })];
        if let Some(open) = &self.state.open {
            let cause = match reason {
                StartReason::Drain => AbortReason::Drain,
                StartReason::New | StartReason::Crash | StartReason::Inbox | StartReason::Timer => {
                    AbortReason::Crash
                }
            };
            drafts.push(self.abandoned(open.started, cause));
        }
        let (drafts, work) = self.with_what_follows(drafts);
        let update = RunUpdate {
            status: Status::Running,
            stop_reason: None,
            output_preview: None,
            at_ms: 0,
        };
        let effects = Effects { update: Some(update), ..Effects::default() };
        let all_started = self.append(drafts, effects).await?;
        reach(Step::RunStarted);
        Ok(if all_started { work } else { Work::Again })
    }

    fn with_what_follows(&self, drafts: Vec<Draft>) -> (Vec<Draft>, Work) {
        let plan = self.look_ahead(drafts.clone(), None, false);
        match plan.update {
            // The end is an append of its own, on the condition that the inbox has no news.
            Some(_) => (drafts, Work::Again),
            None => (plan.drafts, plan.work),
        }
    }
}
