//! Requests that are hardly HTTP, or not at all: each has the answer of this table, and ends no
//! connection but its own.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::spec;
use crate::service::Service;
use crate::waiting::within;

/// What a request is answered with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    /// Nothing: the connection ends.
    End,
    /// hyper's own refusal, which has a status and no body.
    Bare(u16),
    /// A problem document with this status.
    Problem(u16),
    /// A problem document with this status, and then the answer to what stands behind the request: it
    /// is read as one body in chunks.
    Next(u16),
    /// It is odd, and good enough.
    Ok,
}
use Expected::{Bare, End, Next, Problem};

const HOST: &str = "Host: localhost\r\n";

/// Requests whose heads are wrong, with the answer that each gets.
fn heads() -> Vec<(&'static str, Vec<u8>, Expected)> {
    let get = |line: &str, more: &str| format!("{line}\r\n{HOST}{more}\r\n").into_bytes();
    vec![
        ("empty lines alone", b"\r\n\r\n\r\n".to_vec(), End),
        ("no HTTP", b"GARBAGE\r\n\r\n".to_vec(), Bare(400)),
        (
            "a TLS hello",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
            Bare(400),
        ),
        ("HTTP/0.9", b"GET /\r\n\r\n".to_vec(), Bare(400)),
        ("HTTP/9.9", get("GET / HTTP/9.9", ""), Bare(400)),
        ("HTTP/2 by a line", get("GET / HTTP/2.0", ""), Bare(400)),
        ("a version with a space", get("GET / HTTP/1.1 x", ""), Bare(400)),
        ("a NUL in the path", get("GET /\0 HTTP/1.1", ""), Bare(400)),
        ("a NUL in a header", get("GET / HTTP/1.1", "X: a\0b\r\n"), Bare(400)),
        ("a NUL in a header's name", get("GET / HTTP/1.1", "X\0: a\r\n"), Bare(400)),
        ("a space before the colon", get("GET / HTTP/1.1", "X : a\r\n"), Bare(400)),
        ("a folded header", get("GET / HTTP/1.1", "X: a\r\n b\r\n"), Bare(400)),
        ("a header without a colon", get("GET / HTTP/1.1", "X\r\n"), Bare(400)),
        ("a bare CR in a header", get("GET / HTTP/1.1", "X: a\rb\r\n"), Bare(400)),
        ("bare LFs", b"GET /healthz HTTP/1.1\nHost: localhost\n\n".to_vec(), Expected::Ok),
        ("no host", b"GET /runs HTTP/1.1\r\n\r\n".to_vec(), Problem(403)),
        ("two hosts", get("GET /runs HTTP/1.1", "Host: evil.example\r\n"), Problem(403)),
        ("an absurd method", get("BREW /runs HTTP/1.1", ""), Problem(405)),
        (
            "a method of 9000 letters",
            get(&format!("{} /runs HTTP/1.1", "X".repeat(9000)), ""),
            Problem(405),
        ),
        ("CONNECT", get("CONNECT localhost:80 HTTP/1.1", ""), Problem(404)),
        ("TRACE", get("TRACE /runs HTTP/1.1", ""), Problem(405)),
        (
            "a header of 100 000 bytes",
            get("GET / HTTP/1.1", &format!("X: {}\r\n", "x".repeat(100_000))),
            Bare(431),
        ),
        ("500 headers", get("GET / HTTP/1.1", &"X: y\r\n".repeat(500)), Bare(431)),
        (
            "a path of 100 000 bytes",
            get(&format!("GET /{} HTTP/1.1", "x".repeat(100_000)), ""),
            Bare(431),
        ),
    ]
}

/// The same, where it is the body's length that is wrong.
fn bodies() -> Vec<(&'static str, Vec<u8>, Expected)> {
    let post = |more: &str, body: &str| {
        format!("POST /runs HTTP/1.1\r\n{HOST}Content-Type: application/json\r\n{more}\r\n{body}")
            .into_bytes()
    };
    let chunked = "Transfer-Encoding: chunked\r\n";
    let body = spec("demo/assistant", "x").to_string();
    let length = format!("Content-Length: {}\r\n", body.len());
    let smuggled = format!("0\r\n\r\nGET /healthz HTTP/1.1\r\n{HOST}\r\n");
    vec![
        ("a length below 0", post("Content-Length: -1\r\n", ""), Bare(400)),
        ("a length that is no number", post("Content-Length: 1e3\r\n", ""), Bare(400)),
        (
            "a length beyond 64 bits",
            post("Content-Length: 99999999999999999999\r\n", ""),
            Bare(400),
        ),
        ("two lengths", post("Content-Length: 1\r\nContent-Length: 2\r\n", "{}"), Bare(400)),
        ("two lengths in one", post("Content-Length: 1, 2\r\n", "{}"), Bare(400)),
        (
            "length and chunks",
            post(&format!("Content-Length: 4\r\n{chunked}"), &smuggled),
            Problem(400),
        ),
        (
            "chunks in HTTP/1.0",
            format!("POST /runs HTTP/1.0\r\n{HOST}{chunked}\r\n{smuggled}").into_bytes(),
            Bare(400),
        ),
        ("an unknown coding", post("Transfer-Encoding: zip\r\n", ""), Bare(400)),
        ("chunks twice", post(&format!("{chunked}{chunked}"), &smuggled), Next(400)),
        ("a chunk's size that is none", post(chunked, "ZZ\r\n"), Problem(422)),
        ("a chunk's size beyond 64 bits", post(chunked, "fffffffffffffffff\r\n"), Problem(422)),
        ("a chunk without its end", post(chunked, "2\r\n{}x\r\n0\r\n\r\n"), Problem(422)),
        ("more than its length", post(&length, &format!("{body}GARBAGE\r\n\r\n")), Problem(201)),
    ]
}

/// Sends bytes; gives everything that comes until the server closes.
async fn exchange(url: &str, bytes: &[u8], expected: Expected) -> String {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    // A server that has seen enough may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = vec![0; 1];
    // Who gets no answer has to hang up first; who hangs up first may get none.
    if expected == End {
        answer.clear();
    } else if within("an answer", stream.read_exact(&mut answer)).await.is_err() {
        return String::new();
    }
    let _ = stream.shutdown().await;
    let _ = within("the server's close", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn is_as(expected: Expected, answer: &str) -> bool {
    let is = |status: u16| {
        answer.starts_with(&format!("HTTP/1.1 {status} "))
            || answer.starts_with(&format!("HTTP/1.0 {status} "))
    };
    let is_problem = answer.contains("application/problem+json");
    match expected {
        End => answer.is_empty(),
        Bare(status) => {
            is(status) && answer.trim_end().lines().last().is_some_and(|last| !last.contains('{'))
        }
        Problem(201) => is(201) && answer.matches("HTTP/1.1 ").count() <= 2,
        Problem(status) => is(status) && is_problem && answer.matches("HTTP/1.1 ").count() == 1,
        Next(status) => is(status) && is_problem && answer.matches("HTTP/1.1 ").count() == 2,
        Expected::Ok => is(200),
    }
}

/// reliability.md, row 23: raw requests.
#[tokio::test]
async fn every_malformed_request_has_its_answer() {
    let service = Service::demo().await;
    let requests = [heads(), bodies()].concat();
    let mut found = Vec::new();
    for (name, bytes, expected) in &requests {
        let answer = exchange(&service.client.url, bytes, *expected).await;
        if !is_as(*expected, &answer) {
            let shown: String = answer.chars().take(300).collect();
            found.push(format!("{name}: {expected:?}, not {shown:?}"));
        }
        assert_eq!(service.client.get("/healthz").await.status, 200, "{name}");
    }
    let count = requests.len();
    println!("row=23 faults_fired={count} ops_ok={count} value={}", found.len());
    assert_eq!(found, Vec::<String>::new());
    assert!(count >= 25);
    // The control: a good request is none of these.
    let good = format!("GET /healthz HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n");
    let answer = exchange(&service.client.url, good.as_bytes(), Expected::Ok).await;
    let as_bad = requests
        .iter()
        .filter(|(_, _, expected)| *expected != Expected::Ok && is_as(*expected, &answer));
    assert_eq!(as_bad.count(), 0, "{answer}");
}
