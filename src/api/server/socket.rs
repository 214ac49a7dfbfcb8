//! A connection's socket: bytes can be looked at before they are read, and a write that makes no
//! progress fails.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How every HTTP/2 connection begins, and no other.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A socket whose writes fail once they have made no progress for `write_stall`.
pub(super) struct Guarded {
    stream: TcpStream,
    write_stall: Duration,
    /// Counts while the last write found no room; a socket that has never been full has none.
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether the last write found no room.
    is_stalled: Arc<AtomicBool>,
    /// What has been looked at and is still to be read.
    ahead: Vec<u8>,
}

impl Guarded {
    pub(super) fn new(stream: TcpStream, write_stall: Duration) -> Self {
        let is_stalled = Arc::default();
        Self { stream, write_stall, timer: None, is_stalled, ahead: Vec::new() }
    }

    /// Tells whether the last write found no room, wherever the socket has gone.
    pub(super) fn stalled(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_stalled)
    }

    /// Whether the peer speaks HTTP/2. A peer that says nothing more speaks HTTP/1.
    ///
    /// # Cancel safety
    /// What has been looked at is read again.
    pub(super) async fn is_http2(&mut self) -> io::Result<bool> {
        while self.ahead.len() < PREFACE.len() && PREFACE.starts_with(&self.ahead) {
            if poll_fn(|cx| self.poll_ahead(cx)).await? == 0 {
                return Ok(false);
            }
        }
        Ok(self.ahead.starts_with(PREFACE))
    }

    /// Waits until the peer has closed its side, or the connection is gone. Nobody waits for the end of
    /// a peer that has sent something: what it is shows when it is read.
    ///
    /// # Cancel safety
    /// What has been looked at is read again.
    pub(super) async fn gone(&mut self) {
        poll_fn(|cx| {
            if self.ahead.is_empty() {
                match ready!(self.poll_ahead(cx)) {
                    Ok(0) | Err(_) => return Poll::Ready(()),
                    Ok(_sent) => {}
                }
            }
            Poll::Pending
        })
        .await;
    }

    /// Bytes that were read from here, and are not what the reader wanted.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        self.ahead.splice(0..0, bytes.iter().copied());
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = [0; PREFACE.len()];
        let most = PREFACE.len().saturating_sub(self.ahead.len());
        let mut buffer = ReadBuf::new(&mut room[..most]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        self.ahead.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn bound<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.is_stalled.store(written.is_pending(), Ordering::Relaxed);
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        let write_stall = self.write_stall;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(write_stall)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the reader does not read")))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = buffer.remaining().min(self.ahead.len());
        buffer.put_slice(&self.ahead[..count]);
        self.ahead.drain(..count);
        if self.ahead.is_empty() {
            self.ahead = Vec::new();
        }
        Poll::Ready(Ok(()))
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
