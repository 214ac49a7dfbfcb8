//! The bodies that clients get, and the bodies that they send, as the API says them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::api::problem::{ErrorCode, FieldError, Problem};
use crate::journal::timestamp;
use crate::run::limits::JSON_DEPTH;
use crate::run::spec::{Code, Violation};
use crate::run::state::Call;
use crate::run::{Body, Catalog, Content, Event, Message, Part, Spec, State, Status};
use crate::store::RunRow;

/// The parts of a run that a client can leave out with `omit`.
pub(super) const PARTS: [&str; 5] = ["history", "tool_calls", "input", "variables", "config"];

/// What a request asks for, parsed and checked, with what identifies the intent.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) spec: Spec,
    /// `config.run_id`, taken out of the spec.
    pub(super) run_id: Option<String>,
    /// The spec as it is stored.
    pub(super) text: String,
    /// SHA-256 of the parsed body with sorted keys, before defaults.
    pub(super) digest: String,
}

/// A body as JSON, and what identifies it: SHA-256 over it with sorted keys, hex.
pub(super) fn json(body: &[u8]) -> Result<(Value, String), Problem> {
    let value: Value = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
    let digest = digest(&value);
    Ok((value, digest))
}

fn digest(value: &Value) -> String {
    // serde_json's maps are sorted by key: equal bodies have equal texts.
    Sha256::digest(value.to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses the body of `POST /runs`.
pub(super) fn parse(body: &[u8], catalog: &Catalog) -> Result<Asked, Problem> {
    let (value, _) = json(body)?;
    asked(&value, catalog).map_err(|found| refusal(&found))
}

/// What the body of one run asks for.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn asked(value: &Value, catalog: &Catalog) -> Result<Asked, Vec<Violation>> {
    let mut spec = Spec::parse(value, catalog)?;
    let unreadable = unreadable_images(&spec);
    if !unreadable.is_empty() {
        return Err(unreadable);
    }
    let run_id = spec.config.run_id.take();
    let text = json!(spec).to_string();
    Ok(Asked { spec, run_id, text, digest: digest(value) })
}

/// The refusal of a field that nobody knows.
pub(super) fn unknown_field(name: &str, known: &str) -> Violation {
    let name: String = name.chars().take(60).collect();
    Violation {
        pointer: format!("/{}", name.replace('~', "~0").replace('/', "~1")),
        detail: format!("unknown field `{name}`; known are {known}"),
        code: Code::InvalidRequest,
    }
}

/// What is no JSON; and what is nested so deep that it is not looked at.
fn unreadable(error: &serde_json::Error) -> Problem {
    let words = error.to_string();
    if words.starts_with("recursion limit exceeded") {
        let detail = format!("must not be nested deeper than {JSON_DEPTH} levels");
        return Problem::invalid(vec![FieldError::pointer("", detail)]);
    }
    Problem::new(ErrorCode::MalformedJson, format!("the body is not JSON: {words}"))
}

/// Inline images whose data is no base 64, each by its place.
fn unreadable_images(spec: &Spec) -> Vec<Violation> {
    let in_content = |content: &Content, pointer: &str| -> Vec<Violation> {
        let Content::Parts(parts) = content else { return Vec::new() };
        let places = parts.iter().enumerate().filter_map(|(place, part)| match part {
            Part::Image { data: Some(data), .. } if STANDARD.decode(data).is_err() => Some(place),
            Part::Image { .. } | Part::Text { .. } | Part::Reasoning { .. } => None,
        });
        let refused = |place| {
            let detail = "must be base 64, with padding and without line ends";
            Violation {
                pointer: format!("{pointer}/{place}/data"),
                detail: detail.to_owned(),
                code: Code::InvalidRequest,
            }
        };
        places.map(refused).collect()
    };
    let mut found = in_content(&spec.input, "/input");
    for (place, message) in spec.history.iter().enumerate() {
        let content = match message {
            Message::User { content } | Message::Tool { content, .. } => Some(content),
            Message::Assistant { content, .. } => content.as_ref(),
        };
        let pointer = format!("/history/{place}/content");
        found.extend(content.into_iter().flat_map(|content| in_content(content, &pointer)));
    }
    found
}

/// What is wrong with a body, as an answer.
pub(super) fn refusal(found: &[Violation]) -> Problem {
    let errors = found
        .iter()
        .map(|violation| FieldError::pointer(&violation.pointer, &violation.detail))
        .collect();
    let mut problem = Problem::invalid(errors);
    // A code of its own only where nothing else is wrong.
    let code = found.first().map_or(Code::InvalidRequest, |violation| violation.code);
    if found.iter().all(|violation| violation.code == code) {
        problem.code = match code {
            Code::InvalidRequest => ErrorCode::InvalidRequest,
            Code::UnknownModel => ErrorCode::UnknownModel,
            Code::UnknownAgent => ErrorCode::UnknownAgent,
            Code::UnknownPrice => ErrorCode::UnknownPrice,
            Code::SecretNotAllowed => ErrorCode::SecretNotAllowed,
        };
    }
    problem
}

/// A tool call of the run resource.
#[derive(Serialize)]
struct CallBody<'a> {
    call_id: &'a str,
    provider_call_id: Option<&'a str>,
    tool_name: &'a str,
    arguments: &'a Value,
    result: Option<&'a Value>,
    is_error: Option<bool>,
    outcome: Option<crate::run::event::Outcome>,
    turn: u32,
    elapsed_time: Option<f64>,
    child_run_id: Option<&'a str>,
}

/// The run resource.
pub(super) fn run_body(
    row: &RunRow,
    spec: &Spec,
    state: &State,
    queue_position: Option<u64>,
    now_ms: i64,
    omit: &[String],
) -> Value {
    let result = state.result.as_ref();
    let error = result.and_then(|result| result.error.as_ref());
    let mut body = json!({
        "run_id": row.public_id,
        "status": state.status.name(),
        "stop_reason": result.map(|result| &result.stop_reason),
        "agent": {"name": spec.agent.name, "version": null},
        "model": spec.model(),
        "config": state.config(spec),
        "input": spec.input,
        "final_output": match result {
            Some(result) => result.final_output.clone(),
            None => state.final_output(),
        },
        "output": result.and_then(|result| result.output.clone()),
        "error": error,
        "required_action": null,
        "turn_count": state.turn_count(),
        "elapsed_time": match result {
            Some(result) => result.elapsed_time,
            None => elapsed(state, now_ms),
        },
        "waiting_time": 0.0,
        "tool_calls": calls(state),
        "history": state.history(spec),
        "variables": state.variables(spec),
        "metadata": state.metadata(spec),
        "usage": state.usage,
        "thread_id": null,
        "batch_id": row.batch.map(|batch| batch.to_string()),
        "parent_run_id": null,
        "continued_from": null,
        "queue_position": queue_position.filter(|_| state.status == Status::Queued),
        "cancel_requested_at": row.cancel_at_ms.map(timestamp),
        "last_seq": state.last_seq,
        "created_by": row.created_by,
        "created_at": timestamp(row.created_at_ms),
        "started_at": state.started_at,
        "finished_at": state.finished_at,
    });
    if let Value::Object(fields) = &mut body {
        for part in omit {
            fields.remove(part);
        }
    }
    body
}

fn calls(state: &State) -> Vec<Value> {
    let body = |turn: u32, call: &Call| {
        let answer = call.answer.as_ref();
        json!(CallBody {
            call_id: &call.call_id.0,
            provider_call_id: call.provider_call_id.as_deref(),
            tool_name: &call.tool_name,
            arguments: &call.arguments,
            result: answer.map(|answer| &answer.result),
            is_error: answer.map(|answer| answer.is_error),
            outcome: answer.map(|answer| answer.outcome),
            turn,
            elapsed_time: answer.map(|answer| answer.elapsed_time),
            child_run_id: None,
        })
    };
    state
        .turns
        .iter()
        .flat_map(|turn| turn.calls.iter().map(move |call| body(turn.number, call)))
        .collect()
}

/// Seconds since the first start.
fn elapsed(state: &State, now_ms: i64) -> f64 {
    let started = state.started_at.as_ref().and_then(|at| at.parse::<jiff::Timestamp>().ok());
    started.map_or(0.0, |started| seconds(now_ms - started.as_millisecond()))
}

pub(super) fn seconds(ms: i64) -> f64 {
    f64::from(i32::try_from(ms.max(0)).unwrap_or(i32::MAX)) / 1000.0
}

/// The body of `run.queued`: who asks whom what, for whoever reads the log alone.
pub(super) fn queued(
    spec: &Spec,
    public_id: &str,
    uuid: &str,
    by: &str,
    traceparent: Option<String>,
) -> Body {
    let (input, is_cut) = queued_input(spec);
    Body::RunQueued {
        format: crate::run::event::FORMAT,
        run_id: public_id.to_owned(),
        uuid: uuid.to_owned(),
        agent: crate::run::event::AgentRef { name: spec.agent.name.clone(), version: None },
        model: spec.model().to_owned(),
        by: by.to_owned(),
        parent_run_id: None,
        continued_from: None,
        input,
        truncated: is_cut.then_some(true),
        traceparent,
    }
}

/// The input as given, but pictures by their digest and long text cut.
fn queued_input(spec: &Spec) -> (Value, bool) {
    use crate::run::limits::QUEUED_INPUT_BYTES;
    let mut left = QUEUED_INPUT_BYTES;
    let mut is_cut = false;
    let mut cut = |text: &str| {
        let end = text.floor_char_boundary(left);
        is_cut |= end < text.len();
        left -= end;
        Value::String(text[..end].to_owned())
    };
    let input = match &spec.input {
        Content::Text(text) => cut(text),
        Content::Parts(parts) => parts
            .iter()
            .map(|part| match part {
                Part::Text { text } => json!({"type": "text", "text": cut(text)}),
                Part::Image { url: Some(url), .. } => json!({"type": "image", "url": url}),
                Part::Image { media_type, data, .. } => {
                    let image = data.as_ref().map(|data| STANDARD.decode(data));
                    let image = image.and_then(Result::ok).unwrap_or_default();
                    let digest: String =
                        Sha256::digest(&image).iter().map(|byte| format!("{byte:02x}")).collect();
                    json!({"type": "image", "media_type": media_type,
                           "bytes": image.len(), "sha256": digest})
                }
                Part::Reasoning { text, .. } => json!({"type": "reasoning", "text": text}),
            })
            .collect(),
    };
    (input, is_cut)
}

/// The log, parsed.
pub(super) fn fold(events: &[crate::store::StoredEvent]) -> Result<State, Problem> {
    let mut state = State::default();
    for stored in events {
        let event: Event = serde_json::from_str(&stored.data).map_err(|error| {
            tracing::error!(error = %error, "an event can't be read");
            Problem::internal()
        })?;
        state.apply(&event);
    }
    Ok(state)
}

/// Metadata as stored.
pub(super) fn metadata(spec: &Spec) -> String {
    Value::Object(Map::clone(&spec.config.metadata)).to_string()
}
