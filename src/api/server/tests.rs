//! The accept loop over real sockets: every wait is for an end of file or a signal.

use std::net::SocketAddr;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::routing::{get, post};
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::*;

/// How long a test may take before it has failed; nothing waits for it to pass.
const TEST_MAX: Duration = Duration::from_secs(20);

const SHORT: Duration = Duration::from_millis(200);

/// More than the kernel takes for a client that doesn't read.
const LARGE: usize = 16 * 1024 * 1024;

/// Timeouts that a test doesn't mean must not help it to pass.
fn patient() -> Options {
    let long = Duration::from_secs(3600);
    Options { header_timeout: long, write_stall: long, drain_deadline: long, ..Options::default() }
}

struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Closed when the body of `/endless` or `/events` was dropped.
    body_dropped: mpsc::Receiver<()>,
    entered: Arc<Notify>,
}

#[derive(Clone)]
struct Handles {
    /// Only held: its drop is the sign.
    _body_alive: mpsc::Sender<()>,
    entered: Arc<Notify>,
    stop: CancellationToken,
}

async fn endless(State(handles): State<Handles>) -> Body {
    handles.entered.notify_one();
    let chunk = Bytes::from(vec![b'x'; 65_536]);
    Body::from_stream(stream::unfold(handles, move |handles| {
        let chunk = chunk.clone();
        async move { Some((Ok::<_, io::Error>(chunk), handles)) }
    }))
}

/// As an SSE handler does: one event, then silence, then the cut on stop.
async fn events(State(handles): State<Handles>) -> Body {
    let first = stream::iter([Ok(Bytes::from_static(b"data: 1\n\n"))]);
    let cut = stream::once(async move {
        // All of it, for as long as the body lasts.
        let handles = handles;
        handles.stop.cancelled().await;
        Err(io::Error::other("draining"))
    });
    Body::from_stream(futures_util::StreamExt::chain(first, cut))
}

/// An answer of unknown length that has an end.
async fn counted(body: String) -> Body {
    let lines = (1..=3).map(move |n| Ok::<_, io::Error>(Bytes::from(format!("{n} {body}\n"))));
    Body::from_stream(stream::iter(lines))
}

async fn never(State(handles): State<Handles>) {
    handles.entered.notify_one();
    std::future::pending().await
}

async fn start(options: Options) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let (body_alive, body_dropped) = mpsc::channel(1);
    let entered = Arc::new(Notify::new());
    let handles = Handles { _body_alive: body_alive, entered: entered.clone(), stop: stop.clone() };
    let router = Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/echo", post(|body: String| async { body }))
        .route("/endless", get(endless))
        .route("/events", get(events).post(events))
        .route("/counted", post(counted))
        .route("/large", get(|| async { "x".repeat(LARGE) }))
        .route("/never", get(never))
        .with_state(handles);
    let task = tokio::spawn(serve(listener, router, options, stop.clone()));
    Server { address, stop, task, body_dropped, entered }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TEST_MAX, future).await.expect("the test hangs")
}

async fn send(server: &Server, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

/// Everything until the server closes, however it closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = within(stream.read_to_end(&mut bytes)).await;
    String::from_utf8(bytes).unwrap()
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.ends_with(end) {
        let count = within(stream.read(&mut buffer)).await.unwrap();
        assert!(count > 0, "closed after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    text
}

#[tokio::test]
async fn a_connection_without_a_whole_header_is_cut() {
    let server = start(Options { header_timeout: SHORT, ..patient() }).await;
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for begun in ["", "P", "PRI * HT", "GET /hello HTTP/1.1\r\nHost: a\r\nX-Ha", preface] {
        let text = rest(send(&server, begun).await).await;
        assert!(!text.contains("200 OK"), "{begun:?}: {text}");
    }
}

#[tokio::test]
async fn half_of_a_second_header_is_cut_too() {
    let server = start(Options { header_timeout: SHORT, ..patient() }).await;
    let mut stream = send(&server, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await;
    read_until(&mut stream, "hello").await;
    stream.write_all(b"GET /hello HTTP/1.1\r\nHos").await.unwrap();
    assert!(!rest(stream).await.contains("200 OK"));
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_cut() {
    let mut server = start(Options { write_stall: SHORT, ..patient() }).await;
    let stream = send(&server, "GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.entered.notified().await;
    server.stop.cancel();
    // The router's own sender goes with `serve`; the body's goes when the connection is cut.
    assert_eq!(within(server.body_dropped.recv()).await, None);
    within(server.task).await.unwrap();
    drop(stream);
}

/// Opens HTTP/2 with streams that have this much room, and asks for a path of four letters or more.
async fn send_http2(server: &Server, room: u32, path: &str) -> TcpStream {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let settings = [&[0, 4][..], &room.to_be_bytes()].concat();
    // GET, http, `:path` and `:authority` as literals.
    let length = u8::try_from(path.len()).unwrap();
    let header = [&[0x82, 0x86, 0x04, length], path.as_bytes(), &[0x01, 1, b'a']].concat();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let frames = [preface, frame(4, 0, 0, &settings), frame(1, 5, 1, &header)].concat();
    stream.write_all(&frames).await.unwrap();
    stream
}

#[tokio::test]
async fn an_http2_reader_that_gives_no_room_is_cut() {
    for room in [0, 1, 20_000] {
        let mut server = start(Options { write_stall: SHORT, ..patient() }).await;
        let mut stream = send_http2(&server, room, "/endless").await;
        let (mut reset, mut header) = (false, [0; 9]);
        while !reset {
            within(stream.read_exact(&mut header)).await.unwrap();
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            within(stream.read_exact(&mut payload)).await.unwrap();
            reset = header[3] == 3;
        }
        assert_eq!(header[8], 1, "the stream is reset, and its connection goes on");
        server.stop.cancel();
        drop(stream);
        assert_eq!(within(server.body_dropped.recv()).await, None);
        within(server.task).await.unwrap();
    }
}

#[tokio::test]
async fn a_silent_http2_stream_is_not_a_stalled_reader() {
    let server = start(Options { write_stall: SHORT, header_timeout: SHORT, ..patient() }).await;
    let mut stream = send_http2(&server, 20_000, "/events").await;
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"data: 1\n\n") {
        bytes.push(within(stream.read_u8()).await.unwrap());
    }
    let silence = tokio::time::timeout(SHORT * 3, stream.read_u8()).await;
    assert!(silence.is_err(), "the stream should still be open");
}

#[tokio::test]
async fn a_slow_handler_is_not_a_stalled_reader() {
    let server = start(Options { write_stall: SHORT, header_timeout: SHORT, ..patient() }).await;
    let mut stream = send(&server, "GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    read_until(&mut stream, "data: 1\n\n\r\n").await;
    let silence = tokio::time::timeout(SHORT * 3, stream.read_u8()).await;
    assert!(silence.is_err(), "the stream should still be open");
}

#[tokio::test]
async fn an_idle_connection_does_not_delay_the_stop() {
    let server = start(patient()).await;
    let mut idle = send(&server, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await;
    read_until(&mut idle, "hello").await;
    let silent = send(&server, "").await;
    let half = send(&server, "GET /hello HTTP/1.1\r\nHos").await;
    server.stop.cancel();
    within(server.task).await.unwrap();
    for stream in [idle, silent, half] {
        assert_eq!(rest(stream).await, "");
    }
}

#[tokio::test]
async fn a_stream_is_aborted_on_stop_and_not_ended_cleanly() {
    let server = start(patient()).await;
    let mut stream = send(&server, "GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    read_until(&mut stream, "data: 1\n\n\r\n").await;
    server.stop.cancel();
    within(server.task).await.unwrap();
    assert!(!rest(stream).await.contains("0\r\n\r\n"));
}

#[tokio::test]
async fn a_request_in_flight_is_answered_after_the_stop() {
    let server = start(patient()).await;
    let head =
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    let mut stream = send(&server, head).await;
    read_until(&mut stream, "100 Continue\r\n\r\n").await;
    server.stop.cancel();
    stream.write_all(b"last").await.unwrap();
    assert!(rest(stream).await.ends_with("last"));
    within(server.task).await.unwrap();
}

#[tokio::test]
async fn what_has_not_ended_at_the_deadline_is_dropped() {
    let server = start(Options { drain_deadline: SHORT, ..patient() }).await;
    let stream = send(&server, "GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.entered.notified().await;
    server.stop.cancel();
    within(server.task).await.unwrap();
    assert_eq!(rest(stream).await, "");
}

#[tokio::test]
async fn past_the_cap_a_connection_waits_for_a_place() {
    let server = start(Options { connections_max: 1, ..patient() }).await;
    let mut first = send(&server, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await;
    read_until(&mut first, "hello").await;
    let mut second = send(&server, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let early = tokio::time::timeout(SHORT, second.read_u8()).await;
    assert!(early.is_err(), "two connections at a time");
    drop(first);
    read_until(&mut second, "hello").await;
}

const COUNTED: &str = "POST /counted HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\ny";

/// The chunks of its answer.
const CHUNKS: &str = "4\r\n1 y\n\r\n4\r\n2 y\n\r\n4\r\n3 y\n\r\n0\r\n\r\n";

#[tokio::test]
async fn after_an_endless_answer_that_has_ended_the_connection_is_kept() {
    let server = start(patient()).await;
    let mut stream = send(&server, COUNTED).await;
    let text = read_until(&mut stream, "0\r\n\r\n").await;
    assert!(text.ends_with(CHUNKS), "{text}");
    assert!(text.contains("\r\ntransfer-encoding: chunked\r\n"), "{text}");
    assert!(text.contains(" GMT\r\n") && !text.contains("connection:"), "{text}");
    stream.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_until(&mut stream, "hello").await;
}

#[tokio::test]
async fn what_a_client_sends_behind_its_request_is_the_next_one() {
    let server = start(patient()).await;
    let close = "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let text = rest(send(&server, &format!("{COUNTED}{COUNTED}{close}")).await).await;
    assert_eq!(text.matches(CHUNKS).count(), 2, "{text}");
    assert!(text.ends_with("hello"), "{text}");
}

#[tokio::test]
async fn a_client_that_wants_the_connection_closed_is_told_and_has_it_closed() {
    let server = start(patient()).await;
    let request = COUNTED.replace("Host: a", "Host: a\r\nConnection: x, Close");
    let text = rest(send(&server, &request).await).await;
    assert!(text.contains("\r\nconnection: close\r\n") && text.ends_with(CHUNKS), "{text}");
}

#[tokio::test]
async fn an_old_client_gets_no_chunks_and_a_head_alone_has_none() {
    let server = start(patient()).await;
    let text = rest(send(&server, &COUNTED.replace("HTTP/1.1", "HTTP/1.0")).await).await;
    assert!(text.ends_with("\r\n\r\n1 y\n2 y\n3 y\n"), "{text}");
    let head = "HEAD /events HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let text = rest(send(&server, head).await).await;
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with("\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn a_body_that_nobody_read_is_not_the_next_request() {
    let server = start(patient()).await;
    let hidden = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = hidden.len() + 1;
    let head = format!("POST /events HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    let mut stream = send(&server, &(head + hidden)).await;
    read_until(&mut stream, "data: 1\n\n\r\n").await;
    server.stop.cancel();
    within(server.task).await.unwrap();
    assert!(!rest(stream).await.contains("hello"));
}

#[tokio::test]
async fn an_endless_answer_waits_for_the_one_before_it() {
    let server = start(patient()).await;
    let large = "GET /large HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut stream =
        send(&server, &format!("{large}GET /events HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    let text = read_until(&mut stream, "data: 1\n\n\r\n").await;
    let (large, events) = text.split_at(text.rfind("HTTP/1.1 200 OK").unwrap());
    assert!(large.ends_with(&"x".repeat(LARGE)), "{}", large.len());
    assert!(events.ends_with("\r\n\r\n9\r\ndata: 1\n\n\r\n"), "{events}");
}

#[tokio::test]
async fn an_endless_answer_ends_with_its_reader() {
    let server = start(patient()).await;
    let request = "GET /events HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut other = send(&server, request).await;
    read_until(&mut other, "data: 1\n\n\r\n").await;
    let alone = server.body_dropped.sender_strong_count();
    let mut stream = send(&server, request).await;
    read_until(&mut stream, "data: 1\n\n\r\n").await;
    assert!(server.body_dropped.sender_strong_count() > alone);
    drop(stream);
    let gone = async {
        while server.body_dropped.sender_strong_count() > alone {
            tokio::task::yield_now().await;
        }
    };
    within(gone).await;
}

#[tokio::test]
async fn two_lengths_end_the_connection() {
    let server = start(patient()).await;
    let chunked = "4\r\nbody\r\n0\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n";
    let both = ["Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"; 1]
        .into_iter()
        .chain(["Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"]);
    for lengths in both {
        let request = format!("POST /echo HTTP/1.1\r\nHost: a\r\n{lengths}\r\n{chunked}");
        let text = rest(send(&server, &request).await).await;
        assert!(!text.contains("hello"), "the smuggled request was answered: {text}");
    }
}

#[tokio::test]
async fn dropped_it_ends_its_connections() {
    let server = start(patient()).await;
    let stream = send(&server, "GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await;
    server.entered.notified().await;
    server.task.abort();
    assert_eq!(rest(stream).await, "");
}
