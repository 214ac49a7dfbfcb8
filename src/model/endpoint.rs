//! A provider's server: where it is, how it is spoken to, and what it may cost in time.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::{Failure, openai};

/// A header's value that is shorter is a label such as a team's name, and masking it would spoil
/// messages.
const SECRET_BYTES_MIN: usize = 8;

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

/// The protocol that a server speaks.
#[derive(Clone, Copy, Debug)]
pub enum Dialect {
    /// OpenAI's.
    ChatCompletions(openai::Settings),
    /// Anthropic's.
    Messages,
}

/// A provider's server.
#[derive(Debug)]
pub struct Endpoint {
    /// The provider's name, before the slash in a model's.
    pub provider: String,
    /// What it speaks.
    pub dialect: Dialect,
    /// Without a slash at the end; for chat completions with `/v1`, for Messages without.
    pub base_url: String,
    /// The key; none for servers without keys. Never shown: errors have it taken out.
    pub api_key: Option<String>,
    /// Sent with every request; marked sensitive where they were secrets.
    pub headers: HeaderMap,
    /// Requests at a time.
    pub places: Option<Semaphore>,
    /// How long its streams may be quiet.
    pub patience: Patience,
    /// Shared by all providers.
    pub client: Client,
}

impl Endpoint {
    /// A request to this path below the base URL, without its key.
    pub(super) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client
            .post(format!("{}/{path}", self.base_url))
            .headers(self.headers.clone())
            .header("content-type", "application/json")
            .header("accept", "text/event-stream")
            .body(body.to_string())
    }

    /// No error may show the key or a configured header: providers repeat them in theirs.
    pub(super) fn without_secrets(&self, mut failure: Failure) -> Failure {
        let headers = self.headers.values().filter_map(|value| value.to_str().ok());
        let headers = headers.filter(|value| value.len() >= SECRET_BYTES_MIN);
        let key = self.api_key.as_deref().filter(|key| !key.is_empty());
        for secret in key.into_iter().chain(headers) {
            failure.message = failure.message.replace(secret, "***");
        }
        failure
    }
}

#[cfg(test)]
impl Endpoint {
    pub(super) fn for_tests(base_url: &str, dialect: Dialect) -> Endpoint {
        Endpoint {
            provider: "stub".to_owned(),
            dialect,
            base_url: base_url.to_owned(),
            api_key: Some("sk-secret".to_owned()),
            headers: HeaderMap::new(),
            places: None,
            patience: Patience::default(),
            client: super::registry::client().expect("a client"),
        }
    }
}
