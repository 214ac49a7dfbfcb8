//! Pure: what the answer of a tool over HTTP means. Whatever comes, this says something of bounded
//! size about it.

use serde_json::{Map, Value};

use super::Answer;
use crate::run::event::Outcome;
use crate::run::{limits, plain};

/// The media type of a result that also sets variables.
const ENVELOPE: &str = "application/vnd.runledger.tool-result+json";

/// The most that is read of such a result: the largest result and all variables, and what JSON's
/// escapes add.
const ENVELOPE_BYTES_MAX: usize = 512 * 1024;

/// The most that is read of an error, bytes: a model needs its reason, not its page.
const ERROR_BYTES_MAX: usize = 16 * 1024;

/// From so many objects on JSON stays text, which is the same to a model: each costs half a
/// kilobyte of memory, whatever it holds.
const OBJECTS_MAX: usize = 4096;

/// The same for values: each costs sixteen times the two bytes that the shortest takes.
const VALUES_MAX: usize = 16 * 1024;

/// The head of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Lower case, without parameters; empty where there is none.
    pub(super) media_type: String,
    /// How the body is encoded, where it is.
    pub(super) encoding: Option<String>,
    /// The body's length, where the head says it.
    pub(super) length: Option<u64>,
}

/// What a head says of the body.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// The result.
    Result,
    /// The result, and variables.
    Envelope,
    /// The tool's error, in its own words.
    Error,
    /// An error that another try may not have.
    Passing,
    /// Nothing that can be taken, whatever the body says; in words for the model.
    Useless(String),
}

impl Head {
    pub(super) fn kind(&self) -> Kind {
        let Head { status, media_type, encoding, .. } = self;
        match status {
            408 | 429 | 500..=599 => return Kind::Passing,
            300..=399 => {
                return Kind::Useless(format!(
                    "the tool answered {status}, a redirect; redirects are not followed"
                ));
            }
            200..=299 => {}
            _ => return Kind::Error,
        }
        let later = "results that come later are not available yet; the tool has to answer with its \
                     result";
        if let Some(encoding) = encoding {
            let encoding: String = encoding.chars().take(32).collect();
            Kind::Useless(format!(
                "the tool sent its answer encoded as `{encoding}`, which it was not asked for"
            ))
        } else if *status == 202 {
            Kind::Useless(format!("the tool answered 202 (accepted): {later}"))
        } else if media_type == "text/event-stream" {
            Kind::Useless(format!("the tool answered with an event stream: {later}"))
        } else if media_type == ENVELOPE {
            Kind::Envelope
        } else {
            Kind::Result
        }
    }

    /// How much of the body is read, bytes.
    pub(super) fn bytes_max(&self) -> usize {
        match self.kind() {
            Kind::Result => limits::TOOL_RESULT_BYTES,
            Kind::Envelope => ENVELOPE_BYTES_MAX,
            Kind::Error | Kind::Passing => ERROR_BYTES_MAX,
            Kind::Useless(_) => 0,
        }
    }
}

/// What was read of a body.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Body {
    /// At most [`Head::bytes_max`].
    pub(super) bytes: Vec<u8>,
    /// There was more.
    pub(super) is_cut: bool,
}

/// The answer that a head and its body are.
pub(super) fn answer(head: &Head, body: &Body, secrets: &[&str]) -> Answer {
    let answer = match head.kind() {
        Kind::Result => Answer::whole(masked(result(head, body), secrets), size(head, body)),
        Kind::Envelope => envelope(body, secrets),
        Kind::Error | Kind::Passing => {
            let words = words(head, body, secrets);
            Answer {
                truncated: body.is_cut.then_some(true),
                ..Answer::failed(words, Outcome::Error)
            }
        }
        Kind::Useless(words) => Answer::failed(words, Outcome::Error),
    };
    Answer { http_status: Some(head.status), ..answer }
}

/// An error's body as text.
pub(super) fn words(head: &Head, body: &Body, secrets: &[&str]) -> String {
    let text = match (&head.encoding, head.status) {
        (None, _) => String::from_utf8_lossy(&body.bytes).trim().to_owned(),
        (Some(_), _) => String::new(),
    };
    if text.is_empty() {
        return format!("the tool answered {} without a text", head.status);
    }
    mask(text, secrets)
}

/// The size of a body that was cut: its length where the head says it, or 0.
fn size(head: &Head, body: &Body) -> Option<u64> {
    body.is_cut.then(|| head.length.unwrap_or_default())
}

fn result(head: &Head, body: &Body) -> Value {
    let is_json = head.media_type.is_empty()
        || head.media_type == "application/json"
        || head.media_type.ends_with("+json");
    let text = || Value::String(String::from_utf8_lossy(&body.bytes).into_owned());
    if !is_json || body.is_cut || !is_cheap(&body.bytes) {
        return text();
    }
    // What could not be stored and read again stays the text that it is.
    match serde_json::from_slice::<Value>(&body.bytes) {
        Ok(value) if plain::is_plain(&value) => value,
        Ok(_) | Err(_) => text(),
    }
}

/// Whether JSON has few enough values to be taken apart. Signs within texts count too: what looks
/// costly stays as it is.
fn is_cheap(json: &[u8]) -> bool {
    let objects = json.iter().filter(|byte| **byte == b'{').count();
    let values = json.iter().filter(|byte| matches!(**byte, b',' | b'[' | b'{')).count();
    objects <= OBJECTS_MAX && values <= VALUES_MAX
}

fn envelope(body: &Body, secrets: &[&str]) -> Answer {
    let wrong = |why: String| {
        Answer::failed(format!("the tool's answer is no {ENVELOPE}: {why}"), Outcome::Error)
    };
    if body.is_cut {
        return wrong(format!("it has more than {ENVELOPE_BYTES_MAX} bytes"));
    }
    if !is_cheap(&body.bytes) {
        return wrong(format!("it has more than {OBJECTS_MAX} objects or {VALUES_MAX} values"));
    }
    let mut fields = match serde_json::from_slice::<Map<String, Value>>(&body.bytes) {
        Ok(fields) => fields,
        Err(error) => return wrong(error.to_string()),
    };
    let result = fields.remove("result").unwrap_or_default();
    let variables = match fields.remove("variables") {
        None | Some(Value::Null) => None,
        Some(Value::Object(variables)) => Some(variables),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            return wrong("`variables` must be an object".to_owned());
        }
    };
    if let Some(unknown) = fields.keys().next() {
        let unknown: String = mask(unknown.clone(), secrets).chars().take(64).collect();
        return wrong(format!("unknown field `{unknown}`; known are result and variables"));
    }
    if !plain::is_plain(&result) {
        return wrong("the result is nested too deep".to_owned());
    }
    let variables = match variables.map(|variables| masked(Value::Object(variables), secrets)) {
        None => None,
        Some(variables) if !plain::is_plain(&variables) => {
            return wrong("the variables are nested too deep".to_owned());
        }
        Some(variables) => match plain::value_without_nul(variables) {
            Value::Object(variables) => Some(variables),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => None,
        },
    };
    Answer { variables, ..Answer::whole(masked(result, secrets), None) }
}

/// The text without the secrets that were sent to the tool, which may repeat them.
pub(super) fn mask(text: String, secrets: &[&str]) -> String {
    let mask_one = |text: String, secret: &&str| match text.contains(*secret) {
        true => text.replace(*secret, "***"),
        false => text,
    };
    secrets.iter().filter(|secret| !secret.is_empty()).fold(text, mask_one)
}

/// The value with [`mask`] done to all its texts and names.
fn masked(value: Value, secrets: &[&str]) -> Value {
    if secrets.is_empty() {
        return value;
    }
    match value {
        Value::String(text) => Value::String(mask(text, secrets)),
        Value::Array(items) => items.into_iter().map(|item| masked(item, secrets)).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, field)| (mask(name, secrets), masked(field, secrets)))
            .collect::<Map<String, Value>>()
            .into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

#[cfg(test)]
mod tests;
