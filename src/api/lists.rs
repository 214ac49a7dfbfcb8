//! The list of runs: filters, pages, cursors.
//!
//! A cursor is a place, the id behind which the next page goes on. So neither new runs nor runs that
//! end move a page. It also carries a digest of its filters, and a check of itself: one that was
//! damaged, or is used with other filters, is refused, where it would silently skip runs.

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::problem::Problem;
use super::request::{Parameters, invalid};
use super::{ApiState, TENANT};
use crate::journal::timestamp;
use crate::run::event::Usage;
use crate::run::{RunId, Status};
use crate::store::{BatchId, Filter, Listed, StoreError};

/// Runs of a page when nobody says, and at most.
pub(super) const LIMIT_DEFAULT: u64 = 50;
pub(super) const LIMIT_MAX: u64 = 200;

/// How many runs may be asked for by name: a page has room for as many.
pub(super) const NAMES_MAX: usize = 200;

/// How many values of one other filter: each may be an index to walk.
pub(super) const VALUES_MAX: usize = 32;

/// What runs can wait for.
pub(super) const WAITING: [&str; 3] = ["tool_output", "approval", "budget"];

const FILTERS: [&str; 14] = [
    "status",
    "stop_reason",
    "agent",
    "model",
    "thread_id",
    "batch_id",
    "parent_run_id",
    "waiting",
    "run_id",
    "metadata",
    "created_after",
    "created_before",
    "limit",
    "cursor",
];

/// `GET /runs`
pub(super) async fn list(
    State(api): State<ApiState>,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.only(&FILTERS)?;
    // No run has one, and not every store takes one to look for.
    if let Some((name, _)) = parameters.pairs().find(|(_, value)| value.contains('\0')) {
        return Err(invalid(name, "must not contain NUL"));
    }
    let limit = parameters.number("limit", 1..=LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    let digest = digest(&parameters);
    let behind = parameters.one("cursor")?.map(|text| place(text, digest)).transpose()?;
    let Some(mut filter) = filter(&api, &parameters).await? else {
        return Ok(Json(json!({"data": [], "next_cursor": null})));
    };
    filter.below = filter.below.into_iter().chain(behind).min();
    let limit = u32::try_from(limit).expect("it is bounded");
    // One more than asked for: whether there is a next page.
    let mut runs = api.store.list(TENANT, &filter, limit + 1).await?;
    let is_more = runs.len() > limit as usize;
    runs.truncate(limit as usize);
    let next = runs.last().filter(|_| is_more).map(|last| cursor(last.id, digest));
    let now = api.journal.now_ms();
    let data: Vec<Value> = runs.iter().map(|run| item(run, now)).collect::<Result<_, _>>()?;
    Ok(Json(json!({"data": data, "next_cursor": next})))
}

/// What the parameters ask for; none where no run can be meant.
async fn filter(api: &ApiState, parameters: &Parameters) -> Result<Option<Filter>, Problem> {
    let text = |name| Ok::<_, Problem>(parameters.one(name)?.map(str::to_owned));
    let names: Vec<String> = parameters.all("run_id").map(str::to_owned).collect();
    if names.len() > NAMES_MAX {
        let detail = format!("may be given at most {NAMES_MAX} times, got {}", names.len());
        return Err(invalid("run_id", &detail));
    }
    let after = time(parameters, "created_after")?.map(|at| at.as_millisecond() + 1);
    let before = time(parameters, "created_before")?.map(ceil_ms);
    let filter = Filter {
        statuses: statuses(parameters)?,
        stop_reasons: several(parameters, "stop_reason")?,
        agent: text("agent")?,
        model: text("model")?,
        thread: text("thread_id")?,
        batch: batch(parameters)?,
        parent: None,
        waiting: waiting(parameters)?,
        names: (!names.is_empty()).then_some(names),
        labels: labels(parameters)?,
        from: after.map(RunId::first_of),
        below: before.map(RunId::first_of),
    };
    // Last: what is wrong with another parameter is told, whether or not there is such a run.
    let Some(name) = parameters.one("parent_run_id")? else { return Ok(Some(filter)) };
    let parent = api.store.resolve(TENANT, name).await?;
    Ok(parent.map(|run| Filter { parent: Some(run), ..filter }))
}

fn several(parameters: &Parameters, name: &str) -> Result<Vec<String>, Problem> {
    let mut values: Vec<String> = parameters.all(name).map(str::to_owned).collect();
    if values.len() > VALUES_MAX {
        let detail = format!("may be given at most {VALUES_MAX} times, got {}", values.len());
        return Err(invalid(name, &detail));
    }
    values.sort();
    values.dedup();
    Ok(values)
}

fn statuses(parameters: &Parameters) -> Result<Vec<Status>, Problem> {
    let parse = |name: String| {
        Status::parse(&name).ok_or_else(|| {
            let known = Status::ALL.map(Status::name).join(", ");
            invalid("status", &format!("must be one of {known}, got `{}`", short(&name)))
        })
    };
    let statuses: Vec<Status> =
        several(parameters, "status")?.into_iter().map(parse).collect::<Result<_, _>>()?;
    // All of them are no filter.
    Ok(if statuses.len() == Status::ALL.len() { Vec::new() } else { statuses })
}

fn waiting(parameters: &Parameters) -> Result<Vec<&'static str>, Problem> {
    let Some(asked) = parameters.one("waiting")? else { return Ok(Vec::new()) };
    let known: Vec<&str> = WAITING.into_iter().filter(|one| *one == asked).collect();
    match (known.is_empty(), asked) {
        (false, _) => Ok(known),
        (true, "any") => Ok(WAITING.to_vec()),
        (true, _) => {
            let known = WAITING.join(", ");
            Err(invalid("waiting", &format!("must be {known} or any, got `{}`", short(asked))))
        }
    }
}

fn batch(parameters: &Parameters) -> Result<Option<BatchId>, Problem> {
    let Some(text) = parameters.one("batch_id")? else { return Ok(None) };
    match text.parse::<RunId>() {
        Ok(id) => Ok(Some(BatchId(id.0))),
        Err(_) => {
            let detail = format!("must be the id of a batch, a UUID, got `{}`", short(text));
            Err(invalid("batch_id", &detail))
        }
    }
}

fn labels(parameters: &Parameters) -> Result<Vec<(String, String)>, Problem> {
    let parse = |text: String| match text.split_once(':') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(invalid("metadata", &format!("must be KEY:VALUE, got `{}`", short(&text)))),
    };
    several(parameters, "metadata")?.into_iter().map(parse).collect()
}

fn time(parameters: &Parameters, name: &str) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = parameters.one(name)? else { return Ok(None) };
    text.parse().map(Some).map_err(|_not_a_time| {
        let example = "2026-11-22T10:00:00Z (a `+` is written as `%2B`)";
        let detail = format!("must be a time such as {example}, got `{}`", short(text));
        invalid(name, &detail)
    })
}

/// The first millisecond that is not before this time.
fn ceil_ms(at: Timestamp) -> i64 {
    let ms = at.as_millisecond();
    let begun = Timestamp::from_millisecond(ms).is_ok_and(|floor| floor < at);
    ms + i64::from(begun)
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

/// What the filters are, whatever their order.
fn digest(parameters: &Parameters) -> [u8; 8] {
    let mut pairs: Vec<(&str, &str)> =
        parameters.pairs().filter(|(name, _)| !["limit", "cursor"].contains(name)).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let digest: [u8; 32] = Sha256::digest(json!(pairs).to_string()).into();
    *digest.first_chunk().expect("it is longer")
}

fn check(cursor: &[u8]) -> [u8; 4] {
    let digest: [u8; 32] = Sha256::digest([b"runledger cursor ", cursor].concat()).into();
    *digest.first_chunk().expect("it is longer")
}

fn cursor(last: RunId, filters: [u8; 8]) -> String {
    let mut bytes = [last.0.as_bytes().as_slice(), &filters].concat();
    bytes.extend(check(&bytes));
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The id behind which a page goes on.
fn place(text: &str, filters: [u8; 8]) -> Result<RunId, Problem> {
    let damaged = || invalid("cursor", "is damaged; send the `next_cursor` of a page as it came");
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_not_base_64| damaged())?;
    let bytes: [u8; 28] = bytes.try_into().map_err(|_length| damaged())?;
    let (cursor, check_of_it) = bytes.split_at(24);
    if check(cursor) != check_of_it {
        return Err(damaged());
    }
    let (id, digest) = cursor.split_at(16);
    if digest != filters {
        let detail = "belongs to a list with other filters; send it with those that it came from";
        return Err(invalid("cursor", detail));
    }
    let id = uuid::Uuid::from_slice(id).map_err(|_length| damaged())?;
    Ok(RunId(id))
}

/// A run as a list shows it: what `GET /runs/{id}` says, without the parts that stand in its log.
fn item(run: &Listed, now_ms: i64) -> Result<Value, Problem> {
    let read = |what: &str, text: &Option<String>| match text {
        None => Ok(Value::Null),
        Some(text) => serde_json::from_str(text)
            .map_err(|error| StoreError::Corrupt(format!("{what} of run {}: {error}", run.id))),
    };
    let usage = match read("usage", &run.usage)? {
        Value::Null => json!(Usage::default()),
        usage => usage,
    };
    let metadata: Map<String, Value> = serde_json::from_str(&run.metadata).unwrap_or_default();
    let elapsed = run.elapsed.unwrap_or_else(|| {
        let end = run.finished_at_ms.unwrap_or(now_ms);
        run.started_at_ms.map_or(0.0, |started| super::wire::seconds(end - started))
    });
    Ok(json!({
        "run_id": run.public_id,
        "status": run.status.name(),
        "stop_reason": run.stop_reason,
        "agent": {"name": run.agent, "version": null},
        "model": run.model,
        "input_preview": run.input_preview,
        "output_preview": run.output_preview,
        "error": read("error", &run.error)?,
        "required_action": null,
        "turn_count": run.turn_count,
        "elapsed_time": elapsed,
        "waiting_time": 0.0,
        "metadata": metadata,
        "usage": usage,
        "thread_id": run.thread,
        "batch_id": run.batch.map(|batch| batch.to_string()),
        "parent_run_id": run.parent.map(|parent| parent.to_string()),
        "continued_from": null,
        "queue_position": run.queue_position,
        "cancel_requested_at": run.cancel_at_ms.map(timestamp),
        "last_seq": run.last_seq,
        "created_by": run.created_by,
        "created_at": timestamp(run.created_at_ms),
        "started_at": run.started_at_ms.map(timestamp),
        "finished_at": run.finished_at_ms.map(timestamp),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_with_any_bit_changed_is_refused() {
        let filters = [7; 8];
        let id = RunId(uuid::Uuid::now_v7());
        let good = cursor(id, filters);
        assert_eq!(place(&good, filters), Ok(id));
        let bytes = URL_SAFE_NO_PAD.decode(&good).expect("it is base 64");
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(place(&URL_SAFE_NO_PAD.encode(bytes), filters).is_err(), "bit {bit}");
        }
        for damaged in ["", "x", "ü", &good[1..], &format!("{good}A")] {
            assert!(place(damaged, filters).is_err(), "{damaged:?}");
        }
        assert!(place(&good, [8; 8]).is_err());
    }

    #[test]
    fn a_time_within_a_millisecond_is_neither_before_nor_after_itself() {
        let at = |text: &str| text.parse::<Timestamp>().expect("it is a time");
        assert_eq!(ceil_ms(at("1970-01-01T00:00:00.001Z")), 1);
        assert_eq!(ceil_ms(at("1970-01-01T00:00:00.0010001Z")), 2);
    }
}
