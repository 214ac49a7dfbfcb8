//! The composition root: builds everything, starts it, and knows the order in which it stops.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::admission::{BootClock, Lease, connections_max};
use crate::api::auth::Keys;
use crate::api::guard::Guard;
use crate::api::{self, ApiState, StreamTokens, server};
use crate::config::{self, Config, Provider, ProviderKind};
use crate::failpoint;
use crate::model::endpoint::{Dialect, Endpoint, Patience};
use crate::model::scripted::Scripted;
use crate::model::{Registry, anthropic, openai, registry};
use crate::run::{Catalog, catalog};
use crate::store::{self, PostgresOptions, Rescued, Store};
use crate::tool::{self, Toolbox, http};
use crate::worker::Drain;

mod healthcheck;
pub mod node;
mod run;

pub use crate::api::openapi::{Form as OpenapiForm, text as openapi};
pub use healthcheck::healthcheck;
pub use run::run;

use node::{Doors, Running};

/// How often durations are folded into their histograms.
const UPKEEP: Duration = Duration::from_secs(5);

/// Serves until `stop` is cancelled, then drains: no new work, open turns to their ends within the
/// configured time, everything committed, every run handed over.
///
/// # Errors
/// Where the address, the store or TLS can't be had; and where another process has taken over this
/// node's runs.
pub async fn serve(
    config: Config,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    failpoint::setup();
    let service = Service::open(&config, metrics, stop).await?;
    greet(&config, &service);
    let Rescued { crashed, handed_over } = service.rescued;
    if crashed + handed_over > 0 {
        tracing::info!(
            runs.crashed = crashed,
            runs.handed_over = handed_over,
            "runs of an earlier start go on",
        );
    }
    service.run(config.drain).await
}

/// The service, put together; its loops run, and requests are answered.
struct Service {
    address: SocketAddr,
    store: Store,
    lease: Lease,
    rescued: Rescued,
    models: Arc<Registry>,
    running: Running,
}

impl Service {
    async fn open(
        config: &Config,
        metrics: PrometheusHandle,
        stop: CancellationToken,
    ) -> anyhow::Result<Service> {
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("can't listen on {}", config.listen))?;
        let address = listener.local_addr()?;
        let store = open_store(config).await?;
        let (lease, rescued) = node::register(&store, &machine_name(), BootClock::Machine).await?;
        let models = Arc::new(models(config)?);
        let toolbox = Toolbox::new(caller(config)?);
        let (store_of, lease_of) = (&store, &lease);
        let parts = Parts {
            config,
            store: store_of,
            lease: lease_of,
            models: &models,
            toolbox,
            metrics,
            stop,
        };
        let running = parts.start(listener);
        Ok(Service { address, store, lease, rescued, models, running })
    }

    /// Until it is told to stop, then until everything has ended.
    async fn run(self, drain_time: Duration) -> anyhow::Result<()> {
        let Service { store, lease, mut running, .. } = self;
        let ended_early = running.ended_early().await;
        running.stop(drain_time).await;
        let left = match ended_early {
            Some(why) => Err(why),
            None => node::leave(&store, lease.node().id).await,
        };
        store.close().await;
        left
    }
}

/// Brings the store's schema up to date, and says which store it was.
///
/// # Errors
/// Where the store can't be had, or its schema is a newer release's.
pub async fn migrate(config: &Config) -> anyhow::Result<String> {
    let store = open_store(config).await?;
    let what = store.describe();
    store.close().await;
    Ok(what)
}

/// PostgreSQL where it is named, else the embedded store.
async fn open_store(config: &Config) -> anyhow::Result<Store> {
    let Some(database) = &config.database else {
        return Store::open_sqlite(&config.data_dir).await;
    };
    let listen = match &database.listen {
        config::Listen::SameUrl => store::Listen::Same,
        config::Listen::Url(url) => store::Listen::At(url.expose().to_owned()),
        config::Listen::Off => store::Listen::Off,
    };
    let url = database.url.expose().to_owned();
    Store::open_postgres(PostgresOptions { url, listen, lease: config.lease }).await
}

/// What the service is made of.
struct Parts<'a> {
    config: &'a Config,
    store: &'a Store,
    lease: &'a Lease,
    models: &'a Arc<Registry>,
    toolbox: Toolbox,
    metrics: PrometheusHandle,
    stop: CancellationToken,
}

impl Parts<'_> {
    /// Puts everything together and spawns its loops.
    fn start(self, listener: TcpListener) -> Running {
        let Parts { config, store, lease, models, toolbox, metrics, stop } = self;
        let catalog = Arc::new(catalog_of(config, models, &toolbox));
        let node = node::Parts {
            store: store.clone(),
            lease: lease.clone(),
            models: Arc::clone(models),
            toolbox,
            catalog: Arc::clone(&catalog),
            slots: config.slots as usize,
            machine: machine_name(),
        };
        let drain = Drain { soon: stop.clone(), now: CancellationToken::new() };
        let (Doors { journal, hub, admission }, mut running) = node.start(drain);
        let state = ApiState {
            tokens: Arc::new(StreamTokens::new(store.clone())),
            store: store.clone(),
            journal,
            hub,
            admission,
            lease: lease.clone(),
            catalog,
            batches: api::room_for_batches(),
            stop: stop.clone(),
            metrics: metrics.clone(),
        };
        let guard = Guard {
            is_loopback: config.is_loopback(),
            is_auth_on: config.is_auth_on(),
            cors_origins: config.cors_origins.clone(),
        };
        let router = api::router(state, Arc::new(Keys::new(&config.api_keys)), guard);
        let bounds = server::Options::default();
        let connections_max = connections_max(bounds.connections_max);
        let options = server::Options { connections_max, drain_deadline: config.drain, ..bounds };
        running.tasks.spawn(server::serve(listener, router, options, stop.clone()));
        running.tasks.spawn(upkeep(metrics, stop));
        running
    }
}

/// What specs may name.
fn catalog_of(config: &Config, models: &Registry, toolbox: &Toolbox) -> Catalog {
    Catalog {
        models: models.offers(),
        default_model: models.default_model().to_owned(),
        builtins: toolbox.builtins(),
        providers: offered(config),
        secrets: config
            .secrets
            .iter()
            .map(|secret| (secret.name.clone(), secret.hosts.clone()))
            .collect(),
    }
}

async fn upkeep(metrics: PrometheusHandle, stop: CancellationToken) {
    while tokio::time::timeout(UPKEEP, stop.cancelled()).await.is_err() {
        metrics.run_upkeep();
    }
}

/// The name of this machine, for the log.
fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "node".to_owned() } else { name.to_owned() }
}

fn models(config: &Config) -> anyhow::Result<Registry> {
    let client = registry::client().context("TLS can't be set up")?;
    let endpoints = config
        .providers
        .iter()
        .map(|provider| endpoint(provider, client.clone()))
        .collect::<anyhow::Result<Vec<Endpoint>>>()?;
    let of_native = || config.providers.iter().find_map(default_model_of);
    let demo = || format!("{}/{}", registry::DEMO, Scripted::ASSISTANT);
    let default_model = config.default_model.clone().or_else(of_native).unwrap_or_else(demo);
    Ok(Registry::new(endpoints, default_model))
}

/// The providers as plain data, without addresses and keys.
fn offered(config: &Config) -> Vec<catalog::Provider> {
    let configured = config.providers.iter().map(|provider| catalog::Provider {
        name: provider.name.clone(),
        kind: provider.kind.name().to_owned(),
        models: None,
        reasoning_efforts: match provider.kind {
            ProviderKind::OpenAi => None,
            ProviderKind::Anthropic => {
                Some(anthropic::REASONING_EFFORTS.map(str::to_owned).to_vec())
            }
        },
        prices: provider.prices.clone(),
    });
    let demo = catalog::Provider {
        name: registry::DEMO.to_owned(),
        kind: registry::DEMO.to_owned(),
        models: Some(vec![Scripted::ASSISTANT.to_owned()]),
        ..catalog::Provider::default()
    };
    configured.chain([demo]).collect()
}

/// The model of agents that name none, where this provider's key is there: a fast one of its own.
fn default_model_of(provider: &Provider) -> Option<String> {
    provider.api_key.as_ref()?;
    match provider.name.as_str() {
        "openai" => Some("openai/gpt-4.1-mini".to_owned()),
        "anthropic" => Some("anthropic/claude-sonnet-4-5".to_owned()),
        _ => None,
    }
}

/// What calls tools over HTTP: through the guard, and with the secrets.
fn caller(config: &Config) -> anyhow::Result<http::Caller> {
    let secrets = config.secrets.iter().map(|secret| {
        let value = secret.value.expose().to_owned();
        (secret.name.clone(), http::Secret { value, hosts: secret.hosts.clone() })
    });
    let guard = tool::guard::Guard::new(&config.allow_networks);
    http::Caller::new(guard, secrets.collect()).context("TLS can't be set up")
}

fn endpoint(provider: &Provider, client: reqwest::Client) -> anyhow::Result<Endpoint> {
    let mut headers = HeaderMap::new();
    for (name, value) in &provider.headers {
        let mut value = HeaderValue::from_str(value.expose())?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_bytes(name.as_bytes())?, value);
    }
    let dialect = match provider.kind {
        ProviderKind::OpenAi => Dialect::ChatCompletions(openai::Settings {
            output_limit_field: provider.output_limit_field.name(),
            has_stream_usage: provider.stream_usage,
        }),
        ProviderKind::Anthropic => Dialect::Messages,
    };
    Ok(Endpoint {
        provider: provider.name.clone(),
        dialect,
        base_url: provider.base_url.clone(),
        api_key: provider.api_key.as_ref().map(|key| key.expose().to_owned()),
        headers,
        places: provider.max_concurrency.map(|most| Semaphore::new(most as usize)),
        patience: Patience::default(),
        client,
    })
}

/// Says what was started, and how to try it.
fn greet(config: &Config, service: &Service) {
    let Service { store, models, address, lease, .. } = service;
    let offers = models.offers().join(", ");
    let (auth, header) = if config.is_auth_on() {
        let keys = config.api_keys.len();
        // A key of the settings file is not shown, and the shell doesn't know it.
        let header = match std::env::var_os("RUNLEDGER_API_KEYS") {
            Some(_) => " -H \"Authorization: Bearer ${RUNLEDGER_API_KEYS%%,*}\"",
            None => " -H 'Authorization: Bearer ONE-OF-YOUR-KEYS'",
        };
        (format!("on, {keys} key(s)"), header)
    } else if config.is_loopback() {
        ("off; only this machine can connect".to_owned(), "")
    } else {
        ("OFF, and other machines can connect (--insecure-no-auth)".to_owned(), "")
    };
    let mut local = *address;
    if address.ip().is_unspecified() {
        local.set_ip([127, 0, 0, 1].into());
    }
    let body = "{\"agent\":{\"name\":\"Assistant\",\"tools\":[{\"type\":\"builtin\",\
        \"name\":\"calculator\"},{\"type\":\"builtin\",\"name\":\"current_time\"}]},\
        \"input\":\"What is 6*7, and what time is it?\"}";
    let node = match store.lease() {
        Some(time) => format!("node     {}, lease {} s\n", lease.node().name, time.as_secs_f64()),
        None => String::new(),
    };
    let greeting = format!(
        "runledger {}\nstore    {}\n{node}models   {offers} (scripted, needs no key); default {}\naddress  http://{address}\n\
         auth     {auth}\ntry      curl -N http://{local}/runs{header} \
         -H 'Accept: text/event-stream' -H 'Content-Type: application/json' -d '{body}'\n",
        env!("CARGO_PKG_VERSION"),
        store.describe(),
        models.default_model(),
    );
    // Nobody reads it: the service serves all the same.
    let _ = std::io::stdout().write_all(greeting.as_bytes());
}
