//! What a run may use up beside its time: which limit is met, and which turn it makes the last.

use serde_json::json;

use super::decide::Step;
use super::ending::Ending;
use super::id::CallId;
use super::raise::Limits;
use super::spec::{OnLimit, Spec};
use super::state::{Call, State, Turn, Used};

/// A limit that is no time limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Limit {
    Turns,
    Tokens,
    Cost,
    Calls,
}

impl Limit {
    /// The limit as a stop reason.
    pub(super) fn stop_reason(self) -> &'static str {
        match self {
            Limit::Turns => "max_turns",
            Limit::Tokens => "max_total_tokens",
            Limit::Cost => "max_cost_usd",
            Limit::Calls => "max_tool_calls",
        }
    }

    /// The end where a run fails at the limit.
    pub(super) fn failure(self, spec: &Spec, state: &State) -> Ending {
        let config = state.limits(spec);
        let (message, bound) = match self {
            Limit::Turns => (
                format!("all {} turns are used and the model still wants tools", config.max_turns),
                json!({"max_turns": config.max_turns}),
            ),
            Limit::Tokens => (
                "the tokens allowed by max_total_tokens are used up".to_owned(),
                json!({"max_total_tokens": config.max_total_tokens}),
            ),
            Limit::Cost => (
                "the money allowed by max_cost_usd is used up".to_owned(),
                json!({"max_cost_usd": config.max_cost_usd}),
            ),
            Limit::Calls => (
                "the turn's calls would pass max_tool_calls".to_owned(),
                json!({"max_tool_calls": config.max_tool_calls}),
            ),
        };
        Ending::failed(self.stop_reason(), message, bound)
    }
}

/// The limit that keeps the open calls from running; where none is open, that keeps the model from
/// being called with tools.
pub(super) fn met(spec: &Spec, state: &State) -> Option<Limit> {
    let limits = state.limits(spec);
    used_up(&limits, state.turn_count(), state.used()).or_else(|| {
        let new = state.open_calls().filter(|call| call.tries == 0).count();
        let calls = u32::try_from(state.calls_started() + new).unwrap_or(u32::MAX);
        let passes = limits.max_tool_calls.is_some_and(|bound| calls > bound);
        // Calls that were refused count no more, but what refused them still holds.
        (passes || refused_turn(spec, state).is_some()).then_some(Limit::Calls)
    })
}

fn used_up(limits: &Limits, turns: u32, used: Used) -> Option<Limit> {
    if turns >= limits.max_turns {
        return Some(Limit::Turns);
    }
    if let (Some(tokens), Some(bound)) = (used.tokens, limits.max_total_tokens)
        && tokens >= bound
    {
        return Some(Limit::Tokens);
    }
    let (cost, bound) = used.cost_usd.zip(limits.max_cost_usd)?;
    (cost >= bound).then_some(Limit::Cost)
}

/// The turn whose calls a limit refused, as long as that limit was not raised: then what it has
/// refused is no more a reason to offer no tools, and whether one is met is asked anew. A change that
/// raises another limit, or nothing, changes nothing.
fn refused_turn(spec: &Spec, state: &State) -> Option<u32> {
    let refused = state.refused.as_ref()?;
    let (then, now) = (refused.raised.over(&spec.config), state.limits(spec));
    let is_raised = match used_up(&then, refused.turn, refused.used) {
        Some(Limit::Turns) => now.max_turns > then.max_turns,
        Some(Limit::Tokens) => now.max_total_tokens > then.max_total_tokens,
        Some(Limit::Cost) => now.max_cost_usd > then.max_cost_usd,
        Some(Limit::Calls) | None => now.max_tool_calls > then.max_tool_calls,
    };
    (!is_raised).then_some(refused.turn)
}

/// The limit that made this turn the run's last, one without tools, if any did.
pub(super) fn made_last(spec: &Spec, state: &State, turn: &Turn) -> Option<Limit> {
    match spec.config.on_limit {
        OnLimit::Fail => None,
        OnLimit::Finalize => {
            used_up(&state.limits(spec), turn.number.saturating_sub(1), turn.used_before).or_else(
                || {
                    let refused = refused_turn(spec, state);
                    let refused = refused.is_some_and(|refused| refused < turn.number);
                    refused.then_some(Limit::Calls)
                },
            )
        }
    }
}

/// What becomes of calls that a limit keeps from running.
pub(super) fn step_with_open_calls(spec: &Spec, state: &State, met: Limit, open: &[&Call]) -> Step {
    let ids = |calls: &mut dyn Iterator<Item = &&Call>| -> Vec<CallId> {
        calls.map(|call| call.call_id.clone()).collect()
    };
    let started = ids(&mut open.iter().filter(|call| call.tries > 0));
    if !started.is_empty() {
        // A crash came between: what was begun within the limit is seen through.
        return Step::CallTools(started);
    }
    match (spec.config.on_limit, state.turns.last().and_then(|turn| made_last(spec, state, turn))) {
        (OnLimit::Fail, _) => Step::Finish(met.failure(spec, state)),
        (OnLimit::Finalize, Some(limit)) => Step::Finish(Ending::completed(limit.stop_reason())),
        (OnLimit::Finalize, None) => Step::RefuseCalls(ids(&mut open.iter())),
    }
}
