//! Anthropic Messages, as Anthropic and the servers that speak its dialect send it.

mod assembly;
mod body;

use std::sync::Arc;

use reqwest::Url;
use reqwest::header::HeaderValue;
use tokio::sync::mpsc;

use super::endpoint::Endpoint;
use super::reading::Assemble;
use super::{Delta, Failure, Reply, exchange};
use crate::run::Request;
use assembly::Assembly;
pub use body::REASONING_EFFORTS;

/// The version of the API that is spoken: the only one there is.
const VERSION: &str = "2023-06-01";

/// Where the key goes as `x-api-key` alone; other servers may look for a bearer.
const OWN_HOST: &str = "api.anthropic.com";

/// One model of a provider. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Anthropic {
    endpoint: Arc<Endpoint>,
    model: String,
}

impl Anthropic {
    /// The provider's model of this name.
    pub fn new(endpoint: Arc<Endpoint>, model: &str) -> Anthropic {
        Anthropic { endpoint, model: model.to_owned() }
    }

    /// Calls the model once: see [`super::Model::call`].
    pub(super) async fn call(
        &self,
        request: &Request,
        deltas: mpsc::Sender<Delta>,
    ) -> Result<Reply, Failure> {
        let provider = &self.endpoint.provider;
        let body = body::body(request, provider, &self.model);
        let mut post = self.endpoint.post("v1/messages", &body);
        if !self.endpoint.headers.contains_key("anthropic-version") {
            post = post.header("anthropic-version", VERSION);
        }
        if let Some(key) = &self.endpoint.api_key {
            if let Ok(mut value) = HeaderValue::from_str(key) {
                value.set_sensitive(true);
                post = post.header("x-api-key", value);
            }
            if !is_own_host(&self.endpoint.base_url) {
                post = post.bearer_auth(key);
            }
        }
        exchange::call(&self.endpoint, post, Assembly::new(provider), deltas).await
    }
}

fn is_own_host(base_url: &str) -> bool {
    Url::parse(base_url).is_ok_and(|url| url.host_str() == Some(OWN_HOST))
}

/// An empty reply of this provider.
pub(super) fn assembly(provider: &str) -> impl Assemble {
    Assembly::new(provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_22_only_its_own_host_is_sent_no_bearer() {
        assert!(is_own_host("https://api.anthropic.com"));
        for other in ["http://localhost:8000", "https://api.anthropic.com.evil.example", "x"] {
            assert!(!is_own_host(other), "{other}");
        }
    }
}
