//! The brain of the turn loop: what a run does next, as a function of what it is.

use std::time::Duration;

use serde_json::{Value, json};

use super::ending::{Ending, of_failed_tool, of_last_turn};
use super::event::Effect;
use super::id::CallId;
use super::spec::{OnLimit, Spec};
use super::state::{Call, State};
use super::{budget, limits, retry};

/// What the core is told of time: plain data.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Clock {
    /// Since the run's first start, over all attempts to drive it.
    pub elapsed: Duration,
    /// Since the first attempt at the turn under way.
    pub turn_elapsed: Duration,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing, ever again.
    Stop,
    /// Close the attempt that another driver left open: its output is void.
    AbandonAttempt,
    /// Wait, then call this model.
    CallModel {
        /// `provider/name`.
        model: String,
        /// The turn's number.
        turn: u32,
        /// The attempt's number.
        attempt: u32,
        /// How long to wait first.
        wait: Duration,
        /// Whether tools may be offered; a last turn has none.
        with_tools: bool,
    },
    /// Call these tools, side by side, or answer for them.
    CallTools(Vec<CallId>),
    /// Close these calls without running them: a limit is met, and one last turn follows; or they
    /// were started, have no result, and must not run twice.
    RefuseCalls(Vec<CallId>),
    /// Commit these events; the last one ends the run.
    Finish(Ending),
}

/// Decides the next step. It always answers.
pub fn decide(spec: &Spec, state: &State, clock: &Clock) -> Step {
    if state.status.is_terminal() {
        return Step::Stop;
    }
    if state.cancelled_by.is_some() {
        return Step::Finish(Ending::cancelled());
    }
    // Before time and crashes: a committed answer needs nothing more of the world.
    if let Some(ending) = of_last_turn(spec, state) {
        return Step::Finish(ending);
    }
    if let Some(ending) = out_of_bounds(spec, state, clock) {
        return Step::Finish(ending);
    }
    if state.open.is_some() {
        return Step::AbandonAttempt;
    }
    if let Some(ending) = of_failed_tool(spec, state) {
        return Step::Finish(ending);
    }
    let open: Vec<&Call> = state.open_calls().collect();
    let unknown: Vec<CallId> = open
        .iter()
        .filter(|call| call.tries > 0 && call.effect == Effect::Once)
        .map(|call| call.call_id.clone())
        .collect();
    if !unknown.is_empty() {
        return Step::RefuseCalls(unknown);
    }
    let limit = budget::met(spec, state);
    if !open.is_empty() {
        return match limit {
            None => Step::CallTools(open.iter().map(|call| call.call_id.clone()).collect()),
            Some(met) => budget::step_with_open_calls(spec, state, met, &open),
        };
    }
    let with_tools = match (limit, spec.config.on_limit) {
        (None, _) => true,
        (Some(_), OnLimit::Finalize) => false,
        (Some(met), OnLimit::Fail) => return Step::Finish(met.failure(spec, state)),
    };
    let turn = state.turn_count().saturating_add(1);
    match retry::next_call(spec, state) {
        Err(ending) => Step::Finish(ending),
        Ok((model, wait)) => Step::CallModel {
            model,
            turn,
            attempt: if state.turn == turn { state.attempt.saturating_add(1) } else { 1 },
            wait,
            with_tools,
        },
    }
}

/// Time, crashes and the log's room, which end a run whatever it is doing.
fn out_of_bounds(spec: &Spec, state: &State, clock: &Clock) -> Option<Ending> {
    let config = state.limits(spec);
    if state.crashes > limits::CRASHES {
        return Some(Ending::failed(
            "crash_loop",
            format!("its node died {} times without finishing a turn between", state.crashes),
            json!({"crashes": state.crashes}),
        ));
    }
    if state.last_seq.0 >= limits::LOG_EVENTS - limits::LOG_RESERVE {
        return Some(Ending::failed(
            "log_full",
            format!("its log has reached the limit of {} events", limits::LOG_EVENTS),
            Value::Null,
        ));
    }
    if clock.elapsed.as_secs_f64() >= config.max_time {
        return Some(Ending::failed(
            "max_time",
            format!("it took longer than max_time, {} seconds", config.max_time),
            json!({"max_time": config.max_time}),
        ));
    }
    if state.is_in_turn() && clock.turn_elapsed.as_secs_f64() >= config.timeout_per_turn {
        return Some(Ending::failed(
            "turn_timeout",
            format!(
                "turn {} took longer than timeout_per_turn, {} seconds",
                state.turn, config.timeout_per_turn
            ),
            json!({"turn": state.turn, "timeout_per_turn": config.timeout_per_turn}),
        ));
    }
    None
}

#[cfg(test)]
mod tests;
