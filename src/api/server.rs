//! The accept loop: bounds on what a connection may hold, and a stop that always ends.
//!
//! `axum::serve` has neither a header timeout nor a cut for readers that don't read, and an open
//! stream keeps it from stopping. Here every connection has both, and lives in a set that
//! [`serve`] joins. A stream that must end on stop watches the token itself and yields an error,
//! so that its body is cut rather than ended cleanly.

mod stall;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

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
            send_buffer_bytes: 128 * 1024,
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
    let shared = Arc::new(Shared { builder: builder(&options, streams.clone()), router, options });
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

fn builder(options: &Options, streams: Streams) -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(streams);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_send_buf_size(HTTP2_SEND_BYTES)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT);
    builder
}

/// What all connections of one [`serve`] have in common.
struct Shared {
    builder: auto::Builder<Streams>,
    router: Router,
    options: Options,
}

impl Shared {
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
        let has_request = Arc::new(AtomicBool::new(false));
        let service = service_fn(|request: Request<Incoming>| {
            has_request.store(true, Ordering::Relaxed);
            answer(self.router.clone(), request)
        });
        let io = TokioIo::new(Guarded::new(stream, self.options.write_stall));
        let mut connection = pin!(self.builder.serve_connection(io, service));
        // hyper's header timer starts only after the version is known, and HTTP/2 has none.
        let mut first_request = pin!(tokio::time::sleep(self.options.header_timeout));
        let (mut is_waiting, mut is_stopping) = (true, false);
        loop {
            // The connection first: an answer that is ready goes out before a stop is looked at.
            tokio::select! {
                biased;
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(error, "a connection ended early");
                    }
                    return;
                }
                () = stop.cancelled(), if !is_stopping => {
                    // Half a header is nothing that was begun.
                    if !has_request.load(Ordering::Relaxed) {
                        return;
                    }
                    is_stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = first_request.as_mut(), if is_waiting => {
                    if !has_request.load(Ordering::Relaxed) {
                        return;
                    }
                    is_waiting = false;
                }
            }
        }
    }
}

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

/// A socket whose writes fail once they have made no progress for `write_stall`.
struct Guarded {
    stream: TcpStream,
    write_stall: Duration,
    timer: Pin<Box<Sleep>>,
    /// Whether the last write found no room: `timer` then counts.
    is_stalled: bool,
}

impl Guarded {
    fn new(stream: TcpStream, write_stall: Duration) -> Self {
        let timer = Box::pin(tokio::time::sleep(write_stall));
        Self { stream, write_stall, timer, is_stalled: false }
    }

    fn bound<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.is_stalled = false;
            return written;
        }
        if !self.is_stalled {
            self.is_stalled = true;
            self.timer.as_mut().reset(Instant::now() + self.write_stall);
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the reader does not read")))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bound(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.bound(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.bound(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
