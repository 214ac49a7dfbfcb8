//! OpenAI Chat Completions, as OpenAI and the many servers that speak its dialect send it.

mod assembly;
mod body;

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Response};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use super::sse_decoder::SseDecoder;
use super::{Delta, Failure, Remedy, Reply, failure};
use crate::run::Request;
use crate::run::event::AbortReason;
use assembly::Assembly;

/// The largest error body that is read, and how long: it only has to be told.
const ERROR_BYTES_MAX: usize = 64 * 1024;
const ERROR_TIME: Duration = Duration::from_secs(5);

/// The largest answer that is read where a server does not stream.
const WHOLE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A header's value that is shorter is a label such as a team's name, and masking it would spoil
/// messages.
const SECRET_BYTES_MIN: usize = 8;

/// Where a call's id may stand.
const REQUEST_ID_HEADERS: [&str; 4] =
    ["x-request-id", "request-id", "x-litellm-call-id", "x-generation-id"];

/// How long a stream may be quiet.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Without a byte, once the stream has begun; comments count.
    pub silence: Duration,
    /// Without data, from the request on; comments don't count. A local server reads a long
    /// prompt for minutes before it says anything.
    pub progress: Duration,
    /// For the usage, after the message is whole.
    pub usage: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            silence: Duration::from_secs(90),
            progress: Duration::from_secs(600),
            usage: Duration::from_secs(5),
        }
    }
}

/// A provider's server.
#[derive(Debug)]
pub struct Endpoint {
    /// The provider's name, before the slash in a model's.
    pub provider: String,
    /// With `/v1`, without a slash at the end.
    pub base_url: String,
    /// The key; none for servers without keys. Never shown: errors have it taken out.
    pub api_key: Option<String>,
    /// Sent with every request; marked sensitive where they were secrets.
    pub headers: HeaderMap,
    /// The field of the output limit.
    pub output_limit_field: &'static str,
    /// Whether to ask for the usage.
    pub has_stream_usage: bool,
    /// Requests at a time.
    pub places: Option<Semaphore>,
    /// How long its streams may be quiet.
    pub patience: Patience,
    /// Shared by all providers.
    pub client: Client,
}

/// One model of a provider. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OpenAi {
    endpoint: Arc<Endpoint>,
    model: String,
}

impl OpenAi {
    /// The provider's model of this name.
    pub fn new(endpoint: Arc<Endpoint>, model: &str) -> OpenAi {
        OpenAi { endpoint, model: model.to_owned() }
    }

    /// Calls the model once: see [`super::Model::call`].
    pub(super) async fn call(
        &self,
        request: &Request,
        deltas: mpsc::Sender<Delta>,
    ) -> Result<Reply, Failure> {
        let _place = match &self.endpoint.places {
            Some(places) => Some(places.acquire().await.expect("it is never closed")),
            None => None,
        };
        let called = self.exchange(request, deltas).await;
        called.map_err(|failure| self.without_secrets(failure))
    }

    async fn exchange(
        &self,
        request: &Request,
        deltas: mpsc::Sender<Delta>,
    ) -> Result<Reply, Failure> {
        let patience = self.endpoint.patience;
        let progress_until = Instant::now() + patience.progress;
        let sent = timeout_at(progress_until, self.send(request)).await;
        let response = sent.map_err(|_elapsed| stalled("no answer", patience.progress))??;
        let request_id = request_id(response.headers());
        if response.status() != reqwest::StatusCode::OK {
            return Err(refused(response).await);
        }
        let assembly = Assembly::new(&self.endpoint.provider);
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
        if media_type.is_some_and(|kind| kind.starts_with("application/json")) {
            let body = timeout_at(progress_until, read(response, WHOLE_BYTES_MAX)).await;
            let body = body.map_err(|_elapsed| stalled("no end", patience.progress))??;
            return whole(assembly, &body, &deltas).await?.end(request_id);
        }
        let mut stream = Stream { response, patience, assembly, deltas, progress_until };
        match stream.read().await {
            Ok(()) => stream.assembly.end(request_id),
            // What follows the end of the message can't take it back.
            Err(_late) if stream.assembly.is_whole() => stream.assembly.end(request_id),
            Err(failure) => {
                let usage = failure.usage.clone().or_else(|| stream.assembly.usage());
                Err(Failure { usage, ..failure })
            }
        }
    }

    async fn send(&self, request: &Request) -> Result<Response, Failure> {
        let body = body::body(request, &self.endpoint, &self.model).to_string();
        let mut post = self
            .endpoint
            .client
            .post(format!("{}/chat/completions", self.endpoint.base_url))
            .headers(self.endpoint.headers.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "text/event-stream")
            .body(body);
        if let Some(key) = &self.endpoint.api_key {
            post = post.bearer_auth(key);
        }
        post.send().await.map_err(|error| lost(error, "the request failed"))
    }

    /// No error may show the key or a configured header: providers repeat them in theirs.
    fn without_secrets(&self, mut failure: Failure) -> Failure {
        let headers = self.endpoint.headers.values().filter_map(|value| value.to_str().ok());
        let headers = headers.filter(|value| value.len() >= SECRET_BYTES_MIN);
        let key = self.endpoint.api_key.as_deref().filter(|key| !key.is_empty());
        for secret in key.into_iter().chain(headers) {
            failure.message = failure.message.replace(secret, "***");
        }
        failure
    }
}

/// A reply on its way.
struct Stream {
    response: Response,
    patience: Patience,
    assembly: Assembly,
    deltas: mpsc::Sender<Delta>,
    progress_until: Instant,
}

impl Stream {
    /// Reads to `[DONE]` or the end; after the terminal reason, for the usage's time at most.
    async fn read(&mut self) -> Result<(), Failure> {
        let mut decoder = SseDecoder::default();
        let mut usage_until: Option<Instant> = None;
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
            let events = decoder.push(&bytes).map_err(|error| {
                failure::transport(AbortReason::ProviderError, error.to_string())
            })?;
            for event in events {
                if self.take(&event.data).await? {
                    return Ok(());
                }
            }
            if self.assembly.is_whole() && usage_until.is_none() {
                usage_until = Some(Instant::now() + self.patience.usage);
            }
        }
        if let Some(event) = decoder.finish() {
            self.take(&event.data).await?;
        }
        Ok(())
    }

    /// Takes one event in; true at `[DONE]`.
    async fn take(&mut self, data: &str) -> Result<bool, Failure> {
        self.progress_until = Instant::now() + self.patience.progress;
        if data.trim() == "[DONE]" {
            return Ok(true);
        }
        let chunk: Value = serde_json::from_str(data).map_err(|_broken| {
            let head: String = data.chars().take(200).collect();
            let words = format!("the stream holds something that is no JSON: {head}");
            failure::transport(AbortReason::ProviderError, words)
        })?;
        send(&self.deltas, self.assembly.take(&chunk)?).await?;
        Ok(false)
    }
}

/// Takes a whole answer in.
async fn whole(
    mut assembly: Assembly,
    body: &[u8],
    deltas: &mpsc::Sender<Delta>,
) -> Result<Assembly, Failure> {
    let answer: Value = serde_json::from_slice(body).map_err(|_broken| {
        let words = format!("the answer is no JSON: {}", failure::words_of(body));
        failure::transport(AbortReason::ProviderError, words)
    })?;
    send(deltas, assembly.take(&answer)?).await?;
    Ok(assembly)
}

async fn send(to: &mpsc::Sender<Delta>, deltas: Vec<Delta>) -> Result<(), Failure> {
    for delta in deltas {
        let gone = |_closed| failure::transport(AbortReason::Cut, "nobody listens any more");
        to.send(delta).await.map_err(gone)?;
    }
    Ok(())
}

async fn refused(response: Response) -> Failure {
    let status = response.status().as_u16();
    let wait = failure::retry_after(response.headers(), jiff::Timestamp::now());
    let body = tokio::time::timeout(ERROR_TIME, read(response, ERROR_BYTES_MAX)).await;
    // The status says enough where its body can't be read.
    let body = body.ok().and_then(Result::ok).unwrap_or_default();
    failure::of_status(status, &failure::words_of(&body), wait)
}

/// A body of at most so many bytes; more is cut off.
async fn read(mut response: Response, most: usize) -> Result<Vec<u8>, Failure> {
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
    found.map(|id| id.chars().take(128).collect())
}

fn stalled(what: &str, within: Duration) -> Failure {
    let words = format!("the provider sent {what} for {} s", within.as_secs_f64());
    failure::transport(AbortReason::Stalled, words)
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
impl Endpoint {
    fn for_tests(base_url: &str) -> Endpoint {
        Endpoint {
            provider: "stub".to_owned(),
            base_url: base_url.to_owned(),
            api_key: Some("sk-secret".to_owned()),
            headers: HeaderMap::new(),
            output_limit_field: "max_tokens",
            has_stream_usage: true,
            places: None,
            patience: Patience::default(),
            client: super::registry::client().expect("a client"),
        }
    }
}
