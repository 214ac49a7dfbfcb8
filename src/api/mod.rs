//! The HTTP face: routes, and what every handler works with.

pub mod auth;
mod batches;
mod changes;
mod docs;
mod events;
pub mod guard;
mod health;
mod inbox;
mod lists;
mod models;
pub mod openapi;
pub mod problem;
mod request;
mod runs;
pub mod server;
mod stream;
mod tokens;
mod wire;

use std::sync::Arc;

use axum::routing::{get, post};
use axum::{Router, middleware};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::admission::{Admission, Lease};
use crate::hub::Hub;
use crate::journal::Journal;
use crate::run::Catalog;
use crate::run::RunId;
use crate::store::{NodeId, Notice, Store};
use problem::Problem;
pub use tokens::StreamTokens;

/// The tenant of everything, until there are more.
pub(crate) const TENANT: &str = "default";

/// What every handler works with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiState {
    /// Where runs are read.
    pub store: Store,
    /// Where runs are created.
    pub journal: Journal,
    /// How far runs are committed.
    pub hub: Hub,
    /// Slots and wake-ups.
    pub admission: Admission,
    /// Makes and reads the tokens of streams.
    pub tokens: Arc<StreamTokens>,
    /// Which node this is, and whether it may act.
    pub lease: Lease,
    /// What specs may name.
    pub catalog: Arc<Catalog>,
    /// Who may make a batch: see [`room_for_batches`].
    pub batches: Arc<Semaphore>,
    /// Cancelled when the service begins to stop.
    pub stop: CancellationToken,
    /// Gives the metrics, in Prometheus' text form.
    pub metrics: metrics_exporter_prometheus::PrometheusHandle,
}

/// Room for as many batches as are made at once; others wait.
pub fn room_for_batches() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(batches::AT_ONCE))
}

impl ApiState {
    /// Wakes whoever must read the run's inbox: its owner, here or elsewhere, or whoever claims it.
    fn wake(&self, owner: Option<NodeId>, run: RunId) {
        match owner {
            Some(node) if node != self.lease.node().id => self.hub.tell(Notice::News(node, run)),
            Some(_) | None => self.admission.wake(run),
        }
    }
}

/// All routes, behind the guard.
pub fn router(state: ApiState, keys: Arc<auth::Keys>, guard: guard::Guard) -> Router {
    Router::new()
        .route("/", get(health::about))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/models", get(models::list))
        .route("/runs", get(lists::list).post(runs::create))
        .route("/batches", post(batches::create))
        .route("/batches/{id}", get(batches::get).delete(batches::cancel))
        .route("/runs/{id}", get(runs::get).patch(changes::patch).delete(runs::cancel))
        .route("/runs/{id}/cancel", post(runs::cancel))
        .route("/runs/{id}/spec", get(runs::spec))
        .route("/runs/{id}/events", get(events::page))
        .route("/runs/{id}/stream", get(runs::stream))
        .route("/runs/{id}/stream_tokens", post(tokens::create))
        .route("/runs/{id}/purge", post(changes::purge))
        .route("/openapi.yaml", get(docs::yaml))
        .route("/openapi.json", get(docs::json))
        .route("/docs", get(docs::page))
        .route("/docs/rapidoc-min.js", get(docs::script))
        .fallback(problem::unknown_route)
        .method_not_allowed_fallback(problem::unknown_method)
        .with_state(state.clone())
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(middleware::from_fn_with_state(keys, auth::authenticate))
        .layer(middleware::from_fn_with_state(state.tokens, tokens::read))
        .layer(middleware::from_fn_with_state(Arc::new(guard), guard::guard))
}

impl From<crate::store::StoreError> for Problem {
    fn from(error: crate::store::StoreError) -> Problem {
        use crate::store::StoreError;
        match error {
            StoreError::Unavailable(_) | StoreError::Fenced => {
                tracing::warn!(error = %error, "a request found the store away");
                // An answer may be lost after the commit: nothing is promised.
                let detail = "the store can't be reached; send the request again";
                Problem {
                    retry_after: Some(1),
                    ..Problem::new(problem::ErrorCode::StoreUnavailable, detail)
                }
            }
            StoreError::Data(_) | StoreError::Corrupt(_) => {
                tracing::error!(error = %error, "a request found the store's data unreadable");
                Problem::internal()
            }
        }
    }
}
