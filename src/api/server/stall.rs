//! Cuts HTTP/2 streams whose reader gives them no room: no write of the connection ever stalls on
//! them, and a peer that answers pings could hold them for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

/// How much of a body is handed over at once: a reader that takes less than this within the stall
/// time is taken for gone, and more would wait in the memory of its stream.
const PIECE_BYTES: usize = 16 * 1024;

tokio::task_local! {
    /// The stream that this task sends.
    static STALL: Arc<Stall>;
}

/// Since when one stream waits for its reader.
#[derive(Debug)]
struct Stall {
    began: Instant,
    /// Milliseconds after `began`, plus 1; 0 while the reader waits for us.
    since: AtomicU64,
}

impl Stall {
    fn set(&self, is_waiting: bool) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.since.store(if is_waiting { now + 1 } else { 0 }, Ordering::Relaxed);
    }

    /// Returns once the stream has waited for so long.
    async fn over(&self, most: Duration) {
        loop {
            let end = match self.since.load(Ordering::Relaxed) {
                0 => Instant::now() + most,
                since => self.began + Duration::from_millis(since - 1) + most,
            };
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// Carries out one HTTP/2 stream, until its reader has taken nothing for so long. Dropping it then
/// resets the stream.
pub(super) async fn bounded(stream: impl Future, most: Duration) {
    let stall = Arc::new(Stall { began: Instant::now(), since: AtomicU64::new(0) });
    // The stream first: whatever it still can send is sent.
    tokio::select! {
        biased;
        _done = STALL.scope(Arc::clone(&stall), stream) => {}
        () = stall.over(most) => tracing::debug!("the reader of a stream does not read"),
    }
}

/// An answer within [`bounded`] whose body says when it waits for its reader; any other as it is.
pub(super) fn watched(response: Response) -> Response {
    match STALL.try_with(Arc::clone) {
        Ok(stall) => {
            stall.set(true);
            response.map(|body| Body::new(Watched { body, rest: Bytes::new(), stall }))
        }
        Err(_not_http2) => response,
    }
}

/// It is asked for more only where the stream has room for it.
struct Watched {
    body: Body,
    /// Of the last frame, what has not been handed over.
    rest: Bytes,
    stall: Arc<Stall>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            self.stall.set(false);
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(piece);
        self.stall.set(true);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
