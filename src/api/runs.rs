//! Runs: create, poll, cancel, their spec, their stream.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::auth::Caller;
use super::guard::RequestId;
use super::problem::{ErrorCode, Problem};
use super::request::{
    Name, Parameters, SEQ_MAX, Wanted, body, idempotency_key, invalid, must_be_json, traceparent,
    wanted,
};
use super::stream::{self, Cursor};
use super::tokens::StreamOf;
use super::wire::{self, Asked};
use super::{ApiState, TENANT, inbox};
use crate::hub::Watch;
use crate::journal::{Intent, Placement, Refused};
use crate::run::event::is_terminal;
use crate::run::spec::preview;
use crate::run::{Draft, RunId, Seq, Spec, Status};
use crate::store::{Create, Key, KeyKind, Left, RunRow, StoredRun, TypeFilter};

pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The least time between two looks at a run whose commits are other nodes': while a model speaks
/// there are many.
const LOOK: Duration = Duration::from_millis(250);

/// `POST /runs`
pub(super) async fn create(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Extension(id): Extension<RequestId>,
    parameters: Parameters,
    headers: HeaderMap,
    raw: Body,
) -> Result<Response, Response> {
    let created = async {
        let cursor = match wanted(&headers)? {
            Wanted::Json => parameters.only(&["wait"]).map(|()| None)?,
            Wanted::Stream => {
                parameters.only(&["after", "types", "named"])?;
                Some(Cursor::of(&parameters, &headers)?)
            }
        };
        let wait = parameters.wait(&headers)?;
        let key = idempotency_key(&headers)?;
        must_be_json(&headers)?;
        Ok::<_, Problem>((cursor, wait, key))
    };
    let (cursor, wait, key) = created.await.map_err(IntoResponse::into_response)?;
    let bytes = body(&headers, raw, &id).await?;
    let answer = async {
        let asked = wire::parse(&bytes, &api.catalog)?;
        drop(bytes);
        if let (Some(cursor), None, None) = (&cursor, &key, &asked.run_id) {
            cursor.check_without_key()?;
        }
        let (seen, watch) = commit(&api, asked, key, traceparent(&headers), &caller).await?;
        let is_new = seen.is_new();
        let mut response = match cursor {
            Some(mut cursor) => {
                if is_new {
                    // It exists now, and is not to be refused: a new run is streamed whole.
                    cursor.after = Seq(0);
                }
                streamed(&api, seen.row(), watch, cursor)?
            }
            None => {
                let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
                waited(&api, seen, watch, wait, status, &[]).await?
            }
        };
        if !is_new {
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        }
        Ok::<_, Problem>(response)
    };
    answer.await.map_err(IntoResponse::into_response)
}

/// What is known of a run before anybody waits for its end.
pub(super) enum Seen {
    /// It was just created: so it was committed.
    New {
        run: Arc<StoredRun>,
        /// It waits in no queue.
        is_born: bool,
    },
    /// Its row.
    Row(Box<RunRow>),
}

impl Seen {
    fn row(&self) -> &RunRow {
        match self {
            Seen::New { run, .. } => &run.row,
            Seen::Row(row) => row,
        }
    }

    fn is_new(&self) -> bool {
        matches!(self, Seen::New { .. })
    }
}

/// One intent, one run: the run, and a hold on it that misses nothing since.
async fn commit(
    api: &ApiState,
    asked: Asked,
    key: Option<String>,
    trace: Option<String>,
    caller: &Caller,
) -> Result<(Seen, Watch), Problem> {
    if api.stop.is_cancelled() {
        return Err(Problem::new(ErrorCode::Draining, "the service is stopping; try again"));
    }
    if api.lease.is_away() {
        return Err(away());
    }
    let (create, queued) = intent(api, asked, key, trace, &caller.by);
    let placement = match api.admission.born_slot() {
        Some(slot) if api.lease.is_held() => Placement::Here(api.lease.node(), slot),
        Some(_) | None => Placement::Queue,
    };
    // Before it exists: a short run may have ended before its create is answered.
    let watch = api.hub.expect(create.id);
    match api.journal.create(create, queued, placement).await {
        Ok(Intent::New { run, is_born }) => Ok((Seen::New { run, is_born }, watch)),
        Ok(Intent::Existing(run)) => {
            let watch = api.hub.watch(run);
            Ok((Seen::Row(Box::new(load(api, run).await?)), watch))
        }
        Ok(Intent::Conflict) => Err(conflict("the Idempotency-Key or config.run_id")),
        Err(why) => Err(refused(&why)),
    }
}

/// A key was used for something else.
pub(super) fn conflict(which: &str) -> Problem {
    let detail =
        format!("{which} was used for another request: use a new one, or send the same body again");
    Problem::new(ErrorCode::IdempotencyConflict, detail)
}

/// Why nothing was created.
pub(super) fn refused(why: &Refused) -> Problem {
    match why {
        Refused::Poisoned(reason) => {
            tracing::error!(reason, "the store refused the data of a request");
            Problem::internal()
        }
        // Why stands in the log.
        Refused::Unavailable(_) | Refused::NotOwner | Refused::InboxNews => away(),
    }
}

/// A run to create, and its first event.
pub(super) fn intent(
    api: &ApiState,
    asked: Asked,
    key: Option<String>,
    trace: Option<String>,
    by: &str,
) -> (Create, Draft) {
    let Asked { spec, run_id, text, digest } = asked;
    let id = api.journal.new_run_id();
    let public_id = run_id.clone().unwrap_or_else(|| id.to_string());
    let by_header = key.map(|key| Key { kind: KeyKind::Idempotency, key });
    let by_id = run_id.map(|key| Key { kind: KeyKind::RunId, key });
    let queued = wire::queued(&spec, &public_id, &id.to_string(), by, trace);
    let create = Create {
        id,
        public_id,
        tenant: TENANT.to_owned(),
        keys: by_header.into_iter().chain(by_id).collect(),
        digest,
        owner: None,
        agent: spec.agent.name.clone(),
        model: spec.model().to_owned(),
        created_by: by.to_owned(),
        created_at_ms: id.made_at_ms(),
        input_preview: preview(&spec.input.text()),
        metadata: wire::metadata(&spec),
        spec: text,
        events: Vec::new(),
    };
    (create, Draft { turn: 0, attempt: 1, body: queued })
}

pub(super) fn away() -> Problem {
    let detail = "the store can't be reached; send the request again: with a key it finds the run \
                  where it was created all the same";
    Problem { retry_after: Some(1), ..Problem::new(ErrorCode::StoreUnavailable, detail) }
}

/// `GET /runs/{id}`
pub(super) async fn get(
    State(api): State<ApiState>,
    Name(name): Name,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    parameters.only(&["wait", "omit"])?;
    let omit: Vec<String> = parameters.all("omit").map(str::to_owned).collect();
    if let Some(unknown) = omit.iter().find(|part| !wire::PARTS.contains(&part.as_str())) {
        let known = wire::PARTS.join(", ");
        let got: String = unknown.chars().take(40).collect();
        return Err(invalid("omit", &format!("can't leave out `{got}`; known: {known}")));
    }
    let wait = parameters.wait(&headers)?;
    let (row, watch) = find(&api, &name).await?;
    waited(&api, Seen::Row(Box::new(row)), watch, wait, StatusCode::OK, &omit).await
}

/// `DELETE /runs/{id}`, `POST /runs/{id}/cancel`
pub(super) async fn cancel(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Name(name): Name,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    parameters.only(&["wait"])?;
    let wait = parameters.wait(&headers)?;
    let (row, watch) = find(&api, &name).await?;
    let status = match inbox::leave(&api, row.id, inbox::cancel(&caller.by)).await? {
        Left::Accepted(_owner) => StatusCode::ACCEPTED,
        Left::Ended => StatusCode::OK,
        Left::NoRun => return Err(Problem::not_found("run")),
        Left::Full => return Err(inbox::full()),
    };
    let row = load(&api, row.id).await?;
    waited(&api, Seen::Row(Box::new(row)), watch, wait, status, &[]).await
}

/// `GET /runs/{id}/spec`
pub(super) async fn spec(
    State(api): State<ApiState>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&[])?;
    let (row, _watch) = find(&api, &name).await?;
    let media_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((media_type, row.spec.to_string()).into_response())
}

/// `GET /runs/{id}/stream`
pub(super) async fn stream(
    State(api): State<ApiState>,
    Name(name): Name,
    token: Option<Extension<StreamOf>>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    parameters.only(&["after", "types", "named", "token"])?;
    let cursor = Cursor::of(&parameters, &headers)?;
    let found = find(&api, &name).await;
    if let Some(Extension(StreamOf(run))) = token
        && !found.as_ref().is_ok_and(|(row, _)| row.id == run)
    {
        // Whether there is another run of this name is not for its holder to know.
        let detail = "the token is for the stream of another run";
        return Err(Problem::new(ErrorCode::Unauthenticated, detail));
    }
    let (row, watch) = found?;
    let mut response = streamed(&api, &row, watch, cursor)?;
    // It names a run that is created; here it is asked for by its name.
    response.headers_mut().remove(header::LOCATION);
    Ok(response)
}

fn streamed(
    api: &ApiState,
    row: &RunRow,
    watch: Watch,
    cursor: Cursor,
) -> Result<Response, Problem> {
    cursor.check(row)?;
    let mut response = if row.status.is_terminal() && cursor.after == row.last_seq {
        // `EventSource` stops at this, and at nothing else.
        StatusCode::NO_CONTENT.into_response()
    } else {
        stream::respond(api, row, watch, cursor)
    };
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, path(row, ""));
    headers.insert(header::CONTENT_LOCATION, path(row, "/stream"));
    Ok(response)
}

/// The run as it is when it ends or the wait is over.
pub(super) async fn waited(
    api: &ApiState,
    seen: Seen,
    mut watch: Watch,
    wait: Option<(Duration, bool)>,
    status: StatusCode,
    omit: &[String],
) -> Result<Response, Problem> {
    let seen = match wait {
        Some((wait, _)) if !seen.row().status.is_terminal() => {
            let RunRow { id, last_seq, .. } = *seen.row();
            ended(api, &mut watch, id, last_seq, Instant::now() + wait).await?;
            Seen::Row(Box::new(load(api, id).await?))
        }
        Some(_) | None => seen,
    };
    drop(watch);
    let (row, state, waits) = match seen {
        Seen::New { run, is_born } => (run.row.clone(), wire::fold(&run.log)?, !is_born),
        Seen::Row(row) => {
            let state = wire::fold(&api.store.log_for_client(row.id).await?)?;
            // The log decides, and what only the row knows is never older than it; where the log is
            // shorter, the run was erased meanwhile.
            let row = if row.last_seq == state.last_seq { *row } else { load(api, row.id).await? };
            let waits = state.status == Status::Queued;
            (row, state, waits)
        }
    };
    let spec = spec_of(&row)?;
    let position = match waits {
        true => api.store.queue_position(row.id).await?,
        false => None,
    };
    let body = wire::run_body(&row, &spec, &state, position, api.journal.now_ms(), omit);
    let mut response = (status, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LOCATION, path(&row, ""));
    if status == StatusCode::CREATED {
        headers.insert(header::LOCATION, path(&row, ""));
    }
    if let Some((wait, true)) = wait {
        prefer_applied(&mut response, wait);
    }
    Ok(response)
}

/// Says that `Prefer: wait` was heard.
pub(super) fn prefer_applied(response: &mut Response, wait: Duration) {
    let applied = format!("wait={}", wait.as_secs());
    let applied = HeaderValue::try_from(applied).expect("it is ASCII");
    response.headers_mut().insert(PREFERENCE_APPLIED, applied);
}

/// What a run was asked for.
pub(super) fn spec_of(row: &RunRow) -> Result<Spec, Problem> {
    serde_json::from_str(&row.spec).map_err(|error| {
        tracing::error!(run.id = %row.id, error = %error, "a spec can't be read");
        Problem::internal()
    })
}

/// Waits for the terminal event behind `seen`, or until `deadline`. Commits of other events cost no
/// read of the store; those of which this node knows no more than the place, one small read in a
/// while.
pub(super) async fn ended(
    api: &ApiState,
    watch: &mut Watch,
    run: RunId,
    mut seen: Seq,
    deadline: Instant,
) -> Result<(), Problem> {
    let mut next_look = Instant::now();
    let waiting = async {
        loop {
            watch.beyond(seen).await;
            match watch.tail(seen).as_deref() {
                Some([.., last]) if is_terminal(last.kind) => return Ok(()),
                Some([.., last]) => seen = last.seq,
                Some([]) | None => {
                    sleep_until(next_look).await;
                    match active_at(api, run).await? {
                        None => return Ok(()),
                        Some(last) => seen = last.max(seen),
                    }
                    next_look = Instant::now() + LOOK;
                }
            }
        }
    };
    // The end of the service first: the client asks again elsewhere.
    tokio::select! {
        biased;
        () = api.stop.cancelled() => Ok(()),
        waited = timeout_at(deadline, waiting) => waited.unwrap_or(Ok(())),
    }
}

/// How far the log of a run is that has not ended; none where it has, or is not there.
pub(super) async fn active_at(api: &ApiState, run: RunId) -> Result<Option<Seq>, Problem> {
    let last = api.store.events_before(run, Seq(SEQ_MAX), 1, &TypeFilter::All).await?;
    Ok(last.last().filter(|last| !is_terminal(last.kind)).map(|last| last.seq))
}

/// The run of this name, and a hold on it that misses nothing after the row was read.
pub(super) async fn find(api: &ApiState, name: &str) -> Result<(RunRow, Watch), Problem> {
    let run = api.store.resolve(TENANT, name).await?;
    let run = run.ok_or_else(|| Problem::not_found("run"))?;
    let watch = api.hub.watch(run);
    let row = api.store.find(TENANT, &run.to_string()).await?;
    Ok((row.ok_or_else(|| Problem::not_found("run"))?, watch))
}

pub(super) async fn load(api: &ApiState, run: RunId) -> Result<RunRow, Problem> {
    api.store.load_for_client(run).await?.ok_or_else(|| Problem::not_found("run"))
}

fn path(row: &RunRow, rest: &str) -> HeaderValue {
    let path = format!("/runs/{}{rest}", row.public_id);
    HeaderValue::try_from(path).expect("ids are visible ASCII")
}
