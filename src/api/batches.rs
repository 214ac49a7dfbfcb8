//! Batches: many runs created together, all or none; polled and cancelled together.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::auth::Caller;
use super::guard::RequestId;
use super::problem::{ErrorCode, Problem};
use super::request::{Name, Parameters, body, idempotency_key, must_be_json, traceparent};
use super::runs::{REPLAYED, active_at, away, conflict, ended, intent, refused};
use super::wire::{self, Asked};
use super::{ApiState, TENANT, inbox};
use crate::journal::timestamp;
use crate::run::spec::{Change, Code, Violation};
use crate::run::{Catalog, Draft, Status};
use crate::store::{BatchCreated, BatchId, BatchRow, Create, CreateBatch, Key, KeyKind, Left};

/// Runs of a batch: they are one transaction, and all others wait for it.
pub(super) const RUNS_MAX: usize = 1000;

/// Bytes of all specs of a batch, once the defaults are put in: a large default in many runs would
/// fill memory and disk from a small body.
const BYTES_MAX: usize = 32 * 1024 * 1024;

/// How many mistakes are told of a batch.
const VIOLATIONS_MAX: usize = 100;

/// After so many runs that were read, others of the node have their turn.
const READ_AT_ONCE: usize = 32;

/// How many batches a node reads and writes at once, others wait: with its defaults put in, each may
/// hold twice [`BYTES_MAX`].
pub(super) const AT_ONCE: usize = 2;

/// How often a batch is looked at while somebody waits, beside the ends of its runs.
const LOOK: Duration = Duration::from_secs(1);

/// `POST /batches`
pub(super) async fn create(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Extension(id): Extension<RequestId>,
    parameters: Parameters,
    headers: HeaderMap,
    raw: Body,
) -> Result<Response, Response> {
    let asked = || {
        parameters.only(&[])?;
        let key = idempotency_key(&headers)?;
        must_be_json(&headers)?;
        Ok::<_, Problem>(key)
    };
    let key = asked().map_err(IntoResponse::into_response)?;
    let bytes = body(&headers, raw, &id).await?;
    let answer = async {
        let _turn = api.batches.acquire().await.expect("it is never closed");
        if api.stop.is_cancelled() {
            return Err(Problem::new(ErrorCode::Draining, "the service is stopping; try again"));
        }
        if api.lease.is_away() {
            return Err(away());
        }
        let (value, digest) = wire::json(&bytes)?;
        drop(bytes);
        let read = read(&api, value, traceparent(&headers), &caller).await;
        let Read { metadata, runs, queued } = read.map_err(|found| wire::refusal(&found))?;
        let id = api.journal.new_batch_id();
        let batch = CreateBatch {
            id,
            tenant: TENANT.to_owned(),
            key: key.map(|key| Key { kind: KeyKind::Idempotency, key }),
            digest,
            metadata: Value::Object(metadata).to_string(),
            created_by: caller.by.clone(),
            created_at_ms: api.journal.now_ms(),
            runs,
        };
        match api.journal.create_batch(batch, queued).await.map_err(|why| refused(&why))? {
            BatchCreated::New => created(&api, id, StatusCode::CREATED).await,
            BatchCreated::Existing(batch) => created(&api, batch, StatusCode::OK).await,
            BatchCreated::Conflict => Err(conflict("the Idempotency-Key")),
            BatchCreated::Taken(places) => Err(wire::refusal(&taken(&places))),
        }
    };
    answer.await.map_err(IntoResponse::into_response)
}

async fn created(api: &ApiState, id: BatchId, status: StatusCode) -> Result<Response, Problem> {
    let batch = load(api, id).await?;
    let run_ids: Vec<&str> = batch.runs.iter().map(|run| run.public_id.as_str()).collect();
    let answer = json!({"batch_id": id.to_string(), "run_ids": run_ids, "counts": counts(&batch)});
    let mut response = (status, Json(answer)).into_response();
    let headers = response.headers_mut();
    let path = HeaderValue::try_from(format!("/batches/{id}")).expect("a UUID is ASCII");
    headers.insert(header::CONTENT_LOCATION, path.clone());
    if status == StatusCode::CREATED {
        headers.insert(header::LOCATION, path);
    } else {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// `GET /batches/{id}`
pub(super) async fn get(
    State(api): State<ApiState>,
    Name(name): Name,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    parameters.only(&["wait"])?;
    let wait = parameters.wait(&headers)?;
    let mut batch = find(&api, &name).await?;
    if let Some((wait, _)) = wait {
        let deadline = Instant::now() + wait;
        while is_active(&batch) && Instant::now() < deadline && !api.stop.is_cancelled() {
            some_end(&api, &batch, deadline).await?;
            batch = load(&api, batch.id).await?;
        }
    }
    let mut response = Json(told(&batch)).into_response();
    if let Some((wait, true)) = wait {
        super::runs::prefer_applied(&mut response, wait);
    }
    Ok(response)
}

/// Waits until the first run of the batch that is active has ended, or a while.
async fn some_end(api: &ApiState, batch: &BatchRow, deadline: Instant) -> Result<(), Problem> {
    let active = batch.runs.iter().find(|run| !run.status.is_terminal());
    let Some(active) = active else { return Ok(()) };
    let mut watch = api.hub.watch(active.id);
    // It may have ended before anybody listened.
    let Some(seen) = active_at(api, active.id).await? else { return Ok(()) };
    let until = deadline.min(Instant::now() + LOOK);
    ended(api, &mut watch, active.id, seen, until).await
}

/// `DELETE /batches/{id}`
pub(super) async fn cancel(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&[])?;
    let batch = find(&api, &name).await?;
    let active = batch.runs.iter().filter(|run| !run.status.is_terminal()).map(|run| run.id);
    let left = inbox::leave_all(&api, active.collect(), inbox::cancel(&caller.by)).await?;
    let is_accepted = left.iter().any(|left| matches!(left, Left::Accepted(_)));
    let status = if is_accepted { StatusCode::ACCEPTED } else { StatusCode::OK };
    let batch = load(&api, batch.id).await?;
    Ok((status, Json(told(&batch))).into_response())
}

async fn find(api: &ApiState, name: &str) -> Result<BatchRow, Problem> {
    // Both are UUIDs in the one form that is taken.
    let id = name.parse::<crate::run::RunId>().map_err(|_other| Problem::not_found("batch"))?;
    load(api, BatchId(id.0)).await
}

async fn load(api: &ApiState, batch: BatchId) -> Result<BatchRow, Problem> {
    api.store.batch(TENANT, batch).await?.ok_or_else(|| Problem::not_found("batch"))
}

fn is_active(batch: &BatchRow) -> bool {
    batch.runs.iter().any(|run| !run.status.is_terminal())
}

fn counts(batch: &BatchRow) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::from(Status::ALL.map(|status| (status.name(), 0)));
    for run in &batch.runs {
        *counts.entry(run.status.name()).or_default() += 1;
    }
    counts
}

fn told(batch: &BatchRow) -> Value {
    let metadata: Map<String, Value> = serde_json::from_str(&batch.metadata).unwrap_or_default();
    json!({
        "batch_id": batch.id.to_string(),
        "counts": counts(batch),
        "metadata": metadata,
        "created_at": timestamp(batch.created_at_ms),
    })
}

/// A batch's body, read and checked.
struct Read {
    metadata: Map<String, Value>,
    runs: Vec<Create>,
    queued: Vec<Draft>,
}

fn wrong(pointer: impl Into<String>, detail: impl Into<String>) -> Violation {
    Violation { pointer: pointer.into(), detail: detail.into(), code: Code::InvalidRequest }
}

fn taken(places: &[usize]) -> Vec<Violation> {
    let detail = "names a run that is there already: take another name, or leave it out";
    let told = places.iter().take(VIOLATIONS_MAX);
    told.map(|place| wrong(format!("/runs/{place}/config/run_id"), detail)).collect()
}

async fn read(
    api: &ApiState,
    body: Value,
    trace: Option<String>,
    caller: &Caller,
) -> Result<Read, Vec<Violation>> {
    let Value::Object(mut whole) = body else { return Err(vec![wrong("", "must be an object")]) };
    // A name that nobody knows is a mistake also with null; else null is as good as absent.
    let mut found: Vec<Violation> = whole
        .keys()
        .filter(|name| !["runs", "defaults", "metadata"].contains(&name.as_str()))
        .map(|name| wire::unknown_field(name, "runs, defaults, metadata"))
        .collect();
    whole.retain(|_, value| !value.is_null());
    let metadata = match whole.get("metadata") {
        None => Map::new(),
        Some(labels) => Change::labels(labels, "/metadata").unwrap_or_else(|wrong| {
            found.extend(wrong);
            Map::new()
        }),
    };
    let defaults = defaults(whole.remove("defaults"), &mut found);
    let items = match whole.remove("runs") {
        Some(Value::Array(items)) if (1..=RUNS_MAX).contains(&items.len()) => items,
        Some(Value::Array(items)) => {
            let detail = format!("must have 1 to {RUNS_MAX} runs, got {}", items.len());
            found.push(wrong("/runs", detail));
            Vec::new()
        }
        Some(_) | None => {
            found.push(wrong("/runs", "must be a list of bodies of POST /runs"));
            Vec::new()
        }
    };
    let make = |asked| intent(api, asked, None, trace.clone(), &caller.by);
    let (runs, queued) = specs(items, &defaults, &api.catalog, make, found).await?;
    Ok(Read { metadata, runs, queued })
}

/// The fields that runs have in common, without those that can't be looked into.
fn defaults(value: Option<Value>, found: &mut Vec<Violation>) -> Map<String, Value> {
    let mut defaults = match value {
        None => return Map::new(),
        Some(Value::Object(defaults)) => defaults,
        Some(_) => {
            found.push(wrong("/defaults", "must be an object: fields of runs"));
            return Map::new();
        }
    };
    match defaults.get("config") {
        None | Some(Value::Null) => {}
        Some(Value::Object(config)) => {
            if config.get("run_id").is_some_and(|name| !name.is_null()) {
                let detail = "can't be shared: each run has its own";
                found.push(wrong("/defaults/config/run_id", detail));
            }
        }
        Some(_) => {
            found.push(wrong("/defaults/config", "must be an object"));
            defaults.remove("config");
        }
    }
    defaults
}

/// The run of each item, with the defaults put in.
async fn specs(
    items: Vec<Value>,
    defaults: &Map<String, Value>,
    catalog: &Catalog,
    make: impl Fn(Asked) -> (Create, Draft),
    mut found: Vec<Violation>,
) -> Result<(Vec<Create>, Vec<Draft>), Vec<Violation>> {
    let (mut runs, mut queued) = (Vec::with_capacity(items.len()), Vec::new());
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut bytes = 0;
    for (place, item) in items.into_iter().enumerate() {
        if place % READ_AT_ONCE == READ_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
        if found.len() >= VIOLATIONS_MAX {
            break;
        }
        let Value::Object(item) = item else {
            found.push(wrong(format!("/runs/{place}"), "must be an object"));
            continue;
        };
        let whole = merged(&item, defaults);
        match wire::asked(&whole, catalog) {
            Ok(one) => {
                bytes += one.text.len();
                if bytes > BYTES_MAX {
                    let detail =
                        format!("may have at most {BYTES_MAX} bytes together, defaults put in");
                    found.push(wrong("/runs", detail));
                    break;
                }
                if let Some(name) = &one.run_id
                    && let Some(first) = names.insert(name.clone(), place)
                {
                    let detail = format!("is the name of run {first} of this batch too");
                    found.push(wrong(format!("/runs/{place}/config/run_id"), detail));
                }
                let (run, first) = make(one);
                runs.push(run);
                queued.push(first);
            }
            Err(wrongs) => {
                // Mistakes are worth no more work than runs are.
                bytes += whole.to_string().len();
                let of_all = told_of(&mut found, wrongs, place, &item, defaults);
                if of_all || bytes > BYTES_MAX {
                    break;
                }
            }
        }
    }
    found.truncate(VIOLATIONS_MAX);
    if found.is_empty() { Ok((runs, queued)) } else { Err(found) }
}

/// Tells what is wrong with an item. True where some of it stands in the defaults: then it is wrong
/// with every other item too, and they need no look.
fn told_of(
    found: &mut Vec<Violation>,
    wrongs: Vec<Violation>,
    place: usize,
    item: &Map<String, Value>,
    defaults: &Map<String, Value>,
) -> bool {
    let mut is_of_all = false;
    for mut one in wrongs {
        one.pointer = origin(&one.pointer, place, item, defaults);
        is_of_all |= one.pointer.starts_with("/defaults/");
        found.push(one);
    }
    is_of_all
}

/// An item with what it leaves open taken from the defaults; of `config` field by field.
fn merged(item: &Map<String, Value>, defaults: &Map<String, Value>) -> Value {
    let mut whole = item.clone();
    for (name, value) in defaults {
        match (whole.get_mut(name), value) {
            (None | Some(Value::Null), value) => {
                whole.insert(name.clone(), value.clone());
            }
            (Some(Value::Object(config)), Value::Object(of_all)) if name == "config" => {
                for (name, value) in of_all {
                    let own = config.entry(name).or_insert(Value::Null);
                    if own.is_null() {
                        *own = value.clone();
                    }
                }
            }
            (Some(_), _) => {}
        }
    }
    Value::Object(whole)
}

/// Where in the body that stands which is wrong: in the item, or in the defaults.
fn origin(
    pointer: &str,
    place: usize,
    item: &Map<String, Value>,
    defaults: &Map<String, Value>,
) -> String {
    let name = |step: &str| step.replace("~1", "/").replace("~0", "~");
    let mut steps = pointer.split('/').skip(1).map(name);
    let (first, second) = (steps.next().unwrap_or_default(), steps.next());
    let is_null_in = |fields: &Map<String, Value>| {
        let value = match (first.as_str(), &second, fields.get(&first)) {
            ("config", Some(second), Some(Value::Object(config))) => config.get(second),
            (_, _, value) => value,
        };
        value.map(Value::is_null)
    };
    let is_own = match (is_null_in(item), is_null_in(defaults)) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(own), Some(of_all)) => !own || of_all,
    };
    if is_own { format!("/runs/{place}{pointer}") } else { format!("/defaults{pointer}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("it is an object")
    }

    #[test]
    fn a_field_that_an_item_leaves_open_is_the_defaults_of_config_each_by_itself() {
        let defaults = object(json!({
            "agent": {"name": "A"}, "variables": {"a": 1},
            "config": {"max_turns": 3, "metadata": {"a": "1"}},
        }));
        let item = object(json!({
            "input": "x", "variables": {"b": 2}, "agent": null,
            "config": {"max_turns": null, "max_time": 9, "metadata": {"b": "2"}},
        }));
        let expected = json!({
            "agent": {"name": "A"}, "input": "x", "variables": {"b": 2},
            "config": {"max_turns": 3, "max_time": 9, "metadata": {"b": "2"}},
        });
        assert_eq!(merged(&item, &defaults), expected);
        assert_eq!(merged(&object(json!({"input": "x"})), &defaults)["config"]["max_turns"], 3);
    }

    #[test]
    fn a_mistake_is_told_where_it_stands() {
        let defaults = object(json!({
            "agent": {}, "config": {"max_turns": 0}, "variables": 1, "a/b": null,
        }));
        let item = object(json!({
            "input": 1, "config": {"max_time": 0}, "variables": null, "agnet": null,
        }));
        for (pointer, expected) in [
            ("", "/runs/17"),
            ("/input", "/runs/17/input"),
            ("/agent/name", "/defaults/agent/name"),
            ("/config/max_turns", "/defaults/config/max_turns"),
            ("/config/max_time", "/runs/17/config/max_time"),
            ("/config/unheard", "/runs/17/config/unheard"),
            ("/history/0", "/runs/17/history/0"),
            ("/a~1b", "/defaults/a~1b"),
            ("/variables", "/defaults/variables"),
            ("/agnet", "/runs/17/agnet"),
        ] {
            assert_eq!(origin(pointer, 17, &item, &defaults), expected, "{pointer}");
        }
    }
}
