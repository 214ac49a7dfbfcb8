//! The accept loop: bounds on what a connection may hold, and a stop that always ends.
//!
//! `axum::serve` has neither a header timeout nor a cut for readers that don't read, and an open
//! stream keeps it from stopping. Here every connection has both, and lives in a set that
//! [`serve`] joins. A stream that must end on stop watches the token itself and yields an error,
//! so that its body is cut rather than ended cleanly.

mod endless;
mod socket;
mod stall;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use endless::{Answer, Requests};
use socket::Guarded;

/// How long accepting rests when the process is out of descriptors or memory: trying at once
/// would burn a core, and connections end in seconds.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(500);

/// What one HTTP/1 connection may buffer; also the longest header. Twice the usual proxy's limit.
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;

/// Streams of one HTTP/2 connection: a browser's or an SDK's pool shares one connection.
const HTTP2_STREAMS_MAX: u32 = 256;

/// What one HTTP/2 stream may buffer for a peer that doesn't open its window.
const HTTP2_SEND_BYTES: usize = 64 * 1024;

/// How often a quiet HTTP/2 peer is asked whether it lives; NATs forget after about a minute.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);

/// How long it may take to say so.
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// When the kernel starts to ask a quiet peer whether it lives: a vanished one frees its place.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

/// The bounds of the accept loop.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a request's header may take, also the first byte of a connection; and how long a
    /// kept-alive HTTP/1 connection may be idle.
    pub header_timeout: Duration,
    /// How long a write, or an HTTP/2 stream, may make no progress before the reader is taken for
    /// gone.
    pub write_stall: Duration,
    /// Connections at a time; more wait in the listener's backlog.
    pub connections_max: usize,
    /// `SO_SNDBUF`: what the kernel holds for one slow reader (Linux doubles it).
    pub send_buffer_bytes: usize,
    /// How long connections may take to finish after the stop; then they are dropped.
    pub drain_deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(30),
            write_stall: Duration::from_secs(30),
            connections_max: 16_384,
            send_buffer_bytes: 96 * 1024,
            drain_deadline: Duration::from_secs(8),
        }
    }
}

/// Serves until `stop` is cancelled, then until every connection has ended, at most
/// `drain_deadline` longer. No task outlives it.
///
/// # Cancel safety
/// Dropped, it aborts all connections at once.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: Options,
    stop: CancellationToken,
) {
    let cut = CancellationToken::new();
    let _cut_on_drop = cut.clone().drop_guard();
    let write_stall = options.write_stall;
    let streams = Streams { tracker: TaskTracker::new(), cut: cut.clone(), write_stall };
    let places = Arc::new(Semaphore::new(options.connections_max));
    let shared = Arc::new(Shared::new(options, streams.clone(), router));
    let mut connections = JoinSet::new();
    loop {
        // The stop first: a flood of connections must not hide it. Then those that have ended,
        // so that the set stays as small as the number of open connections.
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => log_panic(ended),
            (stream, place) = admit(&listener, &places) => {
                let shared = shared.clone();
                connections.spawn(shared.connection(stream, place, stop.clone()));
            }
        }
    }
    drop(listener);
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    };
    if tokio::time::timeout(shared.options.drain_deadline, drained).await.is_err() {
        tracing::warn!(connections.open = connections.len(), "dropping what has not ended in time");
        connections.shutdown().await;
    }
    cut.cancel();
    streams.tracker.close();
    streams.tracker.wait().await;
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked");
    }
}

/// A place among the connections, then a connection.
///
/// # Cancel safety
/// Nothing is lost: a dropped accept leaves the connection in the backlog.
async fn admit(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => return (stream, place),
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "can't accept connections; trying again");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Linux reports a pending connection's own failure through `accept`.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    [ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted].contains(&error.kind())
}

/// What all connections of one [`serve`] have in common.
struct Shared {
    http1: http1::Builder,
    http2: http2::Builder<Streams>,
    router: Router,
    options: Options,
}

impl Shared {
    fn new(options: Options, streams: Streams, router: Router) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(options.header_timeout)
            .max_buf_size(HTTP1_BUFFER_BYTES);
        let mut http2 = http2::Builder::new(streams);
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(HTTP2_STREAMS_MAX)
            .max_send_buf_size(HTTP2_SEND_BYTES)
            .keep_alive_interval(HTTP2_PING_INTERVAL)
            .keep_alive_timeout(HTTP2_PING_TIMEOUT);
        Self { http1, http2, router, options }
    }

    /// One connection from its first byte to its end.
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        _place: OwnedSemaphorePermit,
        stop: CancellationToken,
    ) {
        if let Err(error) = tune(&stream, &self.options) {
            tracing::debug!(%error, "a connection was gone before it was set up");
            return;
        }
        let mut socket = Guarded::new(stream, self.options.write_stall);
        loop {
            // In a box that goes with its end: beside it, an open stream holds next to nothing.
            let served = Box::pin(self.serve(socket, &stop)).await;
            let Some((back, answer)) = served else { return };
            socket = back;
            match endless::send(&mut socket, answer).await {
                Ok(true) if !stop.is_cancelled() => {}
                Ok(_last) => return,
                Err(error) => {
                    tracing::debug!(%error, "a stream ended early");
                    return;
                }
            }
        }
    }

    /// Has hyper answer requests until the connection is at an end, or until an answer is one that
    /// [`endless`] sends.
    async fn serve(
        &self,
        mut socket: Guarded,
        stop: &CancellationToken,
    ) -> Option<(Guarded, Answer)> {
        // hyper's header timer starts only after the version is known, and HTTP/2 has none.
        let first = Instant::now() + self.options.header_timeout;
        let is_http2 = tokio::select! {
            biased;
            is_http2 = timeout_at(first, socket.is_http2()) => is_http2.ok()?.ok()?,
            () = stop.cancelled() => return None,
        };
        let requests = Requests::new(socket.stalled());
        let io = TokioIo::new(socket);
        if is_http2 {
            let service = service_fn(|request| {
                requests.count();
                answer(self.router.clone(), request)
            });
            let mut connection = pin!(self.http2.serve_connection(io, service));
            let graceful = http2::Connection::graceful_shutdown;
            attend(connection.as_mut(), graceful, &requests, first, stop).await;
            return None;
        }
        let service = service_fn(|request| {
            let (requests, router) = (Arc::clone(&requests), self.router.clone());
            async { Ok::<_, Infallible>(requests.respond(router, request).await) }
        });
        let mut connection = self.http1.serve_connection(io, service);
        let graceful = http1::Connection::graceful_shutdown;
        let answer = attend(Pin::new(&mut connection), graceful, &requests, first, stop).await?;
        let parts = connection.into_parts();
        let mut socket = parts.io.into_inner();
        socket.put_back(&parts.read_buf);
        Some((socket, answer))
    }
}

/// Has a connection go on to its end, or until there is an answer that is not its own to send. The
/// first request has to come in time, and on stop what was begun may end.
async fn attend<C>(
    mut connection: Pin<&mut C>,
    graceful_shutdown: impl Fn(Pin<&mut C>),
    requests: &Requests,
    first: Instant,
    stop: &CancellationToken,
) -> Option<Answer>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut first = pin!(sleep_until(first));
    let (mut is_waiting, mut is_stopping) = (true, false);
    loop {
        // The connection first: an answer that is ready goes out before a stop is looked at.
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection ended early");
                }
                return None;
            }
            answer = requests.answer() => return Some(answer),
            () = stop.cancelled(), if !is_stopping => {
                // Half a header is nothing that was begun.
                if !requests.has_any() {
                    return None;
                }
                is_stopping = true;
                graceful_shutdown(connection.as_mut());
            }
            () = first.as_mut(), if is_waiting => {
                if !requests.has_any() {
                    return None;
                }
                is_waiting = false;
            }
        }
    }
}

/// Answers a request of HTTP/2.
async fn answer(router: Router, request: Request<Incoming>) -> Result<Response, Infallible> {
    router.oneshot(request).await.map(stall::watched)
}

/// Small events leave at once, a slow reader holds little of the kernel's memory, and a vanished
/// one is noticed.
fn tune(stream: &TcpStream, options: &Options) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_send_buffer_size(options.send_buffer_bytes)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER))
}

/// Runs the HTTP/2 streams, which hyper spawns beside their connection, so that the stop can cut
/// and await them too.
#[derive(Clone)]
struct Streams {
    tracker: TaskTracker,
    cut: CancellationToken,
    write_stall: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let cut = self.cut.clone();
        let stream = stall::bounded(stream, self.write_stall);
        self.tracker.spawn(async move {
            // `None` is a stream that was cut: its connection is gone, nobody waits for it.
            let _ = cut.run_until_cancelled(stream).await;
        });
    }
}

#[cfg(test)]
mod tests;
