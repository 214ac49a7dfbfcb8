//! The brain of the turn loop: what a run does next, as a function of what it is.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::Catalog;
use super::event::{AbortReason, Body, Draft, FinishReason, Outcome, RunError, RunResult, Usage};
use super::id::CallId;
use super::limits;
use super::message::Message;
use super::request::{Request, ToolOffer};
use super::spec::{OnLimit, Spec};
use super::state::{Call, State, Status};

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
    /// Close these calls without running them: a limit is met, and one last turn follows.
    RefuseCalls(Vec<CallId>),
    /// Commit these events; the last one ends the run.
    Finish(Ending),
}

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
    fn completed(stop_reason: &'static str) -> Ending {
        Ending {
            status: Status::Completed,
            stop_reason,
            message: String::new(),
            retryable: false,
            details: Value::Null,
        }
    }

    /// A failure.
    pub fn failed(stop_reason: &'static str, message: String, details: Value) -> Ending {
        let retryable =
            matches!(stop_reason, "model_error" | "max_time" | "turn_timeout" | "crash_loop");
        Ending { status: Status::Failed, stop_reason, message, retryable, details }
    }
}

/// Decides the next step. It always answers.
pub fn decide(spec: &Spec, state: &State, clock: &Clock) -> Step {
    if state.status.is_terminal() {
        return Step::Stop;
    }
    if state.cancelled_by.is_some() {
        return Step::Finish(Ending {
            status: Status::Cancelled,
            ..Ending::completed("cancelled")
        });
    }
    if let Some(ending) = out_of_bounds(spec, state, clock) {
        return Step::Finish(ending);
    }
    if state.open.is_some() {
        return Step::AbandonAttempt;
    }
    if let Some(ending) = tool_error(spec, state) {
        return Step::Finish(ending);
    }
    if let Some(ending) = cut_turn(state) {
        return Step::Finish(ending);
    }
    let open: Vec<&Call> = state.open_calls().collect();
    let limit = limit_met(spec, state, &open);
    if !open.is_empty() {
        return match limit {
            None => Step::CallTools(open.iter().map(|call| call.call_id.clone()).collect()),
            Some(met) => at_limit(spec, state, met, &open),
        };
    }
    if state.failures.is_empty()
        && let Some(ending) = last_turn_ends(state)
    {
        return Step::Finish(ending);
    }
    let next = state.turn_count().saturating_add(1);
    let with_tools = match limit {
        None => true,
        Some(_) if finalizing(state) => false,
        Some(met) => match spec.config.on_limit {
            OnLimit::Fail => return Step::Finish(met.failure(spec)),
            OnLimit::Finalize => false,
        },
    };
    call_model(spec, state, next, with_tools)
}

/// Time and crashes, which end a run at once, whatever it is doing.
fn out_of_bounds(spec: &Spec, state: &State, clock: &Clock) -> Option<Ending> {
    let config = &spec.config;
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
    let in_turn =
        state.open.is_some() || !state.failures.is_empty() || state.open_calls().next().is_some();
    if in_turn && clock.turn_elapsed.as_secs_f64() >= config.timeout_per_turn {
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

/// A tool that ran and failed ends the run where the run says so.
fn tool_error(spec: &Spec, state: &State) -> Option<Ending> {
    if !spec.config.stop_on_tool_error {
        return None;
    }
    let failed = state.calls().find(|call| {
        call.answer.as_ref().is_some_and(|answer| answer.is_error && answer.try_number > 0)
    })?;
    let answer = failed.answer.as_ref()?;
    let said = match &answer.result {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some(Ending::failed(
        "tool_error",
        format!("the tool `{}` failed: {said}", failed.tool_name),
        json!({"tool_name": failed.tool_name, "call_id": failed.call_id}),
    ))
}

/// A limit that is no time limit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    Turns,
    Tokens,
    Calls,
}

impl Limit {
    fn stop_reason(self) -> &'static str {
        match self {
            Limit::Turns => "max_turns",
            Limit::Tokens => "max_total_tokens",
            Limit::Calls => "max_tool_calls",
        }
    }

    fn failure(self, spec: &Spec) -> Ending {
        let config = &spec.config;
        let (message, bound) = match self {
            Limit::Turns => (
                format!("all {} turns are used and the model still wants tools", config.max_turns),
                json!({"max_turns": config.max_turns}),
            ),
            Limit::Tokens => (
                "the tokens allowed by max_total_tokens are used up".to_owned(),
                json!({"max_total_tokens": config.max_total_tokens}),
            ),
            Limit::Calls => (
                "the turn's calls would pass max_tool_calls".to_owned(),
                json!({"max_tool_calls": config.max_tool_calls}),
            ),
        };
        Ending::failed(self.stop_reason(), message, bound)
    }
}

fn limit_met(spec: &Spec, state: &State, open: &[&Call]) -> Option<Limit> {
    let config = &spec.config;
    if state.turn_count() >= config.max_turns {
        return Some(Limit::Turns);
    }
    if let (Some(bound), Some(used)) = (config.max_total_tokens, state.usage.total_tokens)
        && used >= bound
    {
        return Some(Limit::Tokens);
    }
    let new = open.iter().filter(|call| call.tries == 0).count();
    match config.max_tool_calls {
        Some(bound) => {
            let calls = state.calls_started() + new;
            let passes = u32::try_from(calls).unwrap_or(u32::MAX) > bound;
            (passes || (finalizing(state) && state.refused_turn.is_some())).then_some(Limit::Calls)
        }
        None => None,
    }
}

/// Whether a limit has refused calls: the next turn, or the last one, has no tools.
fn finalizing(state: &State) -> bool {
    state.refused_turn.is_some()
}

fn at_limit(spec: &Spec, state: &State, met: Limit, open: &[&Call]) -> Step {
    let started: Vec<CallId> =
        open.iter().filter(|call| call.tries > 0).map(|call| call.call_id.clone()).collect();
    if !started.is_empty() {
        // They ran before the limit was met, or a crash came between: they are seen through.
        return Step::CallTools(started);
    }
    let after_refusal = state.refused_turn.is_some_and(|refused| refused < state.turn);
    match spec.config.on_limit {
        OnLimit::Fail => Step::Finish(met.failure(spec)),
        OnLimit::Finalize if after_refusal => Step::Finish(Ending::completed(met.stop_reason())),
        OnLimit::Finalize => {
            Step::RefuseCalls(open.iter().map(|call| call.call_id.clone()).collect())
        }
    }
}

/// The end where the last turn broke off or ended for an unknown reason: none of its calls runs.
fn cut_turn(state: &State) -> Option<Ending> {
    let turn = state.turns.last()?;
    match turn.finish_reason {
        FinishReason::Stop | FinishReason::ToolCalls => None,
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
        FinishReason::Other => {
            let raw = turn.finish_reason_raw.as_deref().unwrap_or("other");
            Some(Ending::failed(
                "model_error",
                format!("the model ended for a reason that is not known here: `{raw}`"),
                json!({"finish_reason": raw}),
            ))
        }
    }
}

/// The end where the last turn asked for no tool.
fn last_turn_ends(state: &State) -> Option<Ending> {
    let turn = state.turns.last()?;
    let refused = state.refused_turn.is_some_and(|refused| refused < turn.number);
    turn.calls.is_empty().then(|| Ending::completed(if refused { "limit" } else { "end_turn" }))
}

/// The next call of a model, or the end where all models have failed.
fn call_model(spec: &Spec, state: &State, turn: u32, with_tools: bool) -> Step {
    let attempt = if state.turn == turn { state.attempt + 1 } else { 1 };
    if state.failures.is_empty() {
        return Step::CallModel {
            model: spec.model().to_owned(),
            turn,
            attempt,
            wait: Duration::ZERO,
            with_tools,
        };
    }
    match (next_model(spec, state), state.retry_in) {
        (Some(model), Some(wait)) => Step::CallModel {
            model,
            turn,
            attempt,
            wait: Duration::try_from_secs_f64(wait).unwrap_or_default(),
            with_tools,
        },
        (_, _) => Step::Finish(model_error(state)),
    }
}

/// The model that is asked after these failures: the same one until it has had its attempts or can
/// never answer, then the next fallback.
fn next_model(spec: &Spec, state: &State) -> Option<String> {
    let spent = |name: &String| {
        let failed = || state.failures.iter().filter(|failure| failure.model == *name);
        let attempts = u32::try_from(failed().count()).unwrap_or(u32::MAX);
        attempts >= limits::ATTEMPTS_PER_MODEL
            || failed().any(|failure| matches!(failure.provider_status, Some(401 | 403 | 404)))
    };
    spec.agent.model.0.iter().find(|name| !spent(name)).cloned()
}

fn model_error(state: &State) -> Ending {
    let told = |failure: &super::state::FailedAttempt| {
        json!({"model": failure.model, "status": failure.provider_status,
               "message": failure.message})
    };
    let first = state.failures.first();
    let last = state.failures.last();
    let message = last.map_or_else(
        || "the model could not be called".to_owned(),
        |last| format!("the model `{}` failed: {}", last.model, last.message),
    );
    Ending::failed(
        "model_error",
        message,
        json!({"first": first.map(told), "last": last.map(told)}),
    )
}

/// What a failure of the model means: tried again after a wait, or the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// Whether the same call may do better, or (else) only another model.
    pub same_model: bool,
    /// How long the provider asks us to wait at least.
    pub retry_after: Option<Duration>,
    /// A number in 0..1, for jitter.
    pub jitter: f64,
}

/// The wait before the next attempt after one more failure, or none where that was the last: backoff
/// from half a second, doubled for each failure of the turn, at most 30 s, with jitter, at least what
/// the provider asks for, and never past the turn's or the run's time.
pub fn retry_in(
    spec: &Spec,
    state: &State,
    failed: &super::state::FailedAttempt,
    retry: &Retry,
    clock: &Clock,
) -> Option<Duration> {
    let mut after = state.clone();
    after.failures.push(failed.clone());
    let next = next_model(spec, &after)?;
    let same = next == failed.model;
    if same && !retry.same_model {
        return None;
    }
    let wait = if same {
        let doublings = i32::try_from(after.failures.len().min(7)).unwrap_or(7) - 1;
        let backoff = (0.5 * 2f64.powi(doublings)).min(30.0);
        let backoff = Duration::from_secs_f64(backoff * (0.5 + retry.jitter.clamp(0.0, 1.0) / 2.0));
        backoff.max(retry.retry_after.unwrap_or_default())
    } else {
        Duration::ZERO
    };
    let left_of = |limit: f64, used: Duration| limit - used.as_secs_f64();
    let left = left_of(spec.config.timeout_per_turn, clock.turn_elapsed)
        .min(left_of(spec.config.max_time, clock.elapsed));
    (wait.as_secs_f64() < left).then_some(wait)
}

/// The request of the next model call.
pub fn request(spec: &Spec, state: &State, catalog: &Catalog, with_tools: bool) -> Request {
    let mut messages = state.history(spec);
    renumber(&mut messages);
    let tools = if with_tools { spec.agent.tools.as_slice() } else { &[] };
    let mut settings = spec.agent.model_settings.clone();
    if tools.is_empty() {
        settings.tool_choice = None;
    }
    Request {
        instructions: spec.instructions(&state.variables(spec)),
        messages,
        tools: tools
            .iter()
            .map(|tool| {
                let builtin = catalog.builtin(&tool.name);
                ToolOffer {
                    name: tool.name.clone(),
                    description: tool
                        .description
                        .clone()
                        .or_else(|| builtin.map(|one| one.description.clone())),
                    parameters: tool
                        .parameters
                        .clone()
                        .or_else(|| builtin.map(|one| one.parameters.clone()))
                        .unwrap_or_else(|| json!({"type": "object"})),
                }
            })
            .collect(),
        settings,
        output_schema: spec.agent.output_schema.clone(),
    }
}

/// Numbers call ids anew by their place: providers refuse ids that are long or come twice.
fn renumber(messages: &mut [Message]) {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut count = 0;
    for message in messages {
        match message {
            Message::Assistant { tool_calls, .. } => {
                for call in tool_calls {
                    count += 1;
                    let name = format!("call_{count}");
                    names.insert(std::mem::replace(&mut call.call_id, name.clone()), name);
                }
            }
            Message::Tool { call_id, .. } => {
                if let Some(name) = names.get(call_id) {
                    call_id.clone_from(name);
                }
            }
            Message::User { .. } => {}
        }
    }
}

/// The events that end a run: the open attempt is closed, every open call gets its answer, and the
/// terminal event is the last. So the history is always valid for a next run.
pub fn finish(
    spec: &Spec,
    state: &State,
    run_id: &str,
    ending: &Ending,
    clock: &Clock,
) -> Vec<Draft> {
    let mut after = state.clone();
    let mut drafts = Vec::new();
    let mut draft = |body: Body| {
        drafts.push(Draft { turn: state.turn, attempt: state.attempt.max(1), body });
    };
    if let Some(open) = after.open.take() {
        let cancelled = ending.status == Status::Cancelled;
        draft(Body::TurnAborted {
            reason: if cancelled { AbortReason::Cancelled } else { AbortReason::Limit },
            provider_status: None,
            message: None,
            discard_from_seq: open.started,
            retry_in: None,
            elapsed_time: None,
            usage: None,
        });
        after.partial = (!open.text.is_empty()).then_some(open.text);
    }
    for call in state.open_calls() {
        draft(closing(call));
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
        stop_reason: stop_reason(spec, state, ending).to_owned(),
        error,
        usage: Usage { ..state.usage.clone() },
        turn_count: state.turn_count(),
        elapsed_time: clock.elapsed.as_secs_f64(),
        variables: state.variables(spec),
    };
    let run_id = run_id.to_owned();
    draft(match ending.status {
        Status::Completed => Body::RunCompleted { run_id, result },
        Status::Cancelled => Body::RunCancelled { run_id, result },
        Status::Failed | Status::Queued | Status::Running => Body::RunFailed { run_id, result },
    });
    drafts
}

/// A last turn that answered well is told by the limit that made it the last.
fn stop_reason(spec: &Spec, state: &State, ending: &Ending) -> &'static str {
    if ending.stop_reason != "limit" {
        return ending.stop_reason;
    }
    limit_met(spec, state, &[]).map_or("end_turn", Limit::stop_reason)
}

/// The answer to a call that will not be seen through.
pub fn closing(call: &Call) -> Body {
    let maybe_done = call.tries > 0 && call.effect != super::event::Effect::Read;
    let (outcome, words) = if maybe_done {
        (
            Outcome::Unknown,
            "The call was started and its outcome is not known: it may or may not have taken \
             effect. Check before doing it again.",
        )
    } else {
        (Outcome::Cancelled, "The call was not run.")
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
