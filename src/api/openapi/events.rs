//! The events of a run as schemas. `docs/events.md` says more of each; a test holds both to the
//! code's own types.

use super::schema::{
    Field, Schema, answer, any, anything, count, exactly, flag, list, map, named, number, one_of,
    optional, required, seconds, text, time, told_apart, whole,
};
use crate::run::event::KINDS;

/// Each type of event, and the name of its schema.
const NAMES: [(&str, &str); 18] = [
    ("run.queued", "RunQueuedEvent"),
    ("input", "InputEvent"),
    ("run.started", "RunStartedEvent"),
    ("turn.started", "TurnStartedEvent"),
    ("text", "TextEvent"),
    ("reasoning", "ReasoningEvent"),
    ("tool_call", "ToolCallEvent"),
    ("turn.completed", "TurnCompletedEvent"),
    ("turn.aborted", "TurnAbortedEvent"),
    ("tool.started", "ToolStartedEvent"),
    ("tool_result", "ToolResultEvent"),
    ("variables.set", "VariablesSetEvent"),
    ("run.updated", "RunUpdatedEvent"),
    ("cancel.requested", "CancelRequestedEvent"),
    ("log", "LogEvent"),
    ("run.completed", "RunCompletedEvent"),
    ("run.failed", "RunFailedEvent"),
    ("run.cancelled", "RunCancelledEvent"),
];

pub(super) fn schemas() -> Vec<(&'static str, Schema)> {
    let known = told_apart("type", &NAMES).about(
        "An event of a type that this release knows. A reader that is given another type takes it \
         as an `Event`, and goes on.",
    );
    let mut all = vec![
        ("Event", envelope()),
        ("KnownEvent", known),
        ("StreamBlock", block()),
        ("RunResult", result()),
        ("OutputPart", output_part()),
        ("FailedTry", failed_try()),
    ];
    all.extend(NAMES.map(|(kind, name)| (name, event(kind))));
    all
}

/// What all events have, whatever their type.
fn envelope() -> Schema {
    answer(
        "An event of a run's log. Its further fields are those of its type: see `KnownEvent`. \
         Types and fields are added: ignore those that you don't know.",
        [
            required("seq", seq()),
            required("at", time()),
            required("type", text().known(&KINDS)),
            required("turn", count()),
            required("attempt", whole().with("minimum", 1u64)),
            optional("item", item()),
        ],
    )
    // A schema and not `true`: some generators keep only then what they don't know.
    .with("additionalProperties", any())
}

/// What one block of a stream says. As OpenAPI 3.2 has it, a block and not the whole body is what
/// the schema is of.
fn block() -> Schema {
    let data = text()
        .with("contentMediaType", "application/json")
        .with("contentSchema", named("KnownEvent"))
        .about("The event, as JSON on one line.");
    answer(
        "One block of a stream. Lines without data (`:`) come as signs of life. The last event is \
         `run.completed`, `run.failed` or `run.cancelled`; a stream that ends without one was cut: \
         go on with `Last-Event-ID`.",
        [
            required("id", text().about("The event's `seq`.")),
            optional("event", text().known(&KINDS).about("Its type, unless `named=false`.")),
            required("data", data),
            optional("retry", whole().about("In the first block: reconnect after so many ms.")),
        ],
    )
}

fn seq() -> Schema {
    whole().with("minimum", 1u64).about("Its place in the log: 1, 2, 3, … without gaps.")
}

fn item() -> Schema {
    whole().with("minimum", 1u64).about("The output item that it is a part of.")
}

fn event(kind: &str) -> Schema {
    let (about, fields) = match kind {
        "run.queued" => ("The run was created. The first event.", queued()),
        "input" => ("A message for a run that is under way. Not sent yet.", input()),
        "run.started" => ("A node began to drive the run.", started()),
        "turn.started" => ("The model is about to be called.", turn_started()),
        "text" => ("A piece of the answer.", vec![numbered(), required("content", text())]),
        "reasoning" => ("A piece of the model's visible reasoning.", reasoning()),
        "tool_call" => ("The model asked for a tool.", tool_call()),
        "turn.completed" => ("The model's message is whole.", turn_completed()),
        "turn.aborted" => ("This attempt's output is void.", turn_aborted()),
        "tool.started" => ("The tool is about to be called.", tool_started()),
        "tool_result" => ("How a tool call ended.", tool_result()),
        "variables.set" => ("A tool set variables.", vec![required("values", anything())]),
        "run.updated" => ("Limits were raised, or labels replaced.", updated()),
        "cancel.requested" => ("Somebody asked for a cancel.", cancel_requested()),
        "log" => ("A detail of a verbose run.", log()),
        "run.completed" => ("The run has ended well. The last event.", end()),
        "run.failed" => ("The run has failed. The last event.", end()),
        "run.cancelled" => ("The run was cancelled. The last event.", end()),
        other => unreachable!("{other} is in the list above"),
    };
    let envelope = [
        required("seq", seq()),
        required("at", time()),
        required("type", exactly(kind)),
        required("turn", count().about("The turn, from 1; 0 before the first.")),
        required("attempt", whole().with("minimum", 1u64).about("Attempts at this turn so far.")),
    ];
    answer(about, envelope.into_iter().chain(fields))
}

/// `item`, where it is always there.
fn numbered() -> Field {
    required("item", item())
}

fn queued() -> Vec<Field> {
    vec![
        required("format", whole().about("The version of the log's form.")),
        required("run_id", text()),
        required("uuid", text().with("format", "uuid").about("Our own id of the run.")),
        required("agent", named("AgentRef")),
        required("model", text()),
        required("by", text().about("Who created it.").example("local")),
        optional("parent_run_id", text().about("Reserved.")),
        optional("continued_from", text().about("Reserved.")),
        required(
            "input",
            one_of([text(), list(anything())])
                .about("As given; of inline images `media_type`, `bytes` and `sha256`."),
        ),
        optional("truncated", flag().about("True: `input` was cut.")),
        optional("traceparent", text()),
    ]
}

fn input() -> Vec<Field> {
    vec![required("content", named("Input")), required("by", text())]
}

fn started() -> Vec<Field> {
    vec![
        required("node", text()),
        required("reason", text().known(&["new", "drain", "crash", "inbox", "timer"])),
        required("crashes", count().about("Deaths of nodes since its last finished turn.")),
        required("elapsed", seconds().about("Since the run's first start.")),
        required("turn_elapsed", seconds().about("Since the turn under way began.")),
        required("waited", seconds()),
    ]
}

fn turn_started() -> Vec<Field> {
    let digest = text().about("A digest of what the model is asked.");
    vec![required("model", text()), required("request_sha256", digest)]
}

fn reasoning() -> Vec<Field> {
    vec![numbered(), required("content", text()), optional("provider_metadata", any())]
}

fn tool_call() -> Vec<Field> {
    vec![
        numbered(),
        required("call_id", text()),
        optional("provider_call_id", text()),
        required("tool_name", text()),
        required("arguments", one_of([anything(), text()])),
        required("arguments_raw", text().about("As the model wrote them.")),
        required("executor", text().known(&["server", "mcp", "client", "agent"])),
        required("effect", text().known(&["read", "idempotent", "once"])),
        optional("provider_metadata", any()),
    ]
}

fn turn_completed() -> Vec<Field> {
    let reasons = ["stop", "tool_calls", "length", "content_filter", "other"];
    vec![
        required("finish_reason", text().known(&reasons)),
        required("parts", list(named("OutputPart")).about("The turn's whole text and reasoning.")),
        required("usage", named("Usage")),
        required("model", text().about("As the provider names it.")),
        optional("provider_request_id", text()),
        optional("provider_metadata", any()),
        required("elapsed_time", seconds()),
        optional("first_output_time", seconds()),
    ]
}

fn turn_aborted() -> Vec<Field> {
    let reasons = [
        "rate_limited",
        "overloaded",
        "provider_error",
        "connection",
        "stalled",
        "cut",
        "crash",
        "drain",
        "limit",
        "cancelled",
    ];
    vec![
        required("reason", text().known(&reasons)),
        optional("provider_status", whole()),
        optional("message", text()),
        required("discard_from_seq", count().about("From here on the attempt's output is void.")),
        required("last_item", count().about("The highest `item` so far.")),
        optional("retry_in", seconds().about("Until the next attempt; absent: there is none.")),
        optional("elapsed_time", seconds()),
        optional("usage", named("Usage")),
    ]
}

fn tool_started() -> Vec<Field> {
    vec![
        numbered(),
        required("call_id", text()),
        required("try", whole().with("minimum", 1u64).about("Which try at this call.")),
        optional("failed_before", named("FailedTry")),
        optional("child_run_id", text().about("Reserved.")),
    ]
}

fn tool_result() -> Vec<Field> {
    let outcomes = ["ok", "error", "timeout", "denied", "cancelled", "unknown"];
    vec![
        numbered(),
        required("call_id", text()),
        required("tool_name", text()),
        required("result", any().about("What the model is told.")),
        required("is_error", flag()),
        required("outcome", text().known(&outcomes)),
        required("try", count().about("The try that ended so; 0: it was never called.")),
        optional("http_status", whole()),
        optional("truncated", flag().about("True: `result` was cut.")),
        required("elapsed_time", seconds()),
    ]
}

fn updated() -> Vec<Field> {
    vec![
        optional("metadata", named("Metadata").about("The labels, whole, from here on.")),
        optional("limits", named("RaisedLimits").about("Those that were raised.")),
        required("by", text()),
    ]
}

fn cancel_requested() -> Vec<Field> {
    vec![required("by", text()), optional("reason", text().about("Reserved."))]
}

fn log() -> Vec<Field> {
    vec![
        required("level", text().known(&["info", "warn"])),
        required("message", text()),
        required("data", any()),
    ]
}

fn end() -> Vec<Field> {
    vec![required("run_id", text()), required("result", named("RunResult"))]
}

fn result() -> Schema {
    answer(
        "What a run came to.",
        [
            required("final_output", text().or_null().about("The last turn's text, if any.")),
            required("output", any().about("Reserved: null.")),
            required("stop_reason", super::answers::stop_reason()),
            required("error", named("RunError").or_null()),
            required("usage", named("Usage")),
            required("turn_count", count()),
            required("elapsed_time", seconds()),
            required("variables", map(any())),
        ],
    )
}

fn output_part() -> Schema {
    answer(
        "A stretch of text or of reasoning.",
        [
            required("type", text().known(&["text", "reasoning"])),
            numbered(),
            optional("text", text().about("Of reasoning it may be absent.")),
            optional("provider_metadata", any()),
        ],
    )
}

fn failed_try() -> Schema {
    answer(
        "How the try before this one failed.",
        [
            optional("http_status", whole()),
            required("message", text()),
            required("elapsed_time", number()),
        ],
    )
}
