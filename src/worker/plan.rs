//! What follows from what has come of the world: everything up to the next work, as one append.

use serde_json::json;
use tokio::time::Instant;

use super::driver::{Driver, Work};
use crate::run::ending::{closing, finish};
use crate::run::event::{AbortReason, Usage};
use crate::run::spec::preview;
use crate::run::{Body, CallId, Draft, Ending, Seq, State, Step, decide};
use crate::store::{RunUpdate, Shown};

/// What one append will commit, and what is to be done after it.
pub(super) struct Plan {
    pub(super) drafts: Vec<Draft>,
    pub(super) work: Work,
    pub(super) update: Option<RunUpdate>,
}

impl Driver {
    /// What follows from these drafts, by deciding over the state as it will be.
    pub(super) fn look_ahead(
        &self,
        mut drafts: Vec<Draft>,
        ending: Option<Ending>,
        waited: bool,
    ) -> Plan {
        let mut after = self.state.clone();
        let mut told = 0;
        let mut ending = ending;
        loop {
            for draft in &drafts[told..] {
                after.apply_draft(draft);
            }
            told = drafts.len();
            let clock = self.clock();
            let step = match ending.take() {
                Some(ending) if after.cancelled_by.is_none() => Step::Finish(ending),
                Some(_) | None => decide(&self.spec, &after, &clock),
            };
            let work = match step {
                Step::Stop => Work::Done,
                Step::AbandonAttempt => {
                    let started = after.open.as_ref().map_or(Seq(0), |open| open.started);
                    drafts.push(self.abandoned(started, AbortReason::Crash));
                    continue;
                }
                Step::RefuseCalls(calls) => {
                    drafts.extend(refusals(&after, &calls));
                    continue;
                }
                // Nothing is begun that would be cut at once: whoever comes next begins it.
                Step::CallTools(_) | Step::CallModel { .. } if self.drain.soon.is_cancelled() => {
                    Work::Again
                }
                Step::CallTools(calls) => match self.prepare_calls(&after, &calls, &mut drafts) {
                    Some(started) => Work::Tools(started),
                    None => continue,
                },
                Step::CallModel { wait, .. } if !wait.is_zero() && !waited => Work::Wait(wait),
                Step::CallModel { model, turn, attempt, with_tools, .. } => {
                    drafts.extend(self.turn_started(&after, &model, turn, attempt, with_tools));
                    Work::Model { model, with_tools, since: Instant::now() }
                }
                Step::Finish(ending) => {
                    let (spec, used) = (&self.spec, self.open_usage(&after));
                    let closing = finish(spec, &after, &self.public_id, &ending, &clock, used);
                    let update = update_of(&ending, &closing);
                    drafts.extend(closing);
                    return Plan { drafts, work: Work::Done, update: Some(update) };
                }
            };
            return Plan { drafts, work, update: None };
        }
    }
}

impl Driver {
    /// What lists show of the run once these drafts are committed, as far as that changes.
    pub(super) fn shown(&self, drafts: &[Draft]) -> Shown {
        let mut shown = Shown::default();
        let mut told: Option<(u32, Usage)> = None;
        for Draft { body, .. } in drafts {
            let before = || (self.state.turn_count(), self.state.usage.clone());
            match body {
                Body::TurnCompleted { usage: used, .. } => {
                    let (turns, usage) = told.get_or_insert_with(before);
                    *turns = turns.saturating_add(1);
                    usage.add(used);
                }
                Body::TurnAborted { usage: Some(used), .. } => {
                    told.get_or_insert_with(before).1.add(used);
                }
                Body::RunUpdated { metadata: Some(metadata), .. } => {
                    shown.metadata = Some(json!(metadata).to_string());
                }
                Body::RunCompleted { result, .. }
                | Body::RunFailed { result, .. }
                | Body::RunCancelled { result, .. } => {
                    shown.error = result.error.as_ref().map(|error| json!(error).to_string());
                    shown.elapsed = Some(result.elapsed_time);
                    told = Some((result.turn_count, result.usage.clone()));
                }
                _other => {}
            }
        }
        if let Some((turns, usage)) = told {
            shown.turn_count = Some(turns);
            shown.usage = Some(json!(usage).to_string());
        }
        shown
    }
}

fn refusals(after: &State, calls: &[CallId]) -> Vec<Draft> {
    after
        .open_calls()
        .filter(|call| calls.contains(&call.call_id))
        .map(|call| Draft { turn: after.turn, attempt: after.attempt.max(1), body: closing(call) })
        .collect()
}

fn update_of(ending: &Ending, closing: &[Draft]) -> RunUpdate {
    let result = closing.last().and_then(|draft| match &draft.body {
        Body::RunCompleted { result, .. }
        | Body::RunFailed { result, .. }
        | Body::RunCancelled { result, .. } => Some(result),
        _other => None,
    });
    RunUpdate {
        status: ending.status,
        stop_reason: result.map(|result| result.stop_reason.clone()),
        output_preview: result.and_then(|result| result.final_output.as_deref()).map(preview),
        at_ms: 0,
    }
}
