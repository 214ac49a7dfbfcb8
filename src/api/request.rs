//! What a request says beside its body: query parameters, `Prefer`, `Accept`, `Idempotency-Key`.
//! Whatever isn't known is refused by name.

use std::convert::Infallible;
use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::{HeaderMap, HeaderValue, header, request};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::guard::RequestId;
use super::problem::{ErrorCode, FieldError, Problem};
use crate::run::{event, limits};
use crate::store::TypeFilter;

/// The longest that a request may wait, seconds.
pub(super) const WAIT_MAX: u64 = 300;

/// The highest place in a log that can be asked for: what every client's whole numbers can hold.
pub(super) const SEQ_MAX: u64 = i64::MAX as u64;

/// Characters of an `Idempotency-Key`.
pub(super) const KEY_CHARS_MAX: usize = 255;

/// The query parameters, in order, decoded.
#[derive(Debug)]
pub(super) struct Parameters(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut request::Parts,
        state: &S,
    ) -> Result<Parameters, Problem> {
        match Query::<Vec<(String, String)>>::from_request_parts(parts, state).await {
            Ok(Query(pairs)) => Ok(Parameters(pairs)),
            Err(error) => Err(Problem::new(ErrorCode::InvalidRequest, error.body_text())),
        }
    }
}

impl Parameters {
    /// Refuses every parameter that is not among these.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Problem> {
        let errors: Vec<FieldError> = self
            .0
            .iter()
            .filter(|(name, _)| !known.contains(&name.as_str()))
            .map(|(name, _)| {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                FieldError::parameter(
                    name.clone(),
                    format!("unknown parameter `{name}`; known here: {known}"),
                )
            })
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(errors)) }
    }

    /// All of them, as they came.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(one, _)| one == name).map(|(_, value)| value.as_str())
    }

    /// The one value of a parameter that may not be repeated.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values =
            self.0.iter().filter(|(one, _)| one == name).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(invalid(name, "may be given only once")),
        }
    }

    /// A whole number within bounds.
    pub(super) fn number(
        &self,
        name: &str,
        bounds: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, Problem> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        match u64::from_str(text) {
            Ok(number) if bounds.contains(&number) => Ok(Some(number)),
            Ok(_) | Err(_) => {
                let got: String = text.chars().take(40).collect();
                let (low, high) = (bounds.start(), bounds.end());
                Err(invalid(
                    name,
                    &format!("must be a whole number between {low} and {high}, got `{got}`"),
                ))
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, Problem> {
        match self.one(name)? {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(invalid(name, "must be true or false")),
        }
    }

    /// `types=text,tool_call` or `types=-text`.
    pub(super) fn types(&self) -> Result<TypeFilter, Problem> {
        let Some(list) = self.one("types")? else { return Ok(TypeFilter::All) };
        let names: Vec<&str> = list.split(',').map(str::trim).collect();
        let kind = |name: &str| {
            event::kind_of(name).ok_or_else(|| {
                let got: String = name.chars().take(40).collect();
                let known = event::KINDS.join(", ");
                invalid("types", &format!("unknown event type `{got}`; known: {known}"))
            })
        };
        let left_out = names.iter().filter(|name| name.starts_with('-')).count();
        if left_out == 0 {
            Ok(TypeFilter::Only(names.into_iter().map(kind).collect::<Result<_, _>>()?))
        } else if left_out == names.len() {
            let names = names.iter().map(|name| kind(&name[1..]));
            Ok(TypeFilter::Without(names.collect::<Result<_, _>>()?))
        } else {
            Err(invalid("types", "either names types or leaves some out with `-`, not both"))
        }
    }

    /// How long to wait: `?wait=N`, else `Prefer: wait=N`. The flag says that the header asked.
    pub(super) fn wait(&self, headers: &HeaderMap) -> Result<Option<(Duration, bool)>, Problem> {
        if let Some(seconds) = self.number("wait", 0..=WAIT_MAX)? {
            return Ok(Some((Duration::from_secs(seconds), false)));
        }
        for value in headers.get_all("prefer") {
            for preference in value.to_str().unwrap_or_default().split(',') {
                let Some((name, seconds)) = preference.split_once('=') else { continue };
                if name.trim().eq_ignore_ascii_case("wait")
                    && let Ok(seconds) = seconds.trim().trim_matches('"').parse::<u64>()
                {
                    return Ok(Some((Duration::from_secs(seconds.min(WAIT_MAX)), true)));
                }
            }
        }
        Ok(None)
    }
}

/// The id in a path. What can't be read names nothing.
#[derive(Debug)]
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Name, Problem> {
        let name = Path::<String>::from_request_parts(parts, state).await;
        name.map(|Path(name)| Name(name)).map_err(|_unreadable| Problem::not_found("resource"))
    }
}

/// A refusal that names a parameter.
pub(super) fn invalid(name: &str, detail: &str) -> Problem {
    Problem::invalid(vec![FieldError::parameter(name, detail)])
}

/// What the client wants to have back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Json,
    Stream,
}

/// Any `text/event-stream` in `Accept` streams; else JSON has to be acceptable.
pub(super) fn wanted(headers: &HeaderMap) -> Result<Wanted, Problem> {
    let mut ranges = headers
        .get_all(header::ACCEPT)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or_default().split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
        .filter(|range| !range.is_empty())
        .peekable();
    if ranges.peek().is_none() {
        return Ok(Wanted::Json);
    }
    let ranges: Vec<String> = ranges.collect();
    let has = |names: &[&str]| ranges.iter().any(|range| names.contains(&range.as_str()));
    if has(&["text/event-stream"]) {
        Ok(Wanted::Stream)
    } else if has(&["*/*", "application/*", "application/json"]) {
        Ok(Wanted::Json)
    } else {
        let detail = "this resource is application/json or text/event-stream; `Accept` allows \
                      neither";
        Err(Problem::new(ErrorCode::NotAcceptable, detail))
    }
}

/// The body has to be JSON and say so.
pub(super) fn must_be_json(headers: &HeaderMap) -> Result<(), Problem> {
    let is_plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
        let detail = "send the body as it is, without the header `Content-Encoding`";
        return Err(Problem::new(ErrorCode::UnsupportedMediaType, detail));
    }
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match media_type.as_deref() {
        Some(json) if json == "application/json" || json.ends_with("+json") => Ok(()),
        Some(_) | None => Err(Problem::new(
            ErrorCode::UnsupportedMediaType,
            "send the body as JSON, with the header `Content-Type: application/json`",
        )),
    }
}

/// `traceparent` (W3C Trace Context) as it came, where it is of the only length that there is. Tools
/// are told to continue it; one that is broken counts as absent, as that standard wants it.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let is_plain = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    (value.len() == 55 && value.bytes().all(is_plain)).then(|| value.to_owned())
}

/// `Idempotency-Key`: 1–255 visible characters; `"abc"` and `abc` are one key.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let refuse =
        |detail: &str| Err(Problem::invalid(vec![FieldError::header("Idempotency-Key", detail)]));
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return refuse("may be given only once");
    }
    let key = value.to_str().unwrap_or_default();
    let key = key.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(key);
    if (1..=KEY_CHARS_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(Some(key.to_owned()))
    } else {
        refuse(&format!("must have 1 to {KEY_CHARS_MAX} visible ASCII characters"))
    }
}

/// How long a body may take to arrive: the largest, over a line of half a megabit a second.
const BODY_TIME: Duration = Duration::from_secs(120);

/// How long what still comes of a body that is too large is read, so that the answer arrives: a
/// connection that is closed with unread bytes is reset, and the reset overtakes the answer.
const OVERRUN_TIME: Duration = Duration::from_secs(1);

/// The whole body.
///
/// # Errors
/// The answer: the body was too large, too slow, or broke off.
pub(super) async fn body(
    headers: &HeaderMap,
    mut body: Body,
    id: &RequestId,
) -> Result<Bytes, Response> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limits::BODY_BYTES as u64) {
        return Err(too_large(body, id));
    }
    let deadline = Instant::now() + BODY_TIME;
    let mut bytes = BytesMut::new();
    loop {
        let Ok(frame) = timeout_at(deadline, body.frame()).await else {
            let detail = format!("the body did not arrive within {} s", BODY_TIME.as_secs());
            return Err(Problem::new(ErrorCode::RequestTimeout, detail).into_response());
        };
        match frame {
            None => return Ok(bytes.freeze()),
            Some(Err(error)) => {
                let detail = format!("the body broke off: {error}");
                return Err(Problem::new(ErrorCode::InvalidRequest, detail).into_response());
            }
            Some(Ok(frame)) => {
                // Trailers say nothing to us.
                let Ok(data) = frame.into_data() else { continue };
                if bytes.len() + data.len() > limits::BODY_BYTES {
                    return Err(too_large(body, id));
                }
                bytes.extend_from_slice(&data);
            }
        }
    }
}

/// The answer at once; then what still comes is read for a while, and the connection closed.
fn too_large(mut rest: Body, id: &RequestId) -> Response {
    let detail = format!("the body may have at most {} bytes", limits::BODY_BYTES);
    let problem = Problem::new(ErrorCode::PayloadTooLarge, detail);
    let document = serde_json::to_vec(&problem.document(Some(&id.0))).expect("it is plain data");
    let mut response = problem.into_response();
    let head = stream::once(async move { Ok::<_, Infallible>(Bytes::from(document)) });
    let read_on = stream::once(async move {
        let overrun = async { while let Some(Ok(_)) = rest.frame().await {} };
        // Whether it came to its end or not, it was given its time.
        let _ = tokio::time::timeout(OVERRUN_TIME, overrun).await;
        Ok(Bytes::new())
    });
    *response.body_mut() = Body::from_stream(head.chain(read_on));
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
