//! Errors as clients see them: RFC 9457 problem documents, one closed set of codes.

use std::any::Any;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};

/// The media type of every error's body.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Where the codes are explained; the code is the fragment.
const TYPE_BASE: &str = "https://runledger.dev/errors#";

/// What `Retry-After` says when the caller knows nothing better: long enough to spare a loaded
/// node, short enough that a restart goes unnoticed.
const RETRY_AFTER_SECONDS: u32 = 1;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:ident, $retry:literal, $title:literal;)*) => {
        /// What went wrong, as clients branch on it. The set only grows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $variant,)* }

        impl ErrorCode {
            /// Every code, in the order of the documentation.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The wire name.
            pub fn name(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name,)* }
            }

            /// The HTTP status.
            pub fn status(self) -> StatusCode {
                match self { $(ErrorCode::$variant => StatusCode::$status,)* }
            }

            /// The same words for every occurrence, for people.
            pub fn title(self) -> &'static str {
                match self { $(ErrorCode::$variant => $title,)* }
            }

            /// Whether the same request, sent again later, may succeed without anyone's doing.
            pub fn is_retryable(self) -> bool {
                match self { $(ErrorCode::$variant => $retry,)* }
            }
        }
    };
}

codes! {
    /// The body is not JSON.
    MalformedJson = "malformed_json", BAD_REQUEST, false, "The body is not valid JSON";
    /// No key, or not a known one.
    Unauthenticated = "unauthenticated", UNAUTHORIZED, false, "A valid API key is required";
    /// The caller may not do this.
    Forbidden = "forbidden", FORBIDDEN, false, "This request is not allowed";
    /// A web page of another site sent this.
    CrossSite = "cross_site", FORBIDDEN, false, "Requests from other sites are not allowed";
    /// Nothing stands there for this tenant.
    NotFound = "not_found", NOT_FOUND, false, "There is no such resource";
    /// The run has no such call.
    UnknownCall = "unknown_call", NOT_FOUND, false, "The run has no such call";
    /// The path exists, the method doesn't.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, false,
        "The method is not allowed here";
    /// `Accept` allows nothing that we can send.
    NotAcceptable = "not_acceptable", NOT_ACCEPTABLE, false, "No acceptable representation";
    /// The request took too long to arrive.
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, true, "The request took too long";
    /// The run has ended.
    RunEnded = "run_ended", CONFLICT, false, "The run has ended";
    /// The run has not ended.
    RunActive = "run_active", CONFLICT, false, "The run has not ended yet";
    /// Another run of the thread is active.
    ThreadBusy = "thread_busy", CONFLICT, false, "The thread has an active run";
    /// The call has another answer.
    CallAnswered = "call_answered", CONFLICT, false, "The call has already been answered";
    /// The body is over the limit.
    PayloadTooLarge = "payload_too_large", PAYLOAD_TOO_LARGE, false, "The body is too large";
    /// The body's media type is not understood.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, false,
        "The media type is not supported";
    /// A field, parameter or header is wrong.
    InvalidRequest = "invalid_request", UNPROCESSABLE_ENTITY, false, "The request is invalid";
    /// The same key came with another body.
    IdempotencyConflict = "idempotency_conflict", UNPROCESSABLE_ENTITY, false,
        "The key was used for another request";
    /// No such model.
    UnknownModel = "unknown_model", UNPROCESSABLE_ENTITY, false, "The model is not known";
    /// No such stored agent.
    UnknownAgent = "unknown_agent", UNPROCESSABLE_ENTITY, false, "The agent is not known";
    /// A cost limit on a model without a price.
    UnknownPrice = "unknown_price", UNPROCESSABLE_ENTITY, false, "The model has no price";
    /// A secret would go to a host that it is not for.
    SecretNotAllowed = "secret_not_allowed", UNPROCESSABLE_ENTITY, false,
        "The secret may not be sent there";
    /// The run has had all the changes that it takes.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, false, "Too many requests";
    /// The queue has no room.
    QueueFull = "queue_full", TOO_MANY_REQUESTS, true, "The queue is full";
    /// Our mistake.
    Internal = "internal", INTERNAL_SERVER_ERROR, true, "Internal error";
    /// The store can't be reached.
    StoreUnavailable = "store_unavailable", SERVICE_UNAVAILABLE, true, "The store is unavailable";
    /// The node is stopping.
    Draining = "draining", SERVICE_UNAVAILABLE, true, "The node is shutting down";
}

/// Which part of a request an error is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A JSON pointer into the body: `/config/max_turns`.
    Pointer(String),
    /// The name of a query or path parameter.
    Parameter(String),
    /// The name of a header.
    Header(String),
}

/// One thing that is wrong with the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// What, and what would be right.
    pub detail: String,
}

impl FieldError {
    /// An error at a JSON pointer into the body.
    pub fn pointer(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { place: Place::Pointer(pointer.into()), detail: detail.into() }
    }

    /// An error in a query or path parameter.
    pub fn parameter(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { place: Place::Parameter(name.into()), detail: detail.into() }
    }

    /// An error in a header.
    pub fn header(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { place: Place::Header(name.into()), detail: detail.into() }
    }
}

/// One error answer. The guard adds the request's id on the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What clients branch on.
    pub code: ErrorCode,
    /// What went wrong this time, and what would be right.
    pub detail: String,
    /// The places in the request, if any.
    pub errors: Vec<FieldError>,
    /// `Retry-After` in seconds.
    pub retry_after: Option<u32>,
    /// `Allow`, for `method_not_allowed`. axum adds its own where this is absent.
    pub allow: Option<&'static str>,
}

impl Problem {
    /// A problem with these words. 429 and 503 say when to come again, where that may help.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        let waits = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE]
            .contains(&code.status());
        let retry_after = (waits && code.is_retryable()).then_some(RETRY_AFTER_SECONDS);
        Self { code, detail: detail.into(), errors: Vec::new(), retry_after, allow: None }
    }

    /// `invalid_request` for these places, the first of which is the detail.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = errors.first().map_or_else(
            || ErrorCode::InvalidRequest.title().to_owned(),
            |first| first.to_string(),
        );
        Self { errors, ..Self::new(ErrorCode::InvalidRequest, detail) }
    }

    /// `internal`. What happened belongs into the log, not here.
    pub fn internal() -> Self {
        Self::new(ErrorCode::Internal, "something went wrong on our side; the log has it")
    }

    /// `not_found` with the words that every absent resource shares.
    pub fn not_found(what: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no such {what}"))
    }

    /// `method_not_allowed` where these methods would be allowed: `"GET, HEAD"`.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("allowed here: {allow}");
        Self { allow: Some(allow), ..Self::new(ErrorCode::MethodNotAllowed, detail) }
    }

    /// The document, as sent.
    pub fn document<'a>(&'a self, request_id: Option<&'a str>) -> Document<'a> {
        Document {
            kind: self.code,
            title: self.code.title(),
            status: self.code.status().as_u16(),
            code: self.code.name(),
            detail: &self.detail,
            retryable: self.code.is_retryable(),
            request_id,
            errors: &self.errors,
        }
    }

    /// The answer with the request's id in its body. The problem stays in the extensions, so that
    /// a layer further out can render it again.
    pub fn into_response_for(self, request_id: Option<&str>) -> Response {
        let mut response = Json(self.document(request_id)).into_response();
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if self.code == ErrorCode::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// The wire form of a [`Problem`].
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    #[serde(rename = "type", serialize_with = "type_uri")]
    kind: ErrorCode,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: &'a str,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
}

fn type_uri<S: Serializer>(code: &ErrorCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{TYPE_BASE}{}", code.name()))
}

/// How details begin that go on behind the name of their place: `max_turns must be …`.
const VERBS: [&str; 11] = [
    "must ", "is ", "needs ", "has ", "names ", "comes ", "ends ", "answers ", "may ", "can't ",
    "either ",
];

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match &self.place {
            Place::Pointer(pointer) => pointer.trim_start_matches('/').replace('/', "."),
            Place::Parameter(name) | Place::Header(name) => name.clone(),
        };
        let detail = &self.detail;
        let is_said_of_it = VERBS.iter().any(|verb| detail.starts_with(verb));
        match (name.as_str(), is_said_of_it) {
            ("", _) => f.write_str(detail),
            (name, true) => write!(f, "{name} {detail}"),
            (name, false) => write!(f, "{name}: {detail}"),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.into_response_for(None)
    }
}

/// The router's fallback: no route has this path.
pub async fn unknown_route() -> Problem {
    Problem::new(ErrorCode::NotFound, "no route has this path")
}

/// The router's fallback where the path exists; axum adds `Allow`.
pub async fn unknown_method() -> Problem {
    Problem::new(ErrorCode::MethodNotAllowed, "see the Allow header for the methods of this path")
}

/// The answer to a handler's panic, for `tower_http`'s `CatchPanicLayer::custom`. It is called
/// inside the request's span, so that the log line carries the request's id.
pub fn panicked(payload: Box<dyn Any + Send + 'static>) -> Response {
    let words = payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words");
    tracing::error!(panic = words, "a handler panicked");
    Problem::internal().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;
    use serde_json::{Value, json};

    async fn body(response: Response) -> Value {
        let bytes = to_bytes(response.into_body(), 65_536).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn every_code_of_the_documentation_has_its_status() {
        let documented = "malformed_json 400 unauthenticated 401 forbidden 403 cross_site 403 \
            not_found 404 unknown_call 404 method_not_allowed 405 not_acceptable 406 \
            request_timeout 408 run_ended 409 run_active 409 thread_busy 409 call_answered 409 \
            payload_too_large 413 unsupported_media_type 415 invalid_request 422 \
            idempotency_conflict 422 unknown_model 422 unknown_agent 422 unknown_price 422 \
            secret_not_allowed 422 rate_limited 429 queue_full 429 internal 500 \
            store_unavailable 503 draining 503";
        let have: Vec<String> = ErrorCode::ALL
            .iter()
            .map(|code| format!("{} {}", code.name(), code.status().as_u16()))
            .collect();
        let documented: Vec<&str> = documented.split_whitespace().collect();
        assert_eq!(have.join(" "), documented.join(" "));
    }

    #[tokio::test]
    async fn the_document_has_the_documented_shape() {
        let detail = "must be between 1 and 1000, got 0";
        let problem = Problem::invalid(vec![
            FieldError::pointer("/config/max_turns", detail),
            FieldError::parameter("wait", "must be a number"),
            FieldError::header("Prefer", "must be wait=N"),
        ]);
        let response = problem.into_response_for(Some("r1"));
        assert_eq!(response.status(), 422);
        assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
        let expected = json!({
            "type": "https://runledger.dev/errors#invalid_request",
            "title": "The request is invalid", "status": 422, "code": "invalid_request",
            "detail": "config.max_turns must be between 1 and 1000, got 0",
            "retryable": false, "request_id": "r1",
            "errors": [
                {"pointer": "/config/max_turns", "detail": detail},
                {"parameter": "wait", "detail": "must be a number"},
                {"header": "Prefer", "detail": "must be wait=N"},
            ],
        });
        assert_eq!(body(response).await, expected);
    }

    #[test]
    fn what_the_status_needs_stands_in_the_headers() {
        let full = Problem::new(ErrorCode::QueueFull, "the queue is full").into_response();
        assert_eq!(full.headers()[header::RETRY_AFTER], "1");
        let draining = Problem::new(ErrorCode::Draining, "stopping").into_response();
        assert_eq!(draining.headers()[header::RETRY_AFTER], "1");
        let method = Problem::method_not_allowed("GET, HEAD").into_response();
        assert_eq!(method.headers()[header::ALLOW], "GET, HEAD");
        let key = Problem::new(ErrorCode::Unauthenticated, "send a key").into_response();
        assert_eq!(key.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }

    #[tokio::test]
    async fn a_panic_says_nothing_of_the_inside() {
        let response = panicked(Box::new("password is hunter2".to_owned()));
        assert_eq!(response.status(), 500);
        let body = body(response).await;
        assert_eq!(body["code"], "internal");
        assert!(!body.to_string().contains("hunter2"));
    }
}
