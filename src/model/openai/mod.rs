//! OpenAI Chat Completions, as OpenAI and the many servers that speak its dialect send it.

mod assembly;
mod body;

use std::sync::Arc;

use tokio::sync::mpsc;

use super::endpoint::Endpoint;
use super::reading::Assemble;
use super::{Delta, Failure, Reply, exchange};
use crate::run::Request;
use assembly::Assembly;

/// What differs between servers of this dialect.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The field of the output limit.
    pub output_limit_field: &'static str,
    /// Whether to ask for the usage.
    pub has_stream_usage: bool,
}

/// One model of a provider. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OpenAi {
    endpoint: Arc<Endpoint>,
    settings: Settings,
    model: String,
}

impl OpenAi {
    /// The provider's model of this name.
    pub fn new(endpoint: Arc<Endpoint>, settings: Settings, model: &str) -> OpenAi {
        OpenAi { endpoint, settings, model: model.to_owned() }
    }

    /// Calls the model once: see [`super::Model::call`].
    pub(super) async fn call(
        &self,
        request: &Request,
        deltas: mpsc::Sender<Delta>,
    ) -> Result<Reply, Failure> {
        let provider = &self.endpoint.provider;
        let body = body::body(request, provider, self.settings, &self.model);
        let mut post = self.endpoint.post("chat/completions", &body);
        if let Some(key) = &self.endpoint.api_key {
            post = post.bearer_auth(key);
        }
        exchange::call(&self.endpoint, post, Assembly::new(provider), deltas).await
    }
}

/// An empty reply of this provider.
pub(super) fn assembly(provider: &str) -> impl Assemble {
    Assembly::new(provider)
}
