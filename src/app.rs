//! The composition root: builds everything, starts it, and knows the order in which it stops.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, Lease};
use crate::api::auth::Keys;
use crate::api::guard::Guard;
use crate::api::{self, ApiState, StreamTokens, server};
use crate::config::{self, Config, Provider, ProviderKind};
use crate::failpoint::{self, Step, reach};
use crate::hub::{Hub, Remote, Wakes};
use crate::journal::journal;
use crate::model::endpoint::{Dialect, Endpoint, Patience};
use crate::model::scripted::Scripted;
use crate::model::{Registry, anthropic, openai, registry};
use crate::run::{Catalog, catalog};
use crate::store::{self, Node, NodeId, Notice, PostgresOptions, Rescued, Store, StoreError};
use crate::tool::{self, Toolbox, http};
use crate::worker::{self, Drain, Keeper, Pool, Stuck, Tools};

mod healthcheck;
mod run;

pub use crate::api::openapi::{Form as OpenapiForm, text as openapi};
pub use healthcheck::healthcheck;
pub use run::run;

/// How many new runs may wait for the pool before the create lane waits: it is faster than a claim.
const NEW_RUNS_MAX: usize = 1024;

/// Of the time to drain, what is kept for the end: cutting turns, the last commits, handing over.
const LAST_STEPS: Duration = Duration::from_secs(2);

/// How often the store is prepared for the days to come, and how soon again where that failed.
const MAINTAIN: Duration = Duration::from_secs(3600);
const MAINTAIN_AGAIN: Duration = Duration::from_secs(60);

/// How long a stop tries to hand its runs over, and how soon it tries again.
const HAND_OVER: Duration = Duration::from_secs(2);
const HAND_OVER_AGAIN: Duration = Duration::from_millis(200);

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
        let until = worker::lease_from_now(&store);
        let (id, rescued) = store.register(&machine_name()).await?;
        reach(Step::Registered);
        let lease = Lease::new(Node::new(id, &machine_name()), until);
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
        let Service { store, lease, running, .. } = self;
        let Running { mut tasks, mut membership, drain, over } = running;
        let ended_early = tokio::select! {
            biased;
            () = drain.soon.cancelled() => None,
            // Among others it goes on as another node; alone it can't.
            _ = membership.join_next() => {
                Some(anyhow::anyhow!(
                    "this node may not write any more: another process has taken over its runs, or \
                     the data is damaged; the log says which"
                ))
            }
            ended = tasks.join_next() => {
                Some(anyhow::anyhow!("a part of the service ended: {ended:?}"))
            }
        };
        drain.soon.cancel();
        finish(tasks, drain, drain_time).await;
        over.cancel();
        while membership.join_next().await.is_some() {}
        let left = match ended_early {
            Some(why) => Err(why),
            None => leave(&store, lease.node().id).await,
        };
        store.close().await;
        left
    }
}

/// Hands this node's runs over, and tells the others.
async fn leave(store: &Store, node: NodeId) -> anyhow::Result<()> {
    reach(Step::HandOverAsked);
    let left = hand_over(store, node).await.context("the runs wait for the lease to end")?;
    reach(Step::HandOverCommitted);
    if left > 0
        && let Err(error) = store.notify(node, vec![Notice::Queued]).await
    {
        tracing::debug!(error = %error, "the other nodes look by themselves");
    }
    tracing::info!(runs.handed_over = left, "stopped; every event is committed");
    Ok(())
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

/// Gives this node's runs to the others, so that none counts a crash. A store that is away for a
/// moment is asked again.
async fn hand_over(store: &Store, node: NodeId) -> anyhow::Result<u64> {
    let begun = tokio::time::Instant::now();
    loop {
        match store.hand_over(node).await {
            Err(StoreError::Unavailable(reason)) if begun.elapsed() < HAND_OVER => {
                tracing::warn!(reason, "the runs can't be handed over yet");
                tokio::time::sleep(HAND_OVER_AGAIN).await;
            }
            done => return Ok(done?),
        }
    }
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

/// The service while it runs.
struct Running {
    /// What ends with the drain.
    tasks: JoinSet<()>,
    /// What keeps this process a node until then, and hears the others.
    membership: JoinSet<()>,
    drain: Drain,
    /// Ends the membership.
    over: CancellationToken,
}

impl Parts<'_> {
    /// Puts everything together and spawns its loops.
    fn start(self, listener: TcpListener) -> Running {
        let Parts { config, store, lease, models, toolbox, metrics, stop } = self;
        let catalog = Arc::new(catalog_of(config, models, &toolbox));
        let admission = Admission::new(config.slots as usize);
        let (hub, remote) = hub(store, lease, &admission);
        let (to_pool, new_runs) = mpsc::channel(NEW_RUNS_MAX);
        let (journal, loops) = journal(store.clone(), hub.clone(), to_pool);
        let (keeper, beats) =
            Keeper::new(store.clone(), lease.clone(), admission.clone(), &machine_name());
        let tools = Tools {
            store: store.clone(),
            journal: journal.clone(),
            admission: admission.clone(),
            models: Arc::clone(models),
            toolbox,
            catalog: Arc::clone(&catalog),
            lease: lease.clone(),
            node: lease.node(),
        };
        let state = ApiState {
            tokens: Arc::new(StreamTokens::new(store.clone())),
            store: store.clone(),
            journal,
            hub,
            admission: admission.clone(),
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
        let drain = Drain { soon: stop.clone(), now: CancellationToken::new() };
        let options =
            server::Options { drain_deadline: config.drain, ..server::Options::default() };
        let mut tasks = JoinSet::new();
        tasks.spawn(loops.writer.run());
        tasks.spawn(loops.creator.run());
        let stuck = Stuck {
            store: store.clone(),
            lease: lease.clone(),
            admission: admission.clone(),
            beats: beats.clone(),
        };
        tasks.spawn(stuck.watch(stop.clone()));
        tasks.spawn(Pool::new(tools, new_runs, beats).run(drain.clone()));
        tasks.spawn(server::serve(listener, router, options, stop.clone()));
        tasks.spawn(upkeep(metrics, stop));
        let (mut membership, over) = (JoinSet::new(), CancellationToken::new());
        membership.spawn(keeper.run(over.clone()));
        membership.spawn(maintain(store.clone(), over.clone()));
        if let Some(remote) = remote {
            membership.spawn(remote.run(over.clone()));
            let (store, lease) = (store.clone(), lease.clone());
            membership.spawn(worker::rescue(store, lease, admission, over.clone()));
        }
        Running { tasks, membership, drain, over }
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

/// The hub, and the loop that connects it with those of other nodes, where there may be others.
fn hub(store: &Store, lease: &Lease, admission: &Admission) -> (Hub, Option<Remote>) {
    if store.lease().is_none() {
        return (Hub::alone(), None);
    }
    let (lease, queue, inbox) = (lease.clone(), admission.clone(), admission.clone());
    let wakes = Wakes {
        node: Arc::new(move || lease.node().id),
        queued: Arc::new(move || queue.queued_elsewhere()),
        news: Arc::new(move |run| inbox.wake(run)),
    };
    let (hub, remote) = Hub::among_others(store.clone(), wakes);
    (hub, Some(remote))
}

/// Joins everything. The server and the pool end by themselves; the journal's loops end with the last
/// handle that those two held. What has not ended when all the time is over waits for a store that
/// is away: nothing more of it can be committed, and the next start goes on from the log.
async fn finish(mut tasks: JoinSet<()>, drain: Drain, time: Duration) {
    let cut_after = time.saturating_sub(LAST_STEPS);
    let cut = tokio::time::sleep(cut_after);
    let end = tokio::time::sleep(cut_after + 2 * LAST_STEPS);
    tokio::pin!(cut, end);
    loop {
        // What has ended first: the times are for what has not.
        tokio::select! {
            biased;
            joined = tasks.join_next() => match joined {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::error!(error = %error, "a part of the service panicked"),
            },
            () = &mut cut, if !drain.now.is_cancelled() => drain.now.cancel(),
            () = &mut end => {
                tracing::error!("the store is away: what waits for it is left to the next start");
                tasks.shutdown().await;
                return;
            }
        }
    }
}

async fn upkeep(metrics: PrometheusHandle, stop: CancellationToken) {
    while tokio::time::timeout(UPKEEP, stop.cancelled()).await.is_err() {
        metrics.run_upkeep();
    }
}

/// Makes room for the days to come, each hour: were it ever late, it would be days too early still.
async fn maintain(store: Store, over: CancellationToken) {
    let mut wait = MAINTAIN;
    while over.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
        wait = match store.maintain().await {
            Ok(()) => MAINTAIN,
            Err(error) => {
                tracing::error!(error = %error, "the store is not prepared for the days to come");
                MAINTAIN_AGAIN
            }
        };
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
