//! Drives one run: fold, decide, do, commit, until it ends or this node lets go of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument;

use super::{Drain, Driving, Left, Tools};
use crate::admission::{Pulse, Slot};
use crate::failpoint::{Step, reach};
use crate::journal::{Effects, Pen, Refused};
use crate::run::event::AbortReason;
use crate::run::{Body, CallId, Clock, Draft, Ending, Event, RunId, Seq, Spec, State, limits};
use crate::store::{LetGo, StoreError};

/// From which wait on a driver lends its slot: a shorter one is over before another run has begun.
const LENDS_FROM: Duration = Duration::from_secs(1);

/// How soon a driver asks a store again that is away.
const READ_AGAIN: Duration = Duration::from_millis(250);

/// What a driver reads and commits between two calls is done by then, unless the store is away.
const COMMIT_MAX: Duration = Duration::from_secs(10);

/// Why a driver lets go of a run that has not ended.
#[derive(Debug)]
pub(super) enum Halt {
    /// The service stops; the run is handed over.
    Drain,
    /// The run is no longer this node's.
    NotOwner,
    /// It only had its inbox to read, and must wait for a slot.
    NoSlot,
    /// The store could not be read.
    Store(StoreError),
    /// The store refused the run's own data.
    Poisoned(String),
}

impl From<Refused> for Halt {
    fn from(refused: Refused) -> Halt {
        match refused {
            Refused::NotOwner | Refused::Unavailable(_) | Refused::InboxNews => Halt::NotOwner,
            Refused::Poisoned(reason) => Halt::Poisoned(reason),
        }
    }
}

/// Work that needs the world.
#[derive(Debug)]
pub(super) enum Work {
    /// Call this model; `turn.started` is committed.
    Model { model: String, with_tools: bool, since: Instant },
    /// Call these tools; their `tool.started` are committed.
    Tools(Vec<CallId>),
    /// Wait, then decide again.
    Wait(Duration),
    /// Decide again.
    Again,
    /// The run has ended.
    Done,
}

/// One run, being driven.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) tools: Tools,
    pub(super) run: RunId,
    pub(super) public_id: String,
    pub(super) spec: Arc<Spec>,
    pub(super) state: State,
    pub(super) pen: Pen,
    /// None where only the inbox is to be read, or the end to be committed.
    pub(super) slot: Option<Slot>,
    pub(super) inbox_read: i64,
    pub(super) is_suspect: bool,
    pub(super) pulse: Arc<Pulse>,
    pub(super) drain: Drain,
    /// Elapsed before this driver, and since when it counts.
    pub(super) base: Clock,
    /// How long it has just waited in line behind other suspects.
    pub(super) waited: Duration,
    pub(super) began: Instant,
    pub(super) turn_began: Instant,
}

/// Drives a run that this node owns until it ends or has to be let go.
pub(super) async fn drive(tools: Tools, driving: Driving, drain: Drain) -> Left {
    let run = driving.run;
    let pulse = Arc::new(Pulse::default());
    pulse.promise(Instant::now() + COMMIT_MAX);
    if !tools.admission.attach(run, Arc::clone(&pulse)) {
        return Left { run, requeue: None, is_given_up: false };
    }
    let admission = tools.admission.clone();
    let mut driven = drive_attached(&tools, driving, &pulse, &drain).await;
    if let Err(Halt::Poisoned(why)) = driven {
        tracing::error!(run.id = %run, why, "the store refuses the events of run {run}; it fails");
        driven = fail(&tools, run, &pulse, &drain).await;
    }
    admission.detach(run);
    let (requeue, is_given_up) = match driven {
        Ok(()) | Err(Halt::Drain | Halt::NotOwner) => (None, false),
        Err(Halt::NoSlot) => (Some(LetGo::ForSlot), false),
        Err(Halt::Store(error @ StoreError::Corrupt(_))) => {
            tracing::error!(run.id = %run, error = %error, "run {run} can't be driven");
            (None, true)
        }
        Err(Halt::Store(error)) => {
            // The sweep finds it when the store is back.
            tracing::warn!(run.id = %run, error = %error, "run {run} is let go");
            (None, false)
        }
        Err(Halt::Poisoned(why)) => {
            tracing::error!(run.id = %run, why, "the store refuses even the end of run {run}");
            (None, true)
        }
    };
    Left { run, requeue, is_given_up }
}

async fn drive_attached(
    tools: &Tools,
    driving: Driving,
    pulse: &Arc<Pulse>,
    drain: &Drain,
) -> Result<(), Halt> {
    let Driving { run, fresh, reason, slot } = driving;
    let is_fresh = fresh.is_some();
    let stored = match fresh {
        Some(fresh) => fresh,
        None => tools.stored(run, drain).await?,
    };
    reach(Step::RunLoaded);
    let mut driver = Driver::open(tools, &stored, slot, pulse, drain).await?;
    reach(Step::RunOpened);
    let span = match driver.spec.config.trace_enabled {
        true => tracing::info_span!("drive", run.id = %run),
        false => tracing::Span::none(),
    };
    let crashes = stored.row.crashes;
    drop(stored);
    let driven = driver.whole_life(crashes, &reason, is_fresh).instrument(span).await;
    driver.pen.close().await;
    driven
}

/// Ends a run whose own events the store refuses.
async fn fail(tools: &Tools, run: RunId, pulse: &Arc<Pulse>, drain: &Drain) -> Result<(), Halt> {
    let stored = tools.stored(run, drain).await?;
    let mut driver = Driver::open(tools, &stored, None, pulse, drain).await?;
    let words = "the store refused an event of this run; the service's log says why";
    let ending = Ending::failed("internal", words.to_owned(), serde_json::Value::Null);
    let failed = match driver.read_inbox().await {
        Ok(()) => driver.advance(Vec::new(), Some(ending), false).await.map(|_done| ()),
        Err(halt) => Err(halt),
    };
    driver.pen.close().await;
    failed
}

impl Tools {
    /// Reads what a driver needs, and waits for a store that is away: until it is back, the service
    /// stops, or the node is lost and this is dropped.
    pub(super) async fn read<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        drain: &Drain,
        read: impl Fn() -> F,
    ) -> Result<T, Halt> {
        loop {
            match read().await {
                Err(StoreError::Unavailable(reason)) => {
                    tracing::debug!(reason, "a driver waits for the store");
                    let wait = tokio::time::sleep(READ_AGAIN);
                    drain.soon.run_until_cancelled(wait).await.ok_or(Halt::Drain)?;
                }
                done => return done.map_err(Halt::Store),
            }
        }
    }
}

impl Driver {
    /// Does what is to be done until the run ends, or has to be let go.
    pub(super) async fn drive(&mut self, mut work: Work) -> Result<(), Halt> {
        let mut waited = false;
        loop {
            if self.drain.soon.is_cancelled() {
                return Err(Halt::Drain);
            }
            self.pulse.promise(Instant::now() + COMMIT_MAX);
            work = match work {
                Work::Done => {
                    tracing::debug!(run.status = self.state.status.name(), "the run has ended");
                    return Ok(());
                }
                Work::Again => {
                    self.read_inbox().await?;
                    self.advance(Vec::new(), None, waited).await?
                }
                Work::Wait(wait) => {
                    waited = self.pause(wait).await?;
                    Work::Again
                }
                // What was committed before this process slept, or was cut off, may be another's by now.
                Work::Model { .. } | Work::Tools(_) if !self.tools.lease.is_held() => {
                    return Err(Halt::NotOwner);
                }
                Work::Model { model, with_tools, since } => {
                    waited = false;
                    reach(Step::TurnStarted);
                    self.call_model(model, with_tools, since).await?
                }
                Work::Tools(calls) => self.call_tools(calls).await?,
            };
        }
    }

    /// Waits before the next attempt; true where the whole wait has passed. Meanwhile the slot is
    /// somebody else's.
    async fn pause(&mut self, wait: Duration) -> Result<bool, Halt> {
        let deadline = self.deadline();
        let until = (Instant::now() + wait).min(deadline);
        if wait >= LENDS_FROM
            && let Some(slot) = &mut self.slot
        {
            slot.lend();
        }
        let has_passed = tokio::select! {
            biased;
            () = self.drain.soon.cancelled() => return Err(Halt::Drain),
            () = self.pulse.notified() => false,
            () = tokio::time::sleep_until(until) => true,
        };
        if !has_passed {
            self.read_inbox().await?;
        }
        self.take_slot_back().await?;
        Ok(has_passed)
    }

    /// Waits for a slot again, where it was lent: until the turn's time is over, or a cancel, which
    /// both end the run without one.
    async fn take_slot_back(&mut self) -> Result<(), Halt> {
        let Some(mut slot) = self.slot.take() else { return Ok(()) };
        while self.state.cancelled_by.is_none() {
            tokio::select! {
                biased;
                () = self.drain.soon.cancelled() => return Err(Halt::Drain),
                () = slot.take_back() => break,
                () = self.pulse.notified() => self.read_inbox().await?,
                () = tokio::time::sleep_until(self.deadline()) => break,
            }
        }
        self.slot = Some(slot);
        Ok(())
    }

    /// Commits what has come of the world, together with everything that follows from it until the
    /// world is needed again. `waited`: the wait that the last abort announced is over.
    pub(super) async fn advance(
        &mut self,
        drafts: Vec<Draft>,
        ending: Option<Ending>,
        waited: bool,
    ) -> Result<Work, Halt> {
        let drafts = self.with_lines(drafts);
        let came = drafts.clone();
        let plan = self.look_ahead(drafts, ending, waited);
        let effects = Effects {
            inbox_read: None,
            only_if_inbox_n: plan.update.is_some().then_some(self.inbox_read),
            update: plan.update,
            shown: self.shown(&plan.drafts),
        };
        if plan.drafts.is_empty() {
            return Ok(plan.work);
        }
        if effects.update.is_some() {
            reach(Step::RunEnding);
        }
        match self.pen.append(plan.drafts, effects).await {
            Ok(committed) => {
                self.fold(&committed.events);
                if self.state.status.is_terminal() {
                    reach(Step::RunEnded);
                }
                if committed.starts_refused {
                    return Ok(Work::Again);
                }
                Ok(plan.work)
            }
            Err(Refused::InboxNews) => {
                // The end waits until the news is read; what came of the world does not.
                if !came.is_empty() {
                    self.append(came, Effects::default()).await?;
                }
                Ok(Work::Again)
            }
            Err(refused) => Err(refused.into()),
        }
    }

    /// Commits drafts; false where starts among them were refused, because a cancel was accepted.
    pub(super) async fn append(
        &mut self,
        drafts: Vec<Draft>,
        effects: Effects,
    ) -> Result<bool, Halt> {
        let effects = Effects { shown: self.shown(&drafts), ..effects };
        let committed = self.pen.append(drafts, effects).await?;
        self.fold(&committed.events);
        Ok(!committed.starts_refused)
    }

    pub(super) fn fold(&mut self, events: &[Event]) {
        for event in events {
            assert_eq!(event.seq, self.state.last_seq.next(), "a log has no gaps");
            if matches!(event.body, Body::TurnStarted { .. }) && event.attempt == 1 {
                self.turn_began = Instant::now();
                self.base.turn_elapsed = Duration::ZERO;
            }
            if matches!(event.body, Body::RunStarted { .. }) && self.state.started_at.is_none() {
                self.began = Instant::now();
            }
            if matches!(event.body, Body::TurnCompleted { .. })
                && std::mem::take(&mut self.is_suspect)
            {
                self.tools.admission.queued();
            }
            self.state.apply(event);
        }
    }

    /// A draft at the run's present turn and attempt.
    pub(super) fn draft(&self, body: Body) -> Draft {
        Draft { turn: self.state.turn, attempt: self.state.attempt.max(1), body }
    }

    pub(super) fn abandoned(&self, started: Seq, reason: AbortReason) -> Draft {
        self.draft(Body::TurnAborted {
            reason,
            provider_status: None,
            message: None,
            discard_from_seq: started,
            last_item: self.state.last_item,
            retry_in: Some(0.0),
            elapsed_time: None,
            usage: self.open_usage(&self.state),
        })
    }

    pub(super) fn clock(&self) -> Clock {
        let now = Instant::now();
        let driven = match self.state.started_at {
            Some(_) => now.duration_since(self.began),
            None => Duration::ZERO,
        };
        Clock {
            elapsed: self.base.elapsed + driven,
            turn_elapsed: self.base.turn_elapsed + now.duration_since(self.turn_began),
        }
    }

    /// When the turn's or the run's time is over, whichever comes first, and a little later: then
    /// `decide` sees it too. Whoever waits, waits until then at most.
    pub(super) fn deadline(&self) -> Instant {
        let clock = self.clock();
        let config = self.state.limits(&self.spec);
        let turn = config.timeout_per_turn - clock.turn_elapsed.as_secs_f64();
        let run = config.max_time - clock.elapsed.as_secs_f64();
        let left = Duration::from_secs_f64(turn.min(run).max(0.0));
        let deadline = Instant::now() + left + Duration::from_millis(1);
        self.pulse.promise(deadline + COMMIT_MAX);
        deadline
    }

    /// Whether the log, with so many more events, has room for more than its end.
    pub(super) fn has_room(&self, more: u64) -> bool {
        self.state.last_seq.0 + more < limits::LOG_EVENTS - limits::LOG_RESERVE
    }
}
