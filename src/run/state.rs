//! The fold: what a run is after the events of its log. It cannot fail.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::event::{
    AbortReason, Body, Draft, Effect, Event, Executor, FinishReason, Outcome, OutputPart,
    RunResult, Usage,
};
use super::id::{CallId, Seq};
use super::spec::Spec;

/// The five statuses, and no others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Status {
    #[default]
    Queued,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl Status {
    /// Whether it never changes again.
    pub fn is_terminal(self) -> bool {
        match self {
            Status::Queued | Status::Running => false,
            Status::Completed | Status::Failed | Status::Cancelled => true,
        }
    }

    /// The status of this name.
    pub fn parse(name: &str) -> Option<Status> {
        [Status::Queued, Status::Running, Status::Completed, Status::Failed, Status::Cancelled]
            .into_iter()
            .find(|status| status.name() == name)
    }

    /// As clients see it.
    pub fn name(self) -> &'static str {
        match self {
            Status::Queued => "QUEUED",
            Status::Running => "RUNNING",
            Status::Completed => "COMPLETED",
            Status::Failed => "FAILED",
            Status::Cancelled => "CANCELLED",
        }
    }
}

/// A run after some prefix of its log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Queued until a node begins to drive it.
    pub status: Status,
    /// The last event that was applied.
    pub last_seq: Seq,
    /// The turn under way, or the last one; 0 before the first.
    pub turn: u32,
    /// Attempts at that turn so far.
    pub attempt: u32,
    /// The highest output item so far, void ones included: their numbers are not used again.
    pub last_item: u32,
    /// The model's whole messages, in order.
    pub turns: Vec<Turn>,
    /// The attempt that is under way: started, neither completed nor aborted.
    pub open: Option<OpenAttempt>,
    /// The aborted attempts at the turn under way that were the model's failures.
    pub failures: Vec<FailedAttempt>,
    /// The wait that the last aborted attempt announced; none where it was the last.
    pub retry_in: Option<f64>,
    /// The text that a cut left standing, for `final_output`.
    pub partial: Option<String>,
    /// What was used, void attempts included.
    pub usage: Usage,
    /// Variables that tools set.
    pub variables: Map<String, Value>,
    /// Deaths of nodes since the last finished turn, as the last start said.
    pub crashes: u32,
    /// Who asked for the cancel that has been read, if anybody has.
    pub cancelled_by: Option<String>,
    /// The last turn whose calls a limit kept from running.
    pub refused_turn: Option<u32>,
    /// The first start's time, and the terminal event's.
    pub started_at: Option<String>,
    /// When it ended.
    pub finished_at: Option<String>,
    /// What it came to, once it has ended.
    pub result: Option<RunResult>,
    /// The events' times, the last one.
    pub last_at: String,
}

/// A committed turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// Its number.
    pub number: u32,
    /// Its text and reasoning.
    pub parts: Vec<OutputPart>,
    /// What it asked for, in order.
    pub calls: Vec<Call>,
    /// Why the model's message ended.
    pub finish_reason: FinishReason,
    /// The provider's own word for that, where ours is `other`.
    pub finish_reason_raw: Option<String>,
    /// The model that answered.
    pub model: String,
    /// The run's tokens when the attempt that answered began: a limit met by then made it the last.
    pub tokens_before: Option<u64>,
}

impl Turn {
    /// The turn's answer text, if it has any.
    pub fn text(&self) -> Option<String> {
        let text: String = self
            .parts
            .iter()
            .filter_map(|part| match part {
                OutputPart::Text { text, .. } => Some(text.as_str()),
                OutputPart::Reasoning { .. } => None,
            })
            .collect();
        (!text.is_empty()).then_some(text)
    }
}

/// A tool call and how far it has come.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the event `tool_call`")]
pub struct Call {
    pub item: u32,
    pub call_id: CallId,
    pub provider_call_id: Option<String>,
    pub tool_name: String,
    pub arguments: Value,
    pub arguments_raw: String,
    pub executor: Executor,
    pub effect: Effect,
    pub provider_metadata: Option<Value>,
    /// How often it was started.
    pub tries: u32,
    /// How it ended.
    pub answer: Option<CallAnswer>,
}

/// How a tool call ended.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the event `tool_result`")]
pub struct CallAnswer {
    pub result: Value,
    pub is_error: bool,
    pub outcome: Outcome,
    pub try_number: u32,
    pub elapsed_time: f64,
}

impl CallAnswer {
    /// The answer as a model reads it: a text as it is, anything else as JSON.
    pub fn text(&self) -> String {
        match &self.result {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// An attempt at a turn that is under way.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenAttempt {
    /// The `turn.started` that began it; from here on its output is void if it is aborted.
    pub started: Seq,
    /// The model that was called.
    pub model: String,
    /// The run's tokens when it began.
    pub tokens_before: Option<u64>,
    /// The committed text so far.
    pub text: String,
    /// Calls whose `tool_call` is committed and whose `turn.completed` is not.
    pub calls: Vec<Call>,
}

/// An attempt that the model failed.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the event `turn.aborted`")]
pub struct FailedAttempt {
    pub model: String,
    pub reason: AbortReason,
    pub provider_status: Option<u16>,
    pub message: String,
}

impl State {
    /// The state after a whole log, or any prefix of one.
    pub fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> State {
        let mut state = State::default();
        for event in events {
            state.apply(event);
        }
        state
    }

    /// Takes one more event in. It cannot fail: what is stored is so, and a log that folded
    /// yesterday must fold today.
    pub fn apply(&mut self, event: &Event) {
        self.last_seq = event.seq;
        self.last_at.clone_from(&event.at);
        self.turn = self.turn.max(event.turn);
        self.attempt = event.attempt;
        match &event.body {
            Body::RunQueued { .. } | Body::Input { .. } | Body::Log { .. } => {}
            Body::RunStarted { crashes, .. } => {
                self.status = Status::Running;
                self.crashes = *crashes;
                self.started_at.get_or_insert_with(|| event.at.clone());
            }
            Body::CancelRequested { by, .. } => self.cancelled_by = Some(by.clone()),
            Body::VariablesSet { values } => self.variables.extend(values.clone()),
            Body::RunCompleted { result, .. } => self.end(Status::Completed, result, &event.at),
            Body::RunFailed { result, .. } => self.end(Status::Failed, result, &event.at),
            Body::RunCancelled { result, .. } => self.end(Status::Cancelled, result, &event.at),
            Body::TurnStarted { .. }
            | Body::Text { .. }
            | Body::Reasoning { .. }
            | Body::ToolCall { .. }
            | Body::TurnCompleted { .. }
            | Body::TurnAborted { .. } => self.apply_turn(event),
            Body::ToolStarted { call_id, try_number, .. } => {
                if let Some(call) = self.call_mut(call_id) {
                    call.tries = *try_number;
                }
            }
            Body::ToolResult {
                call_id,
                result,
                is_error,
                outcome,
                try_number,
                elapsed_time,
                ..
            } => {
                let answer = CallAnswer {
                    result: result.clone(),
                    is_error: *is_error,
                    outcome: *outcome,
                    try_number: *try_number,
                    elapsed_time: *elapsed_time,
                };
                if let Some(call) = self.call_mut(call_id) {
                    call.answer = Some(answer);
                }
                if *outcome == Outcome::Cancelled && *try_number == 0 {
                    self.refused_turn = Some(self.turn);
                }
            }
        }
    }

    /// Takes in a draft as the event that it will be, but for its time.
    pub fn apply_draft(&mut self, draft: &Draft) {
        let Draft { turn, attempt, body } = draft.clone();
        self.apply(&Event {
            seq: self.last_seq.next(),
            at: self.last_at.clone(),
            turn,
            attempt,
            body,
        });
    }

    fn apply_turn(&mut self, event: &Event) {
        match &event.body {
            Body::TurnStarted { model, .. } => {
                if event.attempt == 1 {
                    self.failures.clear();
                }
                self.partial = None;
                self.retry_in = None;
                self.open = Some(OpenAttempt {
                    started: event.seq,
                    model: model.clone(),
                    tokens_before: self.usage.total_tokens,
                    text: String::new(),
                    calls: Vec::new(),
                });
            }
            Body::Text { item, content } => {
                self.last_item = self.last_item.max(*item);
                if let Some(open) = &mut self.open {
                    open.text.push_str(content);
                }
            }
            Body::Reasoning { item, .. } => self.last_item = self.last_item.max(*item),
            Body::ToolCall { item, .. } => {
                self.last_item = self.last_item.max(*item);
                if let (Some(open), Some(call)) = (&mut self.open, Call::proposed(&event.body)) {
                    open.calls.push(call);
                }
            }
            Body::TurnCompleted {
                finish_reason, parts, usage, model, provider_metadata, ..
            } => {
                let (tokens_before, calls) = self
                    .open
                    .take()
                    .map_or((None, Vec::new()), |open| (open.tokens_before, open.calls));
                let last_item = parts.iter().map(OutputPart::item).max();
                self.last_item = self.last_item.max(last_item.unwrap_or_default());
                self.usage.add(usage);
                self.crashes = 0;
                self.failures.clear();
                self.turns.push(Turn {
                    number: event.turn,
                    parts: parts.clone(),
                    calls,
                    finish_reason: *finish_reason,
                    finish_reason_raw: provider_metadata
                        .as_ref()
                        .and_then(|opaque| opaque.get("finish_reason"))
                        .and_then(Value::as_str)
                        .map(str::to_owned),
                    model: model.clone(),
                    tokens_before,
                });
            }
            Body::TurnAborted {
                reason,
                provider_status,
                message,
                last_item,
                retry_in,
                usage,
                ..
            } => {
                self.last_item = self.last_item.max(*last_item);
                if let Some(usage) = usage {
                    self.usage.add(usage);
                }
                self.retry_in = *retry_in;
                let Some(open) = self.open.take() else { return };
                match reason {
                    AbortReason::Limit | AbortReason::Cancelled => {
                        self.partial = (!open.text.is_empty()).then_some(open.text);
                    }
                    AbortReason::Crash | AbortReason::Drain => {}
                    AbortReason::RateLimited
                    | AbortReason::Overloaded
                    | AbortReason::ProviderError
                    | AbortReason::Connection
                    | AbortReason::Stalled
                    | AbortReason::Cut => self.failures.push(FailedAttempt {
                        model: open.model,
                        reason: *reason,
                        provider_status: *provider_status,
                        message: message.clone().unwrap_or_default(),
                    }),
                }
            }
            Body::RunQueued { .. }
            | Body::Input { .. }
            | Body::RunStarted { .. }
            | Body::ToolStarted { .. }
            | Body::ToolResult { .. }
            | Body::VariablesSet { .. }
            | Body::CancelRequested { .. }
            | Body::Log { .. }
            | Body::RunCompleted { .. }
            | Body::RunFailed { .. }
            | Body::RunCancelled { .. } => {}
        }
    }

    fn end(&mut self, status: Status, result: &RunResult, at: &str) {
        self.status = status;
        self.result = Some(result.clone());
        self.finished_at = Some(at.to_owned());
    }

    fn call_mut(&mut self, id: &CallId) -> Option<&mut Call> {
        self.turns.iter_mut().rev().flat_map(|turn| &mut turn.calls).find(|one| one.call_id == *id)
    }

    /// How many turns are committed.
    pub fn turn_count(&self) -> u32 {
        u32::try_from(self.turns.len()).unwrap_or(u32::MAX)
    }

    /// All tool calls, in order.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.turns.iter().flat_map(|turn| &turn.calls)
    }

    /// The calls that have no answer yet, in order.
    pub fn open_calls(&self) -> impl Iterator<Item = &Call> {
        self.calls().filter(|call| call.answer.is_none())
    }

    /// How many calls were started at least once.
    pub fn calls_started(&self) -> usize {
        self.calls().filter(|call| call.tries > 0).count()
    }

    /// The variables as they are: the spec's, and over them what tools set.
    pub fn variables(&self, spec: &Spec) -> Map<String, Value> {
        let mut variables = spec.variables.clone();
        variables.extend(self.variables.clone());
        variables
    }

    /// The text of the turn that the run has come to: whole if it is committed, what there was of
    /// it if a cancel or a limit cut it, else none.
    pub fn final_output(&self) -> Option<String> {
        let of_last = || self.turns.last().filter(|turn| turn.number == self.turn)?.text();
        self.partial.clone().or_else(of_last)
    }

    /// Whether a turn has begun and not ended: its message is not whole, or calls are open.
    pub fn is_in_turn(&self) -> bool {
        self.turn > self.turns.last().map_or(0, |turn| turn.number)
            || self.open_calls().next().is_some()
    }
}

impl Call {
    /// The call that a `tool_call` event proposes.
    fn proposed(body: &Body) -> Option<Call> {
        let Body::ToolCall {
            item,
            call_id,
            provider_call_id,
            tool_name,
            arguments,
            arguments_raw,
            executor,
            effect,
            provider_metadata,
        } = body
        else {
            return None;
        };
        Some(Call {
            item: *item,
            call_id: call_id.clone(),
            provider_call_id: provider_call_id.clone(),
            tool_name: tool_name.clone(),
            arguments: arguments.clone(),
            arguments_raw: arguments_raw.clone(),
            executor: *executor,
            effect: *effect,
            provider_metadata: provider_metadata.clone(),
            tries: 0,
            answer: None,
        })
    }
}

#[cfg(test)]
mod tests;
