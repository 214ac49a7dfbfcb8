//! Changing a run that is under way, and erasing one that has ended.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::auth::Caller;
use super::guard::RequestId;
use super::problem::{ErrorCode, FieldError, Problem};
use super::request::{Name, Parameters, body, idempotency_key, must_be_json};
use super::runs::{Seen, find, load, spec_of, waited};
use super::{ApiState, TENANT, inbox, wire};
use crate::failpoint::{Step, reach};
use crate::run::spec::Change;
use crate::store::{InboxNote, Left, Purged, RunRow};

/// `PATCH /runs/{id}`
pub(super) async fn patch(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Extension(id): Extension<RequestId>,
    Name(name): Name,
    parameters: Parameters,
    headers: HeaderMap,
    raw: Body,
) -> Result<Response, Response> {
    let asked = || {
        parameters.only(&[])?;
        must_be_json(&headers)?;
        idempotency_key(&headers)
    };
    let key = asked().map_err(IntoResponse::into_response)?;
    let bytes = body(&headers, raw, &id).await?;
    let answer = async {
        let (value, digest) = wire::json(&bytes)?;
        let change = Change::parse(&value).map_err(|found| wire::refusal(&found))?;
        let (row, watch) = find(&api, &name).await?;
        check(&api, &row, &change).await?;
        let limits = (!change.limits.is_none()).then_some(change.limits);
        // A request that is sent again is the same where its key says so; else it is another, which
        // does no harm: limits only go up, and the labels are the same labels.
        let once = key.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let note = InboxNote {
            kind: "update",
            dedupe_key: format!("update:{digest}:{once}"),
            body: json!({"by": caller.by, "limits": limits, "metadata": change.metadata})
                .to_string(),
        };
        match inbox::leave(&api, row.id, note).await? {
            Left::Accepted(_owner) => {}
            Left::Ended => return Err(ended()),
            Left::NoRun => return Err(Problem::not_found("run")),
            Left::Full => return Err(inbox::full()),
        }
        let row = load(&api, row.id).await?;
        waited(&api, Seen::Row(Box::new(row)), watch, None, StatusCode::ACCEPTED, &[]).await
    };
    answer.await.map_err(IntoResponse::into_response)
}

/// A limit that would be lowered is refused: the run may have passed it already, and to end a run is
/// what a cancel is for.
async fn check(api: &ApiState, row: &RunRow, change: &Change) -> Result<(), Problem> {
    if row.status.is_terminal() {
        return Err(ended());
    }
    if change.limits.is_none() {
        return Ok(());
    }
    let state = wire::fold(&api.store.log_for_client(row.id).await?)?;
    let errors: Vec<FieldError> = change
        .limits
        .refusals(&state.limits(&spec_of(row)?))
        .into_iter()
        .map(|(field, detail)| FieldError::pointer(format!("/config/{field}"), detail))
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(errors)) }
}

fn ended() -> Problem {
    Problem::new(ErrorCode::RunEnded, "the run has ended: nothing of it changes any more")
}

/// `POST /runs/{id}/purge`
pub(super) async fn purge(
    State(api): State<ApiState>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<StatusCode, Problem> {
    parameters.only(&[])?;
    let absent = || Problem::not_found("run");
    let run = api.store.resolve(TENANT, &name).await?.ok_or_else(absent)?;
    match api.store.purge(TENANT, run).await? {
        Purged::Erased => {
            reach(Step::PurgeCommitted);
            api.hub.erase(run);
            Ok(StatusCode::NO_CONTENT)
        }
        Purged::Active => {
            let detail = "the run has not ended: cancel it, and wait for its end";
            Err(Problem::new(ErrorCode::RunActive, detail))
        }
        Purged::NoRun => Err(absent()),
    }
}
