//! A run's log as server-sent events: replay, then live, by one path.

use std::fmt::Write;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::ApiState;
use super::problem::{FieldError, Problem};
use super::request::{Parameters, SEQ_MAX};
use crate::hub::Watch;
use crate::run::event::{KINDS, is_terminal};
use crate::run::{RunId, Seq};
use crate::store::{RunRow, Store, StoreError, StoredEvent, TypeFilter};

/// How often a silent stream says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// A pure comment: real SDKs break on blocks that carry anything else without data.
const COMMENT: &[u8] = b":\n\n";

/// How soon a store that is away is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// How many events one read of the store brings, and about how many bytes: each of many readers may
/// hold as much.
const PAGE: u32 = 500;
const PAGE_BYTES: usize = 256 * 1024;

/// About what an event has around its data.
const FRAME_BYTES: usize = 64;

/// What of the log a client wants to have streamed.
#[derive(Debug)]
pub(super) struct Cursor {
    /// Everything behind this.
    pub(super) after: Seq,
    /// `Last-Event-ID` said so, and not `after`.
    is_of_header: bool,
    /// Of these types; terminal events always.
    pub(super) types: TypeFilter,
    /// Whether events carry their type as `event:`.
    pub(super) is_named: bool,
}

impl Cursor {
    /// From `Last-Event-ID` (which wins) or `after`, `types`, `named`.
    pub(super) fn of(parameters: &Parameters, headers: &HeaderMap) -> Result<Cursor, Problem> {
        let header = headers.get("last-event-id");
        // It is looked at where it does not count, too: a mistake is told, and not passed over.
        let parameter = parameters.number("after", 0..=SEQ_MAX)?;
        let after = match header {
            Some(value) => {
                let text = value.to_str().unwrap_or_default();
                text.parse().map_err(|_not_a_number| {
                    let detail = "must be the id of an event of this run, a whole number";
                    Problem::invalid(vec![FieldError::header("Last-Event-ID", detail)])
                })?
            }
            None => parameter.unwrap_or(0),
        };
        Ok(Cursor {
            after: Seq(after),
            is_of_header: header.is_some(),
            types: parameters.types()?,
            is_named: parameters.flag("named", true)?,
        })
    }

    /// A cursor beyond the end is a mistake: it belongs to another run.
    pub(super) fn check(&self, row: &RunRow) -> Result<(), Problem> {
        if self.after <= row.last_seq {
            return Ok(());
        }
        let (last, after) = (row.last_seq, self.after);
        Err(self.refusal(format!("is beyond the run's last event, {last}; got {after}")))
    }

    /// A run that is always new has nothing that its client could have seen.
    pub(super) fn check_without_key(&self) -> Result<(), Problem> {
        if self.after == Seq(0) {
            return Ok(());
        }
        let detail = "needs the Idempotency-Key or config.run_id of the run that it belongs to: \
                      without one, each POST is a new run";
        Err(self.refusal(detail.to_owned()))
    }

    fn refusal(&self, detail: String) -> Problem {
        Problem::invalid(vec![match self.is_of_header {
            true => FieldError::header("Last-Event-ID", detail),
            false => FieldError::parameter("after", detail),
        }])
    }
}

/// One client's reading. There are as many as clients, most of them waiting: what only a read of the
/// store needs is no part of it.
struct Reading {
    store: Store,
    watch: Watch,
    run: RunId,
    cursor: Cursor,
    /// Committed at least up to here.
    head: Seq,
    is_first: bool,
    has_ended: bool,
    /// The store did not answer: it is asked again.
    is_away: bool,
    /// When something was sent last.
    sent: Instant,
    /// These two last as long as the reading: to begin anew with each event would cost more than the
    /// event does.
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    beat: Pin<Box<Sleep>>,
}

/// The answer: the stream's headers and its body. `watch` was taken before `row` was read.
pub(super) fn respond(api: &ApiState, row: &RunRow, watch: Watch, cursor: Cursor) -> Response {
    let now = Instant::now();
    let reading = Box::new(Reading {
        store: api.store.clone(),
        watch,
        run: row.id,
        cursor,
        head: row.last_seq,
        is_first: true,
        has_ended: false,
        is_away: false,
        sent: now,
        stop: Box::pin(api.stop.clone().cancelled_owned()),
        beat: Box::pin(sleep_until(now + HEARTBEAT)),
    });
    let body = stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        match reading.next().await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some(reading))),
            Ok(None) => None,
            // An error cuts the connection: a clean end would say that the run has ended.
            Err(error) => Some((Err(error), None)),
        }
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")),
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(body)).into_response()
}

impl Reading {
    /// The next bytes, or none after the terminal event.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.has_ended {
                return Ok(None);
            }
            let events = self.news().await?;
            if !events.is_empty() {
                let chunk = self.encode(&events);
                if !chunk.is_empty() {
                    self.sent = Instant::now();
                    return Ok(Some(chunk));
                }
                continue;
            }
            // The end of the service first: the client goes on at whoever drives the run next.
            tokio::select! {
                biased;
                () = self.stop.as_mut() => {
                    return Err(io::Error::other("the service is stopping"));
                }
                () = self.watch.beyond(self.cursor.after), if !self.is_away => {}
                () = tokio::time::sleep(ASK_AGAIN), if self.is_away => {}
                () = self.beat.as_mut() => {
                    let now = Instant::now();
                    let is_due = self.sent + HEARTBEAT <= now;
                    self.sent = if is_due { now } else { self.sent };
                    self.beat.as_mut().reset(self.sent + HEARTBEAT);
                    if is_due {
                        return Ok(Some(Bytes::from_static(COMMENT)));
                    }
                }
            }
        }
    }

    /// What is committed behind the cursor: from memory, else from the store.
    async fn news(&mut self) -> io::Result<Vec<StoredEvent>> {
        self.head = self.head.max(self.watch.position());
        if self.head <= self.cursor.after {
            return Ok(Vec::new());
        }
        if let Some(tail) = self.watch.tail(self.cursor.after)
            && !tail.is_empty()
        {
            return Ok(tail);
        }
        let after = self.cursor.after;
        let read = self.store.events_within(self.run, after, PAGE, PAGE_BYTES);
        // In a box, which goes with the read.
        let read = Box::pin(read).await;
        self.is_away = matches!(read, Err(StoreError::Unavailable(_)));
        let events = match read {
            // The stream stays open: the client could do no more than ask again.
            Err(StoreError::Unavailable(_)) => return Ok(Vec::new()),
            read => read.map_err(io::Error::other)?,
        };
        if events.is_empty() {
            return Err(io::Error::other("the run's log has gone"));
        }
        Ok(events)
    }

    fn encode(&mut self, events: &[StoredEvent]) -> Bytes {
        let room = events.iter().map(|event| event.data.len() + FRAME_BYTES).sum();
        let mut out = String::with_capacity(room);
        for event in events {
            assert_eq!(event.seq, self.cursor.after.next(), "a log has no gaps");
            self.cursor.after = event.seq;
            let ends = is_terminal(event.kind);
            if ends || self.cursor.types.passes(event.kind) {
                if std::mem::take(&mut self.is_first) {
                    out.push_str("retry: 1000\n");
                }
                frame(&mut out, event, self.cursor.is_named);
            }
            self.has_ended |= ends;
        }
        Bytes::from(out)
    }
}

fn frame(out: &mut String, event: &StoredEvent, is_named: bool) {
    write!(out, "id: {}", event.seq).expect("memory takes every line");
    if is_named && let Some(name) = KINDS.get(usize::from(event.kind)) {
        out.push_str("\nevent: ");
        out.push_str(name);
    }
    out.push_str("\ndata: ");
    out.push_str(&event.data);
    out.push_str("\n\n");
}
