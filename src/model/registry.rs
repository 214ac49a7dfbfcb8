//! The models of this installation, by name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, redirect};

use super::Model;
use super::anthropic::Anthropic;
use super::endpoint::{Dialect, Endpoint};
use super::openai::OpenAi;
use super::scripted::Scripted;

/// The provider of the scripted models; it is always there.
pub const DEMO: &str = "demo";

/// How long it may take to reach a provider.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Providers and gateways close idle connections after about a minute.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// The configured providers.
#[derive(Debug)]
pub struct Registry {
    endpoints: BTreeMap<String, Arc<Endpoint>>,
    default_model: String,
    #[cfg(feature = "testing")]
    play: Option<Arc<dyn super::stand_in::Play>>,
}

impl Registry {
    /// These providers, and the demo.
    pub fn new(endpoints: Vec<Endpoint>, default_model: String) -> Registry {
        let by_name = |endpoint: Endpoint| (endpoint.provider.clone(), Arc::new(endpoint));
        Registry {
            endpoints: endpoints.into_iter().map(by_name).collect(),
            default_model,
            #[cfg(feature = "testing")]
            play: None,
        }
    }

    /// Every model is played.
    #[cfg(feature = "testing")]
    pub fn played(play: Arc<dyn super::stand_in::Play>) -> Registry {
        Registry { play: Some(play), ..Registry::new(Vec::new(), String::new()) }
    }

    /// The model of this name: `provider/model`, where the model's name is everything behind the
    /// first slash.
    pub fn resolve(&self, name: &str) -> Option<Model> {
        #[cfg(feature = "testing")]
        if let Some(play) = &self.play {
            let (name, play) = (name.to_owned(), Arc::clone(play));
            return Some(Model::StandIn(super::stand_in::StandIn { name, play }));
        }
        let (provider, model) = name.split_once('/')?;
        if provider == DEMO {
            return Scripted::named(model).map(Model::Scripted);
        }
        let endpoint = self.endpoints.get(provider)?;
        Some(match endpoint.dialect {
            Dialect::ChatCompletions(settings) => {
                Model::OpenAi(OpenAi::new(Arc::clone(endpoint), settings, model))
            }
            Dialect::Messages => Model::Anthropic(Anthropic::new(Arc::clone(endpoint), model)),
        })
    }

    /// What is on offer: `provider/*` for each endpoint, then the demo's scripts.
    pub fn offers(&self) -> Vec<String> {
        let endpoints = self.endpoints.keys().map(|name| format!("{name}/*"));
        endpoints.chain([format!("{DEMO}/{}", Scripted::ASSISTANT)]).collect()
    }

    /// The model of agents that name none.
    pub fn default_model(&self) -> &str {
        &self.default_model
    }
}

/// The HTTP client that all providers share. There is no time limit on the whole of an answer:
/// streams have their own clocks.
///
/// # Errors
/// Where TLS can't be set up, with the system's certificates or with the built-in ones.
pub fn client() -> Result<Client, reqwest::Error> {
    // An error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A machine without certificates of its own (a bare container) uses the built-in ones.
    builder().build().or_else(|_no_certificates| {
        let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
        let certificates = roots.filter_map(|der| Certificate::from_der(der).ok());
        builder().tls_certs_only(certificates).build()
    })
}

fn builder() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("runledger/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_nodelay(true)
}
