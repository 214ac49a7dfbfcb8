//! A small client of the native API, for `runledger run` and `runledger healthcheck`: create a run so
//! that a lost answer starts no second one, follow it over broken connections, cancel it.

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LOCATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::run::Seq;

mod following;
mod health;
mod refusal;
mod screen;
mod session;

pub use health::Question;
pub use refusal::Refusal;
pub use screen::Look;
pub use session::{Ask, Outcome, session};

/// How long the head of an answer may take: creating and cancelling are one commit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Pauses between tries: the first is not noticed, the longest is what a restart may cost at most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A server, and how to talk to it.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    /// Without a slash at its end.
    url: String,
    key: Option<HeaderValue>,
    /// How long the server may be away.
    patience: Duration,
}

/// A server that can't be talked to, whatever it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongServer {
    /// No address.
    #[error("{0:?} is no URL of a server; give e.g. http://127.0.0.1:8080")]
    Url(String),
    /// Bytes that no header can carry.
    #[error("the key can't be sent: it must be visible ASCII")]
    Key,
}

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Nobody answered with anything of use, for as long as it was tried.
    #[error("can't reach {url}: {reason}")]
    Unreachable {
        /// The server.
        url: String,
        /// What happened last.
        reason: String,
    },
    /// The server said no, and would say it again.
    #[error("{0}")]
    Refused(Refusal),
}

/// How one try failed.
enum Miss {
    /// It may do better in a while; no sooner than the server asked.
    Again { reason: String, after: Option<Duration> },
    /// No connection was made: nothing has reached the server.
    NoConnection(String),
    /// The server said no.
    No(Refusal),
}

impl Client {
    /// Talks to the server at `url` through `http`, which must follow no redirects.
    ///
    /// # Errors
    /// Where the URL or the key can't be used.
    pub fn new(
        http: reqwest::Client,
        url: &str,
        key: Option<&str>,
        patience: Duration,
    ) -> Result<Client, WrongServer> {
        let is_server = |parsed: &Url| {
            ["http", "https"].contains(&parsed.scheme())
                && parsed.has_host()
                && parsed.query().is_none()
                && parsed.fragment().is_none()
        };
        let parsed = Url::parse(url).ok().filter(is_server);
        let parsed = parsed.ok_or_else(|| WrongServer::Url(url.to_owned()))?;
        let key = key.map(|key| {
            let bearer = Some(key).filter(|key| key.bytes().all(|byte| byte.is_ascii_graphic()));
            let mut value = bearer
                .and_then(|key| HeaderValue::try_from(format!("Bearer {key}")).ok())
                .ok_or(WrongServer::Key)?;
            value.set_sensitive(true);
            Ok(value)
        });
        let url = parsed.as_str().trim_end_matches('/').to_owned();
        Ok(Client { http, url, key: key.transpose()?, patience })
    }

    /// Creates the run that `body` asks for, and gives its id. `key` is this intent's own: however
    /// often an answer is lost, there is one run.
    ///
    /// # Errors
    /// [`Failed`]; at once where nobody listens.
    ///
    /// # Cancel safety
    /// Dropped, it leaves open whether there is a run; the same key finds out.
    pub async fn create(&self, body: &Value, key: &str) -> Result<String, Failed> {
        let text = body.to_string();
        let request = || {
            self.request(Method::POST, "/runs")
                .header(CONTENT_TYPE, "application/json")
                .header("idempotency-key", key)
                .body(text.clone())
        };
        let response = self.insist(request, true).await?;
        let place = response.headers().get(CONTENT_LOCATION).and_then(|value| value.to_str().ok());
        let run = place.and_then(|place| place.strip_prefix("/runs/")).map(str::to_owned);
        run.ok_or_else(|| {
            Failed::Refused(Refusal::new(format!("{} answers, but is no Runledger", self.url)))
        })
    }

    /// Asks for the run to be cancelled. It ends a little later, as its log will say.
    ///
    /// # Errors
    /// [`Failed`].
    ///
    /// # Cancel safety
    /// Dropped, it leaves open whether the run is cancelled; asking again does no harm.
    pub async fn cancel(&self, run: &str) -> Result<(), Failed> {
        let path = format!("/runs/{run}");
        self.insist(|| self.request(Method::DELETE, &path), false).await.map(|_accepted| ())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.key {
            Some(key) => request.header(AUTHORIZATION, key),
            None => request,
        }
    }

    /// Opens the stream of the run's events behind `after`, once.
    async fn open(&self, run: &str, after: Seq) -> Result<Response, Miss> {
        let request = self.request(Method::GET, &format!("/runs/{run}/stream"));
        let request = request.header(ACCEPT, "text/event-stream");
        answer(request.header("last-event-id", after.to_string())).await
    }

    /// Asks until there is an answer, at most as long as patience lasts.
    async fn insist(
        &self,
        request: impl Fn() -> RequestBuilder,
        must_connect: bool,
    ) -> Result<Response, Failed> {
        let deadline = Instant::now() + self.patience;
        let mut pause = PAUSE_MIN;
        let mut is_first = true;
        loop {
            let (reason, after) = match answer(request()).await {
                Ok(response) => return Ok(response),
                Err(Miss::No(refusal)) => return Err(Failed::Refused(refusal)),
                Err(Miss::NoConnection(reason)) if must_connect && is_first => {
                    return Err(self.unreachable(reason));
                }
                Err(Miss::NoConnection(reason)) => (reason, None),
                Err(Miss::Again { reason, after }) => (reason, after),
            };
            let wait = after.unwrap_or_default().max(pause);
            if Instant::now() + wait > deadline {
                return Err(self.unreachable(reason));
            }
            sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
            is_first = false;
        }
    }

    fn unreachable(&self, reason: String) -> Failed {
        Failed::Unreachable { url: self.url.clone(), reason }
    }
}

/// One try: the head of a good answer.
async fn answer(request: RequestBuilder) -> Result<Response, Miss> {
    let response = match timeout(ANSWER_TIMEOUT, request.send()).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) if error.is_connect() => return Err(Miss::NoConnection(words(&error))),
        Ok(Err(error)) => return Err(Miss::Again { reason: words(&error), after: None }),
        Err(_elapsed) => {
            let reason = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
            return Err(Miss::Again { reason, after: None });
        }
    };
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let after = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let after = after.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let read = timeout(ANSWER_TIMEOUT, refusal::read(response)).await;
    let refusal = read.unwrap_or_else(|_elapsed| refusal::of(status.as_u16(), b""));
    let again = [408, 425, 429].map(|code| StatusCode::from_u16(code).ok());
    if status.is_server_error() || again.contains(&Some(status)) {
        return Err(Miss::Again { reason: refusal.to_string(), after });
    }
    Err(Miss::No(refusal))
}

/// What went wrong, down to its cause, without the URL: the caller names the server.
fn words(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
