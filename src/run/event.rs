//! The events of a run: the only form in which facts are stored, promised to be readable for ever.
//!
//! The stored text of an event is `{"seq":…,"at":…,"type":…,"turn":…,"attempt":…,…}`. Whoever makes
//! the event serialises everything behind `at` ([`Draft::to_text`]); the journal puts `seq` and
//! `at` before it. Fields are only ever added; `tests/logs/` holds logs of every release.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::id::{CallId, Seq};
use super::message::{Content, Part};
use super::raise::Raise;
pub use super::usage::Usage;

/// The version of the log's form, in `run.queued`.
pub const FORMAT: u32 = 1;

/// A committed event.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Event {
    /// Its place in the log.
    pub seq: Seq,
    /// When it was committed, RFC 3339 UTC with milliseconds; never before the event before it.
    pub at: String,
    /// The turn, 0 before the first.
    pub turn: u32,
    /// How many attempts at this turn there have been (turn 0: 1).
    pub attempt: u32,
    /// What happened.
    #[serde(flatten)]
    pub body: Body,
}

/// An event on its way to the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// The turn, 0 before the first.
    pub turn: u32,
    /// How many attempts at this turn there have been.
    pub attempt: u32,
    /// What happened.
    pub body: Body,
}

impl Draft {
    /// The event's stored text without its first brace, `seq` and `at`:
    /// `"type":"text","turn":1,"attempt":1,"item":1,"content":"…"}`.
    pub fn to_text(&self) -> String {
        let body = serde_json::to_string(&self.body).expect("an event body is plain data");
        let name = self.body.name();
        // `{"type":"NAME"` stands at the head of every serialised body.
        let rest = &body[r#"{"type":"""#.len() + name.len()..];
        format!(r#""type":"{name}","turn":{},"attempt":{}{rest}"#, self.turn, self.attempt)
    }
}

/// What happened. What the agent says is a bare noun, what happens is `noun.verb`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
#[expect(missing_docs, reason = "the fields are described, with their meaning, in docs/events.md")]
pub enum Body {
    /// The run was created.
    #[serde(rename = "run.queued")]
    RunQueued {
        format: u32,
        run_id: String,
        uuid: String,
        agent: AgentRef,
        model: String,
        by: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent_run_id: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        continued_from: Option<String>,
        input: Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        truncated: Option<bool>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        traceparent: Option<String>,
    },
    /// A message for a run that is under way.
    #[serde(rename = "input")]
    Input { content: Content, by: String },
    /// A node began to drive the run.
    #[serde(rename = "run.started")]
    RunStarted {
        node: String,
        reason: StartReason,
        crashes: u32,
        elapsed: f64,
        turn_elapsed: f64,
        waited: f64,
    },
    /// The model is about to be called.
    #[serde(rename = "turn.started")]
    TurnStarted { model: String, request_sha256: String },
    /// Answer text, deltas merged.
    #[serde(rename = "text")]
    Text { item: u32, content: String },
    /// The model's visible reasoning.
    #[serde(rename = "reasoning")]
    Reasoning {
        item: u32,
        content: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider_metadata: Option<Value>,
    },
    /// The model asked for a tool; its arguments are complete.
    #[serde(rename = "tool_call")]
    ToolCall {
        item: u32,
        call_id: CallId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider_call_id: Option<String>,
        tool_name: String,
        arguments: Value,
        arguments_raw: String,
        executor: Executor,
        effect: Effect,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider_metadata: Option<Value>,
    },
    /// The model's message is whole.
    #[serde(rename = "turn.completed")]
    TurnCompleted {
        finish_reason: FinishReason,
        parts: Vec<OutputPart>,
        usage: Usage,
        model: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider_request_id: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider_metadata: Option<Value>,
        elapsed_time: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first_output_time: Option<f64>,
    },
    /// This attempt's output is void.
    #[serde(rename = "turn.aborted")]
    TurnAborted {
        reason: AbortReason,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider_status: Option<u16>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        discard_from_seq: Seq,
        /// The highest item number so far: void ones are not used again, and whoever folds the log
        /// without the deltas of ended attempts can't see them.
        #[serde(default)]
        last_item: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_in: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        elapsed_time: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
    },
    /// The tool is about to be called.
    #[serde(rename = "tool.started")]
    ToolStarted {
        item: u32,
        call_id: CallId,
        #[serde(rename = "try")]
        try_number: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failed_before: Option<FailedTry>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child_run_id: Option<String>,
    },
    /// How the call ended.
    #[serde(rename = "tool_result")]
    ToolResult {
        item: u32,
        call_id: CallId,
        tool_name: String,
        result: Value,
        is_error: bool,
        outcome: Outcome,
        #[serde(rename = "try")]
        try_number: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        http_status: Option<u16>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        truncated: Option<bool>,
        elapsed_time: f64,
    },
    /// A tool set variables.
    #[serde(rename = "variables.set")]
    VariablesSet { values: Map<String, Value> },
    /// Somebody asked for the run to be cancelled.
    #[serde(rename = "cancel.requested")]
    CancelRequested {
        by: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Its limits were raised, or its labels replaced.
    #[serde(rename = "run.updated")]
    RunUpdated {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metadata: Option<Map<String, Value>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limits: Option<Raise>,
        by: String,
    },
    /// A detail, where the run is `verbose`.
    #[serde(rename = "log")]
    Log { level: String, message: String, data: Value },
    /// The run has ended well.
    #[serde(rename = "run.completed")]
    RunCompleted { run_id: String, result: RunResult },
    /// The run has failed.
    #[serde(rename = "run.failed")]
    RunFailed { run_id: String, result: RunResult },
    /// The run was cancelled.
    #[serde(rename = "run.cancelled")]
    RunCancelled { run_id: String, result: RunResult },
}

impl Body {
    /// The event's type, as in its JSON and in a stream's `event:` line.
    pub fn name(&self) -> &'static str {
        match self {
            Body::RunQueued { .. } => "run.queued",
            Body::Input { .. } => "input",
            Body::RunStarted { .. } => "run.started",
            Body::TurnStarted { .. } => "turn.started",
            Body::Text { .. } => "text",
            Body::Reasoning { .. } => "reasoning",
            Body::ToolCall { .. } => "tool_call",
            Body::TurnCompleted { .. } => "turn.completed",
            Body::TurnAborted { .. } => "turn.aborted",
            Body::ToolStarted { .. } => "tool.started",
            Body::ToolResult { .. } => "tool_result",
            Body::VariablesSet { .. } => "variables.set",
            Body::CancelRequested { .. } => "cancel.requested",
            Body::RunUpdated { .. } => "run.updated",
            Body::Log { .. } => "log",
            Body::RunCompleted { .. } => "run.completed",
            Body::RunFailed { .. } => "run.failed",
            Body::RunCancelled { .. } => "run.cancelled",
        }
    }

    /// The number under which stores keep the type. A number is never used for anything else.
    pub fn kind(&self) -> u8 {
        let name = self.name();
        let place = KINDS.iter().position(|kind| *kind == name).expect("every type has a number");
        u8::try_from(place).expect("there are few types")
    }

    /// A start is refused by the store once a cancel has been accepted.
    pub fn is_start(&self) -> bool {
        matches!(self, Body::TurnStarted { .. } | Body::ToolStarted { .. })
    }

    /// The last event of a log.
    pub fn is_terminal(&self) -> bool {
        is_terminal(self.kind())
    }
}

/// All types of this release, each at the place that is its stored number.
pub const KINDS: [&str; 18] = [
    "run.queued",
    "run.started",
    "turn.started",
    "text",
    "reasoning",
    "tool_call",
    "turn.completed",
    "turn.aborted",
    "tool.started",
    "tool_result",
    "variables.set",
    "cancel.requested",
    "log",
    "run.completed",
    "run.failed",
    "run.cancelled",
    "input",
    "run.updated",
];

/// The stored number of a type's name.
pub fn kind_of(name: &str) -> Option<u8> {
    KINDS.iter().position(|kind| *kind == name).and_then(|place| u8::try_from(place).ok())
}

/// Whether the type with this stored number ends a run.
pub fn is_terminal(kind: u8) -> bool {
    (13..=15).contains(&kind)
}

/// The agent of a run, by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentRef {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// Its version, where it is a stored agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
}

/// Why a node began to drive a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum StartReason {
    New,
    Drain,
    Crash,
    Inbox,
    Timer,
}

/// Who runs a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Executor {
    Server,
    Mcp,
    Client,
    Agent,
}

/// What a tool does to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing: it may be called again at will.
    Read,
    /// The same key twice does the same as once.
    Idempotent,
    /// Never call it again once it may have been called.
    Once,
}

/// Why the model's message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum FinishReason {
    Stop,
    ToolCalls,
    Length,
    ContentFilter,
    Other,
}

/// Why an attempt at a turn is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum AbortReason {
    RateLimited,
    Overloaded,
    ProviderError,
    Connection,
    Stalled,
    Cut,
    Crash,
    Drain,
    Limit,
    Cancelled,
}

/// How a tool call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Outcome {
    Ok,
    Error,
    Timeout,
    Denied,
    Cancelled,
    Unknown,
}

/// How the try before this one ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct FailedTry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    pub message: String,
    pub elapsed_time: f64,
}

/// One stretch of a turn's whole message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum OutputPart {
    Text {
        item: u32,
        text: String,
    },
    Reasoning {
        item: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider_metadata: Option<Value>,
    },
}

impl OutputPart {
    /// The number of the output item that it is.
    pub fn item(&self) -> u32 {
        match self {
            OutputPart::Text { item, .. } | OutputPart::Reasoning { item, .. } => *item,
        }
    }

    /// The part as it stands in a message.
    pub fn to_part(&self) -> Part {
        match self {
            OutputPart::Text { text, .. } => Part::Text { text: text.clone() },
            OutputPart::Reasoning { text, provider_metadata, .. } => {
                Part::Reasoning { text: text.clone(), provider_metadata: provider_metadata.clone() }
            }
        }
    }
}

/// What a run came to: the body of its terminal event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct RunResult {
    pub final_output: Option<String>,
    pub output: Option<Value>,
    pub stop_reason: String,
    pub error: Option<RunError>,
    pub usage: Usage,
    pub turn_count: u32,
    pub elapsed_time: f64,
    pub variables: Map<String, Value>,
}

/// Why a run failed. `code` is its stop reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct RunError {
    pub code: String,
    pub message: String,
    pub retryable: bool,
    pub details: Value,
}

#[cfg(test)]
mod tests;
