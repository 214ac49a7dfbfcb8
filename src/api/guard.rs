//! What every request passes and every answer gets: who may call from where, the request's id, the
//! headers of every answer, and the shape of every error.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use super::problem::{ErrorCode, MEDIA_TYPE, Problem};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What web pages of configured origins may send and read.
const ALLOWED_METHODS: &str = "GET, POST, PUT, PATCH, DELETE";
const ALLOWED_HEADERS: &str =
    "Authorization, Content-Type, Accept, Idempotency-Key, Prefer, Last-Event-ID";
const EXPOSED_HEADERS: &str = "Location, Content-Location, Idempotent-Replayed, \
    Preference-Applied, Retry-After, X-Request-Id";

/// How long browsers may remember the answer to a preflight, seconds.
const PREFLIGHT_SECONDS: u32 = 600;

/// From where the service may be called.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Only this machine can reach the address.
    pub is_loopback: bool,
    /// Requests need a key.
    pub is_auth_on: bool,
    /// Origins of web pages that may call.
    pub cors_origins: Vec<String>,
}

/// The request's id, for an answer that must write it itself: an extension of every request.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) String);

/// The middleware: outermost, so that it sees every request and every answer.
pub async fn guard(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let origin = guard.known_origin(request.headers());
    let method = request.method().clone();
    let span = tracing::info_span!(
        "request",
        request.id = id,
        http.method = %method,
        http.path = request.uri().path(),
    );
    let answered = async {
        let response = if is_preflight(&request) {
            // Without the headers that follow for known origins, a browser takes it for a no.
            StatusCode::NO_CONTENT.into_response()
        } else {
            match guard.refusal(&request) {
                Some(problem) => problem.into_response(),
                None => next.run(request).await,
            }
        };
        let status = response.status().as_u16();
        tracing::debug!(http.status = status, elapsed = ?began.elapsed(), "answered");
        metrics::counter!("runledger_http_responses_total", "status" => class(status)).increment(1);
        response
    };
    let mut response = shaped(answered.instrument(span).await, &id);
    let headers = response.headers_mut();
    guard.cors(headers, origin, method == Method::OPTIONS);
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(REQUEST_ID, HeaderValue::from_str(&id).expect("it is visible ASCII"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

impl Guard {
    /// Why a request may not pass.
    fn refusal(&self, request: &Request) -> Option<Problem> {
        if self.is_auth_on {
            return None;
        }
        let headers = request.headers();
        let host = host_of(request);
        if self.is_loopback && !host.as_deref().is_some_and(is_local_name) {
            let detail = "the Host header must be localhost, 127.0.0.1 or [::1] on a service that \
                          listens on loopback without keys";
            return Some(Problem::new(ErrorCode::Forbidden, detail));
        }
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if is_safe || self.known_origin(headers).is_some() {
            return None;
        }
        let is_same = match headers.get(SEC_FETCH_SITE) {
            Some(site) => site == "same-origin" || site == "none",
            None => match headers.get(header::ORIGIN) {
                Some(origin) => host_of_origin(origin) == host.as_deref(),
                None => true,
            },
        };
        let detail = "a web page of another site sent this; add its origin to \
                      RUNLEDGER_CORS_ORIGINS, or require keys with RUNLEDGER_API_KEYS";
        (!is_same).then(|| Problem::new(ErrorCode::CrossSite, detail))
    }

    fn known_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?;
        self.cors_origins
            .iter()
            .any(|known| known.eq_ignore_ascii_case(text))
            .then(|| origin.clone())
    }

    fn cors(&self, headers: &mut HeaderMap, origin: Option<HeaderValue>, is_preflight: bool) {
        if self.cors_origins.is_empty() {
            return;
        }
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = origin else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
        set(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
        if is_preflight {
            set(header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS);
            set(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(PREFLIGHT_SECONDS));
        }
    }
}

/// The client's id of the request where it is fit to be one, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let is_fit = |id: &&str| {
        (1..=128).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(is_fit);
    given.map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

fn is_preflight(request: &Request) -> bool {
    *request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// `Host`, or HTTP/2's `:authority`. Of two that differ nobody can say which one a proxy believed.
fn host_of(request: &Request) -> Option<String> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let first = hosts.next();
    if hosts.any(|other| Some(other) != first) {
        return None;
    }
    let header = first.and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(|authority| authority.as_str());
    header.or(authority).map(str::to_ascii_lowercase)
}

fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    // A literal of this machine can't be rebound: no name was asked for it.
    let is_literal = name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback());
    is_literal || ["localhost", "[::1]"].contains(&name)
}

fn host_of_origin(origin: &HeaderValue) -> Option<&str> {
    origin.to_str().ok()?.split_once("://").map(|(_scheme, host)| host)
}

fn class(status: u16) -> &'static str {
    match status {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    }
}

/// Every error as a problem document with the request's id.
fn shaped(mut response: Response, id: &str) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        // Such a body goes on reading the request, and has the id already.
        if response.headers().contains_key(header::CONNECTION) {
            return response;
        }
        let mut again = problem.into_response_for(Some(id));
        for (name, value) in response.headers() {
            again.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
        again.headers_mut().remove(header::CONTENT_LENGTH);
        return again;
    }
    let is_problem =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == MEDIA_TYPE);
    if is_problem {
        return response;
    }
    let (code, detail) = match status {
        StatusCode::BAD_REQUEST => (ErrorCode::InvalidRequest, "the request can't be read"),
        StatusCode::NOT_FOUND => (ErrorCode::NotFound, "no route has this path"),
        StatusCode::METHOD_NOT_ALLOWED => (ErrorCode::MethodNotAllowed, "see the Allow header"),
        StatusCode::PAYLOAD_TOO_LARGE => (ErrorCode::PayloadTooLarge, "the body is too large"),
        StatusCode::REQUEST_TIMEOUT => (ErrorCode::RequestTimeout, "the request took too long"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            (ErrorCode::UnsupportedMediaType, "send JSON, with `Content-Type: application/json`")
        }
        _ if status.is_client_error() => (ErrorCode::InvalidRequest, "the request is invalid"),
        _ => (ErrorCode::Internal, "something went wrong on our side; the log has it"),
    };
    let mut again = Problem::new(code, detail).into_response_for(Some(id));
    if let Some(allow) = response.headers().get(header::ALLOW) {
        again.headers_mut().insert(header::ALLOW, allow.clone());
    }
    again
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Guard {
        Guard {
            is_loopback: true,
            is_auth_on: false,
            cors_origins: vec!["https://app.example".into()],
        }
    }

    fn refused(guard: &Guard, method: &str, headers: &[(&str, &str)]) -> Option<&'static str> {
        let mut request = Request::builder().method(method).uri("/runs/1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(axum::body::Body::empty()).expect("a request");
        guard.refusal(&request).map(|problem| problem.code.name())
    }

    #[test]
    fn a_name_that_was_rebound_to_loopback_is_refused() {
        for host in
            ["localhost", "localhost:8080", "127.0.0.1:1", "127.0.0.2:1", "[::1]:8080", "LOCALHOST"]
        {
            assert_eq!(refused(&open(), "GET", &[("host", host)]), None, "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost:x", "[::2]", "10.0.0.1"] {
            assert_eq!(refused(&open(), "GET", &[("host", host)]), Some("forbidden"), "{host}");
        }
        assert_eq!(refused(&open(), "GET", &[]), Some("forbidden"));
        let with_keys = Guard { is_auth_on: true, ..open() };
        assert_eq!(refused(&with_keys, "GET", &[("host", "api.example")]), None);
    }

    #[test]
    fn a_page_of_another_site_can_change_nothing() {
        let host = ("host", "localhost:8080");
        for (headers, expected) in [
            (&[host][..], None),
            (&[host, ("sec-fetch-site", "same-origin")], None),
            (&[host, ("sec-fetch-site", "none")], None),
            (&[host, ("sec-fetch-site", "cross-site")], Some("cross_site")),
            (&[host, ("sec-fetch-site", "same-site")], Some("cross_site")),
            (&[host, ("origin", "http://localhost:8080")], None),
            (&[host, ("origin", "http://localhost:3000")], Some("cross_site")),
            (&[host, ("origin", "null")], Some("cross_site")),
            (&[host, ("origin", "https://app.example"), ("sec-fetch-site", "cross-site")], None),
        ] {
            assert_eq!(refused(&open(), "DELETE", headers), expected, "{headers:?}");
            assert_eq!(refused(&open(), "GET", headers), None, "{headers:?}");
        }
    }
}
