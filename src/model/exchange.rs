//! One call of a provider over HTTP: the request goes out, the reply is read within its clocks. It
//! is the same for every dialect.

use std::error::Error as _;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{RequestBuilder, Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::endpoint::{Endpoint, Patience};
use super::reading::{Assemble, Reading};
use super::{Delta, Failure, Remedy, Reply, failure};
use crate::run::event::AbortReason;

/// The largest error body that is read, and how long: it only has to be told.
const ERROR_BYTES_MAX: usize = 64 * 1024;
const ERROR_TIME: Duration = Duration::from_secs(5);

/// The largest answer that is read where a server does not stream.
const WHOLE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Characters of a call's id that are kept.
const REQUEST_ID_CHARS_MAX: usize = 128;

/// Where a call's id may stand.
const REQUEST_ID_HEADERS: [&str; 4] =
    ["x-request-id", "request-id", "x-litellm-call-id", "x-generation-id"];

/// Makes the call, where the endpoint has a place for it, and sends its output through `deltas`.
///
/// # Cancel safety
/// Dropping the future closes the connection to the provider and gives the place back.
pub(super) async fn call<A: Assemble>(
    endpoint: &Endpoint,
    post: RequestBuilder,
    assembly: A,
    deltas: mpsc::Sender<Delta>,
) -> Result<Reply, Failure> {
    let _place = match &endpoint.places {
        Some(places) => Some(places.acquire().await.expect("it is never closed")),
        None => None,
    };
    let called = exchange(endpoint.patience, post, assembly, deltas).await;
    called.map_err(|failure| endpoint.without_secrets(failure))
}

async fn exchange<A: Assemble>(
    patience: Patience,
    post: RequestBuilder,
    assembly: A,
    deltas: mpsc::Sender<Delta>,
) -> Result<Reply, Failure> {
    let progress_until = Instant::now() + patience.progress;
    let sent = timeout_at(progress_until, post.send()).await;
    let silent = |_elapsed| Failure { has_begun: true, ..stalled("no answer", patience.progress) };
    let response = sent.map_err(silent)?.map_err(unanswered)?;
    if response.status() != StatusCode::OK {
        return Err(refused(response).await);
    }
    let request_id = request_id(response.headers());
    let media_type = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let is_whole = media_type.is_some_and(|kind| kind.starts_with("application/json"));
    let reading = Reading::new(assembly);
    let mut stream = Stream { response, patience, reading, deltas, progress_until };
    let read = if is_whole { stream.read_whole().await } else { stream.read().await };
    stream.reading.conclude(read, request_id)
}

/// A reply on its way.
struct Stream<A> {
    response: Response,
    patience: Patience,
    reading: Reading<A>,
    deltas: mpsc::Sender<Delta>,
    progress_until: Instant,
}

impl<A: Assemble> Stream<A> {
    /// Reads to the dialect's end or the body's; after the message is whole, for the usage's time
    /// at most.
    async fn read(&mut self) -> Result<(), Failure> {
        let mut usage_until: Option<Instant> = None;
        let mut deltas = Vec::new();
        loop {
            let silence_until = Instant::now() + self.patience.silence;
            let until = usage_until.unwrap_or(silence_until.min(self.progress_until));
            let Ok(read) = timeout_at(until, self.response.chunk()).await else {
                let is_silent = until == silence_until;
                return Err(if is_silent {
                    stalled("no byte", self.patience.silence)
                } else {
                    stalled("no data", self.patience.progress)
                });
            };
            let Some(bytes) = read.map_err(|error| lost(error, "the stream broke off"))? else {
                break;
            };
            let pushed = self.reading.push(&bytes, &mut deltas);
            self.send(&mut deltas).await?;
            if pushed? {
                self.progress_until = Instant::now() + self.patience.progress;
            }
            if self.reading.is_over() {
                return Ok(());
            }
            if self.reading.assembly.is_whole() && usage_until.is_none() {
                usage_until = Some(Instant::now() + self.patience.usage);
            }
        }
        let finished = self.reading.finish(&mut deltas);
        self.send(&mut deltas).await?;
        finished
    }

    /// Reads an answer that is not streamed.
    async fn read_whole(&mut self) -> Result<(), Failure> {
        let body = timeout_at(self.progress_until, read(&mut self.response, WHOLE_BYTES_MAX)).await;
        let body = body.map_err(|_elapsed| stalled("no end", self.patience.progress))??;
        let mut deltas = Vec::new();
        let taken = self.reading.whole(&body, &mut deltas);
        self.send(&mut deltas).await?;
        taken
    }

    async fn send(&self, deltas: &mut Vec<Delta>) -> Result<(), Failure> {
        for delta in deltas.drain(..) {
            let gone = |_closed| failure::transport(AbortReason::Cut, "nobody listens any more");
            self.deltas.send(delta).await.map_err(gone)?;
        }
        Ok(())
    }
}

async fn refused(mut response: Response) -> Failure {
    let status = response.status().as_u16();
    let wait = failure::retry_after(response.headers(), jiff::Timestamp::now());
    let body = tokio::time::timeout(ERROR_TIME, read(&mut response, ERROR_BYTES_MAX)).await;
    // The status says enough where its body can't be read.
    let body = body.ok().and_then(Result::ok).unwrap_or_default();
    failure::of_status(status, &failure::words_of(&body), wait)
}

/// A body of at most so many bytes; more is cut off.
async fn read(response: &mut Response, most: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(bytes) =
        response.chunk().await.map_err(|error| lost(error, "the answer broke off"))?
    {
        body.extend_from_slice(&bytes);
        if body.len() > most {
            body.truncate(most);
            break;
        }
    }
    Ok(body)
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    let found = REQUEST_ID_HEADERS.iter().find_map(|name| headers.get(*name)?.to_str().ok());
    found.map(|id| id.chars().take(REQUEST_ID_CHARS_MAX).collect())
}

fn stalled(what: &str, within: Duration) -> Failure {
    let words = format!("the provider sent {what} for {} s", within.as_secs_f64());
    failure::transport(AbortReason::Stalled, words)
}

/// The request has no answer. Where there was a connection, the provider may have read it, and bills
/// what it reads.
fn unanswered(error: reqwest::Error) -> Failure {
    let has_begun = !error.is_connect() && !error.is_builder();
    Failure { has_begun, ..lost(error, "the request failed") }
}

/// An error of the transport, without the URL: it may carry secrets.
fn lost(error: reqwest::Error, what: &str) -> Failure {
    let error = error.without_url();
    let is_body = error.is_body() || error.is_decode();
    let reason = if is_body { AbortReason::Cut } else { AbortReason::Connection };
    let mut words = format!("{what}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        words.push_str(": ");
        words.push_str(&cause.to_string());
        source = cause.source();
    }
    let failure = failure::transport(reason, words);
    // A request that can't even be built will never be.
    if error.is_builder() { Failure { remedy: Remedy::Final, ..failure } } else { failure }
}

#[cfg(test)]
mod tests;
