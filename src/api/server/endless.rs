//! Sends answers of unknown length over HTTP/1.1 without hyper, which holds two buffers and all its
//! state as long as an answer lasts: most of what one of ten thousand waiting readers would cost.
//!
//! Only a plain case comes here; every other is hyper's. The request was read to its end, nothing of an
//! earlier answer waits to be written, and the answer asks for nothing of its connection.

use std::future::Future;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, HeaderName, Method, Version, header};
use axum::response::Response;
use bytes::Buf;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use tokio::io::AsyncWriteExt;
use tower::ServiceExt;

use super::socket::Guarded;

/// What of a connection's requests concerns its loop.
#[derive(Debug)]
pub(super) struct Requests {
    has_any: AtomicBool,
    /// Bytes wait to be written.
    is_stalled: Arc<AtomicBool>,
    /// To be sent from here.
    answer: Mutex<Option<Answer>>,
}

impl Requests {
    pub(super) fn new(is_stalled: Arc<AtomicBool>) -> Arc<Requests> {
        Arc::new(Requests { has_any: AtomicBool::new(false), is_stalled, answer: Mutex::new(None) })
    }

    pub(super) fn has_any(&self) -> bool {
        self.has_any.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self) {
        self.has_any.store(true, Ordering::Relaxed);
    }

    /// The answer to send, once hyper has written everything that was before it.
    pub(super) async fn answer(&self) -> Answer {
        std::future::poll_fn(|_| {
            // Whoever changes either has the connection polled, and this with it.
            if self.is_stalled.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            self.lock().take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Answers a request of HTTP/1: hyper gets the response, or waits for one in vain.
    pub(super) async fn respond(
        self: Arc<Self>,
        router: Router,
        request: Request<Incoming>,
    ) -> Response {
        self.count();
        let is_read = Arc::new(AtomicBool::new(request.body().is_end_stream()));
        let is_plain = request.version() == Version::HTTP_11 && request.method() != Method::HEAD;
        let is_kept = !says_close(request.headers());
        let request = request.map(|body| match body.is_end_stream() {
            true => Body::empty(),
            false => Body::new(Counted { body, is_read: Arc::clone(&is_read) }),
        });
        let response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
        if !is_plain || !is_read.load(Ordering::Relaxed) || !is_endless(&response) {
            return response;
        }
        *self.lock() = Some(Answer { response, is_kept });
        std::future::pending().await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Answer>> {
        self.answer.lock().expect("nothing panics while it holds an answer's lock")
    }
}

fn says_close(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONNECTION).iter();
    values.any(|value| {
        // What can't be read may say it.
        value.to_str().map_or(true, |text| {
            text.split(',').any(|option| option.trim().eq_ignore_ascii_case("close"))
        })
    })
}

fn is_endless(response: &Response) -> bool {
    let framing = [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let body = response.body();
    response.status().is_success()
        && !body.is_end_stream()
        && body.size_hint().exact().is_none()
        && framing.iter().all(|name| !response.headers().contains_key(name))
}

/// A request's body that says when it was read to its end.
struct Counted {
    body: Incoming,
    is_read: Arc<AtomicBool>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.is_read.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer whose length nobody knows yet.
#[derive(Debug)]
pub(super) struct Answer {
    response: Response,
    /// The client may go on to use the connection.
    is_kept: bool,
}

/// Sends an answer; whether the connection may have another request. An error of the body cuts it, so
/// that the client knows that there is more.
pub(super) fn send(socket: &mut Guarded, answer: Answer) -> impl Future<Output = io::Result<bool>> {
    let Answer { response, is_kept } = answer;
    let head = head(&response, is_kept);
    // The rest of the response isn't held while its body lasts.
    send_body(socket, head, response.into_body(), is_kept)
}

async fn send_body(
    socket: &mut Guarded,
    mut line: Vec<u8>,
    mut body: Body,
    is_kept: bool,
) -> io::Result<bool> {
    // The head goes with what there is of the body, and ahead of a body that is late.
    let mut at_hand = body.frame().now_or_never();
    if at_hand.is_none() {
        socket.write_all(&std::mem::take(&mut line)).await?;
    }
    loop {
        let frame = match at_hand.take() {
            Some(frame) => frame,
            // What there is to send first: a reader that is gone is noticed by that, too.
            None => tokio::select! {
                biased;
                frame = body.frame() => frame,
                () = socket.gone() => {
                    return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the reader is gone"));
                }
            },
        };
        let Some(frame) = frame else {
            line.extend_from_slice(b"0\r\n\r\n");
            socket.write_all(&line).await?;
            if !is_kept {
                socket.shutdown().await?;
            }
            return Ok(is_kept);
        };
        // Trailers were not announced, and a chunk of no bytes would be the end.
        let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
        if !data.is_empty() {
            write!(line, "{:x}\r\n", data.len())?;
            let line = std::mem::take(&mut line);
            socket.write_all_buf(&mut line.chain(data).chain(&b"\r\n"[..])).await?;
        }
    }
}

/// As hyper would write it.
fn head(response: &Response, is_kept: bool) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    let mut add = |name: &HeaderName, value: &[u8]| {
        for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    };
    for (name, value) in response.headers() {
        add(name, value.as_bytes());
    }
    add(&header::TRANSFER_ENCODING, b"chunked");
    if !is_kept {
        add(&header::CONNECTION, b"close");
    }
    let now = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now());
    add(&header::DATE, now.expect("it is a year of four digits").as_bytes());
    head.extend_from_slice(b"\r\n");
    head
}
