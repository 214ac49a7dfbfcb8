//! What operators and orchestrators ask: what is it, does it live, may it take work, its numbers.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::ApiState;
use super::problem::{ErrorCode, Problem};
use super::request::Parameters;

/// How long the store may take to show that it is there.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// How far this machine's clock may be off the store's: nothing here depends on it, but what else
/// goes by it (certificates, logs) would mislead.
const SKEW_MS_MAX: i64 = 60_000;

/// `GET /`
pub(super) async fn about(parameters: Parameters) -> Result<Json<Value>, Problem> {
    parameters.only(&[])?;
    Ok(Json(json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "docs": "/docs",
    })))
}

/// `GET /healthz`: the process lives.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// `GET /readyz`: the node may take work.
pub(super) async fn ready(State(api): State<ApiState>) -> Result<Json<Value>, Problem> {
    if api.stop.is_cancelled() {
        return Err(Problem::new(ErrorCode::Draining, "the service is stopping"));
    }
    if !api.lease.is_held() {
        let detail = "this node's lease is lost: it becomes another node when the store answers";
        return Err(Problem::new(ErrorCode::StoreUnavailable, detail));
    }
    if api.lease.is_away() {
        let detail = "the store did not answer this node's last heartbeat";
        return Err(Problem::new(ErrorCode::StoreUnavailable, detail));
    }
    let skew = api.store.clock_skew_ms();
    if skew.abs() > SKEW_MS_MAX {
        let detail = format!("this machine's clock is {} s off the database's", skew / 1000);
        return Err(Problem::new(ErrorCode::StoreUnavailable, detail));
    }
    if let Some(reason) = api.store.trouble() {
        let detail = format!("nothing can be written: {reason}");
        return Err(Problem::new(ErrorCode::StoreUnavailable, detail));
    }
    let asked = tokio::time::timeout(STORE_TIMEOUT, api.store.ping()).await;
    let late =
        |_elapsed| Problem::new(ErrorCode::StoreUnavailable, "the store did not answer within 2 s");
    asked.map_err(late)??;
    // A detail: taking this node out of the rotation would move none of them.
    let stuck = api.admission.stuck();
    Ok(Json(json!({"status": "ready", "store": api.store.kind(), "runs_stuck": stuck})))
}

/// `GET /metrics`
pub(super) async fn metrics(State(api): State<ApiState>) -> Result<impl IntoResponse, Problem> {
    let counts = api.store.counts().await?;
    let (used, slots) = api.admission.usage();
    for (name, value) in [
        ("runledger_runs_queued", counts.queued as f64),
        ("runledger_runs_owned", counts.owned as f64),
        ("runledger_slots_used", used as f64),
        ("runledger_slots", slots as f64),
        ("runledger_watched_runs", api.hub.watched_runs() as f64),
    ] {
        metrics::gauge!(name).set(value);
    }
    let media_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((media_type, api.metrics.render()))
}
