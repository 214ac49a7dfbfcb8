//! What a run is after the events of its log.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::event::{
    AbortReason, Effect, Executor, FinishReason, Outcome, OutputPart, RunResult, Usage,
};
use super::id::{CallId, Seq};
use super::raise::{Limits, Raise};
use super::spec::{Config, Spec};

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
    /// All of them, in the order of a run's life.
    pub const ALL: [Status; 5] =
        [Status::Queued, Status::Running, Status::Completed, Status::Failed, Status::Cancelled];

    /// Whether it never changes again.
    pub fn is_terminal(self) -> bool {
        match self {
            Status::Queued | Status::Running => false,
            Status::Completed | Status::Failed | Status::Cancelled => true,
        }
    }

    /// The status of this name.
    pub fn parse(name: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.name() == name)
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
    /// How long it has waited in line behind other suspects: none of its time.
    pub waited: Duration,
    /// The trace that the run belongs to, where whoever created it said so.
    pub traceparent: Option<String>,
    /// Limits that were raised since it was created.
    pub raised: Raise,
    /// The labels that replaced the spec's, if any did.
    pub metadata: Option<Map<String, Value>>,
    /// Who asked for the cancel that has been read, if anybody has.
    pub cancelled_by: Option<String>,
    /// The last turn whose calls a limit kept from running.
    pub refused: Option<Refused>,
    /// The first start's time, and the terminal event's.
    pub started_at: Option<String>,
    /// When it ended.
    pub finished_at: Option<String>,
    /// What it came to, once it has ended.
    pub result: Option<RunResult>,
    /// The events' times, the last one.
    pub last_at: String,
}

/// What counts against the limits of tokens and money.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// Tokens, void attempts included.
    pub tokens: Option<u64>,
    /// Money, void attempts included.
    pub cost_usd: Option<f64>,
}

/// A turn whose calls a limit kept from running, and what held then: from it follows which limit
/// that was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refused {
    /// The turn's number.
    pub turn: u32,
    /// What had been used.
    pub used: Used,
    /// What had been raised.
    pub raised: Raise,
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
    /// What was used when the attempt that answered began: a limit met by then made it the last.
    pub used_before: Used,
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
    /// What the run had used when it began.
    pub used_before: Used,
    /// The committed text so far.
    pub text: String,
    /// Bytes of the committed text and reasoning so far.
    pub output_bytes: u64,
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
    /// The model could not be asked again in time: `retry_in` was 0, and no model is asked again
    /// without a wait.
    pub is_left: bool,
}

impl State {
    /// What has been used so far.
    pub fn used(&self) -> Used {
        Used { tokens: self.usage.total_tokens, cost_usd: self.usage.cost_usd }
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

    /// The limits that hold: the spec's, as raised since.
    pub fn limits(&self, spec: &Spec) -> Limits {
        self.raised.over(&spec.config)
    }

    /// The labels as they are.
    pub fn metadata<'a>(&'a self, spec: &'a Spec) -> &'a Map<String, Value> {
        self.metadata.as_ref().unwrap_or(&spec.config.metadata)
    }

    /// The config as it holds now.
    pub fn config(&self, spec: &Spec) -> Config {
        let Limits {
            max_turns,
            max_time,
            timeout_per_turn,
            max_total_tokens,
            max_cost_usd,
            max_tool_calls,
        } = self.limits(spec);
        Config {
            max_turns,
            max_time,
            timeout_per_turn,
            max_total_tokens,
            max_cost_usd,
            max_tool_calls,
            metadata: self.metadata(spec).clone(),
            ..spec.config.clone()
        }
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
