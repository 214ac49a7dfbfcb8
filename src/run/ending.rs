//! How a run ends, and the events that end it.

use serde_json::{Value, json};

use super::budget;
use super::decide::Clock;
use super::event::{
    AbortReason, Body, Draft, Effect, FinishReason, Outcome, RunError, RunResult, Usage,
};
use super::limits;
use super::spec::Spec;
use super::state::{Call, State, Status, Turn};

/// How a run ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// One of the three that end it.
    pub status: Status,
    /// Why, in one of the API's words.
    pub stop_reason: &'static str,
    /// Why, in a sentence; for failures.
    pub message: String,
    /// Whether the same request may do better later.
    pub retryable: bool,
    /// Whatever helps: the provider's status, the tool's name.
    pub details: Value,
}

impl Ending {
    /// A good end.
    pub(super) fn completed(stop_reason: &'static str) -> Ending {
        Ending {
            status: Status::Completed,
            stop_reason,
            message: String::new(),
            retryable: false,
            details: Value::Null,
        }
    }

    /// The end that somebody asked for.
    pub(super) fn cancelled() -> Ending {
        Ending { status: Status::Cancelled, ..Ending::completed("cancelled") }
    }

    /// A failure.
    pub fn failed(stop_reason: &'static str, message: String, details: Value) -> Ending {
        let retryable =
            matches!(stop_reason, "model_error" | "max_time" | "turn_timeout" | "crash_loop");
        Ending { status: Status::Failed, stop_reason, message, retryable, details }
    }
}

/// The end that the last turn brought by itself: it asked for no tool, or it broke off or ended for
/// an unknown reason, so that none of its calls runs.
pub(super) fn of_last_turn(spec: &Spec, state: &State) -> Option<Ending> {
    let turn = state.turns.last()?;
    match turn.finish_reason {
        FinishReason::Stop | FinishReason::ToolCalls => turn.calls.is_empty().then(|| {
            let limit = budget::made_last(spec, state, turn);
            Ending::completed(limit.map_or("end_turn", budget::Limit::stop_reason))
        }),
        FinishReason::Length => Some(Ending::failed(
            "max_output_tokens",
            "the model stopped at its output limit".to_owned(),
            Value::Null,
        )),
        FinishReason::ContentFilter => Some(Ending::failed(
            "content_filter",
            "the provider's content filter stopped the model".to_owned(),
            Value::Null,
        )),
        FinishReason::Other => Some(unknown_finish_reason(turn)),
    }
}

fn unknown_finish_reason(turn: &Turn) -> Ending {
    let raw = turn.finish_reason_raw.as_deref().unwrap_or("other");
    Ending::failed(
        "model_error",
        format!("the model ended for a reason that is not known here: `{raw}`"),
        json!({"finish_reason": raw}),
    )
}

/// A tool that ran and failed ends the run where the run says so.
pub(super) fn of_failed_tool(spec: &Spec, state: &State) -> Option<Ending> {
    if !spec.config.stop_on_tool_error {
        return None;
    }
    // Try 0 never ran: an unknown tool or wrong arguments are the model's error.
    let failed = state.calls().find(|call| {
        call.answer.as_ref().is_some_and(|answer| answer.is_error && answer.try_number > 0)
    })?;
    let answer = failed.answer.as_ref()?;
    let said: String = answer.text().chars().take(limits::ERROR_CHARS).collect();
    Some(Ending::failed(
        "tool_error",
        format!("the tool `{}` failed: {said}", failed.tool_name),
        json!({"tool_name": failed.tool_name, "call_id": failed.call_id}),
    ))
}

/// The events that end a run: the open attempt is closed, every open call gets its answer, and the
/// terminal event is the last. So the history is always valid for a next run. `open_usage`: what the
/// open attempt has used.
pub fn finish(
    spec: &Spec,
    state: &State,
    run_id: &str,
    ending: &Ending,
    clock: &Clock,
    open_usage: Option<Usage>,
) -> Vec<Draft> {
    let draft = |body: Body| Draft { turn: state.turn, attempt: state.attempt.max(1), body };
    let mut drafts = Vec::new();
    if let Some(open) = &state.open {
        let cancelled = ending.status == Status::Cancelled;
        drafts.push(draft(Body::TurnAborted {
            reason: if cancelled { AbortReason::Cancelled } else { AbortReason::Limit },
            provider_status: None,
            message: None,
            discard_from_seq: open.started,
            last_item: state.last_item,
            retry_in: None,
            elapsed_time: None,
            usage: open_usage,
        }));
    }
    drafts.extend(state.open_calls().map(closing).map(draft));
    let mut after = state.clone();
    for one in &drafts {
        after.apply_draft(one);
    }
    let error = (ending.status == Status::Failed).then(|| RunError {
        code: ending.stop_reason.to_owned(),
        message: ending.message.clone(),
        retryable: ending.retryable,
        details: ending.details.clone(),
    });
    let result = RunResult {
        final_output: after.final_output(),
        output: None,
        stop_reason: ending.stop_reason.to_owned(),
        error,
        usage: after.usage.clone(),
        turn_count: after.turn_count(),
        elapsed_time: clock.elapsed.as_secs_f64(),
        variables: after.variables(spec),
    };
    let run_id = run_id.to_owned();
    drafts.push(draft(match ending.status {
        Status::Completed => Body::RunCompleted { run_id, result },
        Status::Cancelled => Body::RunCancelled { run_id, result },
        Status::Failed | Status::Queued | Status::Running => Body::RunFailed { run_id, result },
    }));
    drafts
}

/// The answer to a call that will not be seen through.
pub fn closing(call: &Call) -> Body {
    let (outcome, words) = match (call.tries, call.effect) {
        (0, _) => (Outcome::Cancelled, "The call was not run."),
        (_, Effect::Read) => (Outcome::Cancelled, "The call was stopped before it had a result."),
        (_, Effect::Idempotent | Effect::Once) => (
            Outcome::Unknown,
            "The call was started and its outcome is not known: it may or may not have taken \
             effect. Check before doing it again.",
        ),
    };
    Body::ToolResult {
        item: call.item,
        call_id: call.call_id.clone(),
        tool_name: call.tool_name.clone(),
        result: Value::String(words.to_owned()),
        is_error: true,
        outcome,
        try_number: call.tries,
        http_status: None,
        truncated: None,
        elapsed_time: 0.0,
    }
}
