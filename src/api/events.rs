//! A run's log as JSON, in pages.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::ApiState;
use super::problem::Problem;
use super::request::{Name, Parameters, SEQ_MAX, invalid};
use super::runs::find;
use crate::hub::Watch;
use crate::run::{RunId, Seq};
use crate::store::{Store, StoredEvent, TypeFilter};

/// Events of a page when nobody says, and at most.
pub(super) const LIMIT_DEFAULT: u64 = 100;
pub(super) const LIMIT_MAX: u64 = 1000;

/// A page ends when it has this many bytes, but has one event at least.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How many events one read of the store brings, and how many reads one page may take: a filter
/// that lets little pass ends its page early, and `next_after` says where.
const READ: u32 = 1000;
const READS_MAX: usize = 20;

/// `GET /runs/{id}/events`
pub(super) async fn page(
    State(api): State<ApiState>,
    Name(name): Name,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    parameters.only(&["after", "limit", "types", "before", "wait"])?;
    let limit = parameters.number("limit", 1..=LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    let types = parameters.types()?;
    let after = parameters.number("after", 0..=SEQ_MAX)?;
    let before = parameters.number("before", 0..=SEQ_MAX)?;
    let wait = parameters.wait(&headers)?;
    let (row, mut watch) = find(&api, &name).await?;
    let page = if let Some(before) = before {
        // A preference that can't be met is none.
        let must_wait = wait.is_some_and(|(_, by_header)| !by_header);
        if after.is_some() || must_wait {
            return Err(invalid("before", "can't be combined with `after` or `wait`"));
        }
        let before = before.min(row.last_seq.0 + 1);
        let limit = u32::try_from(limit).expect("it is bounded");
        let data = api.store.events_before(row.id, Seq(before), limit, &types).await?;
        Page { data, next_after: Seq(before.saturating_sub(1)) }
    } else {
        let after = Seq(after.unwrap_or(0));
        if after > row.last_seq {
            let detail = format!("is beyond the run's last event, {}; got {after}", row.last_seq);
            return Err(invalid("after", &detail));
        }
        let wait = wait.map_or(Duration::ZERO, |(wait, _by_header)| wait);
        let limit = usize::try_from(limit).expect("it is bounded");
        let end = row.status.is_terminal().then_some(row.last_seq);
        let query = Query { run: row.id, limit, types, end };
        let deadline = Instant::now() + wait;
        query.forward((&api.store, &api.stop), &mut watch, after, deadline).await?
    };
    let row = api.store.load_for_client(row.id).await?.ok_or_else(|| Problem::not_found("run"))?;
    let mut body = String::from(r#"{"data":["#);
    for (place, event) in page.data.iter().enumerate() {
        if place > 0 {
            body.push(',');
        }
        body.push_str(&event.data);
    }
    let (next, last, status) = (page.next_after, row.last_seq, row.status.name());
    body.push_str(&format!(r#"],"next_after":{next},"last_seq":{last},"status":"{status}"}}"#));
    let media_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((media_type, body).into_response())
}

struct Page {
    data: Vec<StoredEvent>,
    /// How far the log was looked through.
    next_after: Seq,
}

struct Query {
    run: RunId,
    limit: usize,
    types: TypeFilter,
    /// The terminal event's place, where the run has ended.
    end: Option<Seq>,
}

impl Query {
    /// The events behind `after`; where there are none yet, those that come until `deadline`.
    async fn forward(
        &self,
        (store, stop): (&Store, &CancellationToken),
        watch: &mut Watch,
        after: Seq,
        deadline: Instant,
    ) -> Result<Page, Problem> {
        let mut page = Page { data: Vec::new(), next_after: after };
        loop {
            // Before the read: what is known now is in the store.
            let position = watch.position();
            let ended = self.fill(store, &mut page).await?;
            if !page.data.is_empty() || ended || Instant::now() >= deadline {
                return Ok(page);
            }
            if position > page.next_after {
                // What was committed is not there: the run was erased, as the caller will find.
                return Ok(page);
            }
            // The end of the service first; a client asks again elsewhere.
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(page),
                waited = timeout_at(deadline, watch.beyond(page.next_after)) => {
                    if waited.is_err() {
                        return Ok(page);
                    }
                }
            }
        }
    }

    /// Looks on from where the page stands; true where there is nothing to wait for.
    async fn fill(&self, store: &Store, page: &mut Page) -> Result<bool, Problem> {
        let mut bytes = 0;
        for _read in 0..READS_MAX {
            let events = store.events(self.run, page.next_after, READ).await?;
            if events.is_empty() {
                return Ok(self.end.is_some_and(|end| page.next_after >= end));
            }
            for event in events {
                let passes = self.types.passes(event.kind);
                let is_full = page.data.len() >= self.limit
                    || (passes
                        && !page.data.is_empty()
                        && bytes + event.data.len() > PAGE_BYTES_MAX);
                if is_full {
                    return Ok(true);
                }
                page.next_after = event.seq;
                let ends = crate::run::event::is_terminal(event.kind);
                if passes {
                    bytes += event.data.len();
                    page.data.push(event);
                }
                if ends {
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::hub::Hub;

    #[tokio::test]
    async fn a_wait_for_the_events_of_a_run_that_was_erased_is_over_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open_sqlite(folder.path()).await.expect("a store");
        let (hub, run) = (Hub::alone(), RunId(uuid::Uuid::now_v7()));
        let mut watch = hub.watch(run);
        let told = StoredEvent { seq: Seq(2), kind: 3, data: Arc::from("{}") };
        hub.advance([(run, [told].as_slice())]);
        let query = Query { run, limit: 1, types: TypeFilter::All, end: None };
        let (stop, minute) = (CancellationToken::new(), Duration::from_secs(60));
        let began = Instant::now();
        let page = query.forward((&store, &stop), &mut watch, Seq(1), began + minute).await;
        assert!(page.expect("the store is there").data.is_empty());
        assert!(began.elapsed() < minute);
        store.close().await;
    }
}
