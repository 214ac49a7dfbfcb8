//! Tools over HTTP: a POST with the call, and what its answer, or none, means.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{
    ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use reqwest::{Certificate, Client, ClientBuilder, Response, redirect};
use serde_json::json;
use tokio::time::{Instant, timeout};
use url::Url;

use super::guard::{Guard, Refusal};
use super::reply::{self, Body, Head, Kind};
use super::{Answer, Invocation, Tried};
use crate::run::Tool;
use crate::run::event::{Effect, FailedTry, Outcome};
use crate::run::limits;
use crate::run::secret::{Piece, pieces};

/// How long it may take to reach a tool.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Common servers close idle connections after five seconds: before that, so that few calls are sent
/// into a closed one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Idle connections that are kept to a tool's host: as many as one run uses at once.
const IDLE_MAX: usize = limits::TOOLS_AT_ONCE;

/// How long the body of an error is waited for: its status has already said the most of it.
const ERROR_TIME: Duration = Duration::from_secs(5);

/// The wait before the second try; it doubles with each further one.
const BACKOFF_FIRST: f64 = 0.25;

/// A secret of the operator's.
#[derive(Clone)]
pub struct Secret {
    /// What is sent.
    pub value: String,
    /// Where it may be sent: hosts as they stand in a parsed URL, without port.
    pub hosts: Vec<String>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// Calls tools over HTTP. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caller {
    guard: Guard,
    secrets: Arc<BTreeMap<String, Secret>>,
    /// For calls that may be made again: connections are used again.
    pooled: Client,
    /// For calls that may not: a connection that was used before may break under them, and whether
    /// the tool had read the call would not be known.
    fresh: Client,
}

/// Why a try has no answer, or one that another try may not have.
struct Trouble {
    /// Whether the tool may have heard of the call.
    was_connected: bool,
    /// What goes to the model where it was the last try.
    answer: Answer,
    /// What stands in the log where it was not.
    message: String,
    retry_after: Option<Duration>,
    /// Another try would come to the same.
    is_final: bool,
}

impl Caller {
    /// Calls what the guard lets through, with these secrets by their names.
    ///
    /// # Errors
    /// TLS can't be set up.
    pub fn new(guard: Guard, secrets: BTreeMap<String, Secret>) -> Result<Caller, reqwest::Error> {
        // An error means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (pooled, fresh) = (client(&guard, IDLE_MAX)?, client(&guard, 0)?);
        Ok(Caller { guard, secrets: Arc::new(secrets), pooled, fresh })
    }

    /// Calls the tool once.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection; whether the tool had heard of the call is not known.
    pub(super) async fn call(&self, call: &Invocation) -> Tried {
        let since = Instant::now();
        let (url, headers, secrets) = match self.prepare(&call.tool) {
            Ok(prepared) => prepared,
            Err(words) => return Tried::Answered(Answer::failed(words, Outcome::Error)),
        };
        match self.exchange(call, url, headers, &secrets).await {
            Ok(answer) => Tried::Answered(answer),
            Err(trouble) => settle(call, trouble, since),
        }
    }

    /// Where the call goes, the tool's headers with their secrets, and those secrets.
    fn prepare(&self, tool: &Tool) -> Result<(Url, HeaderMap, Vec<&str>), String> {
        let url = Url::parse(tool.url.as_deref().unwrap_or_default())
            .map_err(|error| format!("the tool's URL can't be used: {error}"))?;
        self.guard.check_literal(&url).map_err(|refusal| refusal.to_string())?;
        let host = url.host_str().unwrap_or_default();
        let mut headers = HeaderMap::new();
        let mut secrets = Vec::new();
        for (name, value) in &tool.headers {
            let wrong = || format!("the tool's header `{name}` can't be sent");
            let mut whole = String::new();
            for piece in pieces(value).ok_or_else(wrong)? {
                match piece {
                    Piece::Plain(text) => whole.push_str(text),
                    // The settings may have changed since the run was created.
                    Piece::Secret(name) => match self.secrets.get(name) {
                        Some(secret) if secret.hosts.iter().any(|one| one == host) => {
                            whole.push_str(&secret.value);
                            secrets.push(secret.value.as_str());
                        }
                        Some(_) => return Err(format!("the secret `{name}` is not for this host")),
                        None => return Err(format!("there is no secret `{name}` any more")),
                    },
                }
            }
            let mut value = HeaderValue::try_from(whole).ok().ok_or_else(wrong)?;
            value.set_sensitive(true);
            let name = HeaderName::try_from(name).ok().ok_or_else(wrong)?;
            headers.insert(name, value);
        }
        Ok((url, headers, secrets))
    }

    async fn exchange(
        &self,
        call: &Invocation,
        url: Url,
        headers: HeaderMap,
        secrets: &[&str],
    ) -> Result<Answer, Trouble> {
        let lost = |error| Trouble::lost(error, call.effect, secrets);
        let response = self.send(call, url, headers).await.map_err(lost)?;
        let head = head_of(&response);
        let retry_after = retry_after(response.headers());
        let kind = head.kind();
        match kind {
            Kind::Result | Kind::Envelope | Kind::Useless(_) => {
                let body = read(response, head.bytes_max()).await.map_err(lost)?;
                Ok(reply::answer(&head, &body, secrets))
            }
            Kind::Error | Kind::Passing => {
                let body = timeout(ERROR_TIME, read(response, head.bytes_max())).await;
                // The status says enough where its body can't be read.
                let body = body.ok().and_then(Result::ok).unwrap_or_default();
                let answer = reply::answer(&head, &body, secrets);
                if kind == Kind::Error {
                    return Ok(answer);
                }
                let words = reply::words(&head, &body, secrets);
                let message = format!("the tool answered {}: {words}", head.status);
                let was_connected = true;
                Err(Trouble { was_connected, answer, message, retry_after, is_final: false })
            }
        }
    }

    async fn send(
        &self,
        call: &Invocation,
        url: Url,
        headers: HeaderMap,
    ) -> Result<Response, reqwest::Error> {
        let client = match call.effect {
            Effect::Read | Effect::Idempotent => &self.pooled,
            Effect::Once => &self.fresh,
        };
        let body = json!({
            "run_id": call.run_id,
            "call_id": call.call_id,
            "tool_name": call.tool.name,
            "arguments": call.arguments,
            "variables": call.variables,
        });
        client
            .post(url)
            .header(ACCEPT, "*/*")
            .headers(headers)
            .header(CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", &call.call_id.0)
            .header("traceparent", &call.traceparent)
            .body(body.to_string())
            .send()
            .await
    }
}

impl Trouble {
    /// The connection could not be made, or broke.
    fn lost(error: reqwest::Error, effect: Effect, secrets: &[&str]) -> Trouble {
        let error = error.without_url();
        let was_connected = !error.is_connect() && !error.is_builder();
        let mut refusal = None;
        let mut words = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            refusal = refusal.or_else(|| cause.downcast_ref::<Refusal>());
            words.push_str(": ");
            words.push_str(&cause.to_string());
            source = cause.source();
        }
        let what = match (refusal, was_connected) {
            (Some(refusal), _) => refusal.to_string(),
            (None, false) => format!("the tool can't be reached: {words}"),
            (None, true) => format!("the connection to the tool broke: {words}"),
        };
        let message = reply::mask(what, secrets);
        let answer = match (was_connected, effect) {
            (true, Effect::Once) => unknown(&message),
            (true, Effect::Read | Effect::Idempotent) | (false, _) => {
                Answer::failed(message.clone(), Outcome::Error)
            }
        };
        let is_final = refusal.is_some() || error.is_builder();
        Trouble { was_connected, answer, message, retry_after: None, is_final }
    }
}

/// The answer to a call that may have taken effect, and must not be made again.
pub(super) fn unknown(why: &str) -> Answer {
    let words = format!(
        "{why}. The outcome of the call is not known: it may or may not have taken effect. Check \
         before doing it again."
    );
    Answer::failed(words, Outcome::Unknown)
}

/// Whether a try that failed is followed by another: the effect allows it, tries are left, and the
/// wait is over before the tool's time is.
fn settle(call: &Invocation, trouble: Trouble, since: Instant) -> Tried {
    let is_allowed = match call.effect {
        Effect::Read | Effect::Idempotent => true,
        Effect::Once => !trouble.was_connected,
    };
    let wait = backoff(call.try_number, call.jitter).max(trouble.retry_after.unwrap_or_default());
    let is_in_time = wait < call.until.saturating_duration_since(Instant::now());
    if trouble.is_final || !is_allowed || !is_in_time || call.try_number >= limits::TOOL_TRIES {
        return Tried::Answered(trouble.answer);
    }
    let words: Vec<&str> = trouble.message.split_whitespace().collect();
    Tried::Failed {
        wait,
        failed: FailedTry {
            http_status: trouble.answer.http_status,
            message: words.join(" ").chars().take(limits::ERROR_CHARS).collect(),
            elapsed_time: since.elapsed().as_secs_f64(),
        },
    }
}

/// Doubled with each try, half of it at random.
fn backoff(try_number: u32, jitter: f64) -> Duration {
    let doublings = i32::try_from(try_number.clamp(1, limits::TOOL_TRIES)).unwrap_or(1) - 1;
    let seconds = BACKOFF_FIRST * 2f64.powi(doublings) * (0.5 + jitter.clamp(0.0, 1.0) / 2.0);
    // A jitter that is no number makes no wait, not a panic.
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn head_of(response: &Response) -> Head {
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let media_type = text(CONTENT_TYPE).and_then(|value| value.split(';').next()).unwrap_or("");
    let encoding = response
        .headers()
        .get(CONTENT_ENCODING)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase());
    Head {
        status: response.status().as_u16(),
        media_type: media_type.trim().to_ascii_lowercase(),
        encoding: encoding.filter(|encoding| !["", "identity"].contains(&encoding.as_str())),
        length: response.content_length(),
    }
}

/// A body of at most so many bytes; more is not read.
async fn read(mut response: Response, most: usize) -> Result<Body, reqwest::Error> {
    let mut bytes = Vec::new();
    if most == 0 {
        return Ok(Body { bytes, is_cut: true });
    }
    while let Some(chunk) = response.chunk().await? {
        let room = most - bytes.len();
        bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok(Body { bytes, is_cut: true });
        }
    }
    Ok(Body { bytes, is_cut: false })
}

/// The wait that a tool asks for, in seconds or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Duration::try_from(until.duration_since(jiff::Timestamp::now())).ok()
}

fn client(guard: &Guard, idle_max: usize) -> Result<Client, reqwest::Error> {
    // A machine without certificates of its own (a bare container) uses the built-in ones.
    builder(guard, idle_max).build().or_else(|_no_certificates| {
        let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
        let certificates = roots.filter_map(|der| Certificate::from_der(der).ok());
        builder(guard, idle_max).tls_certs_only(certificates).build()
    })
}

/// Nothing happens behind the log's back: no redirect, no proxy, no retry, and no address that the
/// guard has not seen.
fn builder(guard: &Guard, idle_max: usize) -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("runledger/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(guard.clone())
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(idle_max)
        .tcp_nodelay(true)
}

#[cfg(test)]
mod tests;
