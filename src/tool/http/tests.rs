//! What comes of servers that speak broken HTTP, or none.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::run::CallId;
use crate::tool::Toolbox;

const CANARY: &str = "canary-secret-1";

fn toolbox() -> Toolbox {
    let loopback = "127.0.0.0/8".parse().expect("a network");
    let secret = Secret { value: CANARY.to_owned(), hosts: vec!["127.0.0.1".to_owned()] };
    let secrets = BTreeMap::from([("KEY".to_owned(), secret)]);
    Toolbox::new(Caller::new(Guard::new(&[loopback]), secrets).expect("a client"))
}

fn call(url: &str, effect: Effect, try_number: u32, seconds: f64) -> Invocation {
    let tool = json!({"type": "http", "name": "t", "url": url, "timeout": seconds,
                      "headers": {"X-Key": "${secret:KEY}"}});
    Invocation {
        tool: serde_json::from_value(tool).expect("a tool"),
        effect,
        run_id: "run".to_owned(),
        call_id: CallId("call".to_owned()),
        arguments: json!({}),
        variables: Map::new(),
        traceparent: String::new(),
        try_number,
        until: Instant::now() + Duration::from_secs_f64(seconds),
        jitter: 0.0,
    }
}

/// A server that reads a request's head, says this, and closes, or (else) waits for the other side.
async fn raw(says: Vec<u8>, closes: bool) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/t", listener.local_addr().expect("an address"));
    let mut server = JoinSet::new();
    server.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            // The other side may have had enough.
            let _ = socket.write_all(&says).await;
            if !closes {
                while socket.read(&mut request).await.is_ok_and(|read| read > 0) {}
            }
        }
    });
    (url, server)
}

/// Heads and bodies that no client should have to see.
fn broken() -> Vec<(&'static str, Vec<u8>)> {
    let head = |rest: &str| format!("HTTP/1.1 200 OK\r\n{rest}").into_bytes();
    vec![
        ("nothing", Vec::new()),
        ("no HTTP", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
        ("zeros", vec![0; 4096]),
        ("no end of the head", head("x: y\r\n")),
        ("an early end", head("content-length: 50\r\n\r\n{\"half\":")),
        ("no length", head("content-length: -1\r\n\r\nx")),
        ("a length beyond numbers", head("content-length: 99999999999999999999999\r\n\r\nx")),
        ("two lengths", head("content-length: 1\r\ncontent-length: 2\r\n\r\nxy")),
        ("no chunk", head("transfer-encoding: chunked\r\n\r\nzz\r\n")),
        ("an endless chunk", head("transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nx")),
        ("a header without a name", head(": x\r\n\r\n")),
        ("a header with NUL", head("x: a\0b\r\n\r\n")),
        ("a head of a megabyte", head(&format!("x: {}\r\n\r\n", "y".repeat(1 << 20)))),
        ("ten thousand headers", head(&format!("{}\r\n", "x: y\r\n".repeat(10_000)))),
        ("no status", b"HTTP/1.1 OK\r\n\r\n".to_vec()),
        ("a status of four digits", b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n".to_vec()),
    ]
}

#[tokio::test]
async fn broken_http_is_a_broken_connection_and_no_panic() {
    let toolbox = toolbox();
    for (name, says) in broken() {
        let (url, _server) = raw(says, true).await;
        for (effect, outcome) in [
            (Effect::Read, Outcome::Error),
            (Effect::Idempotent, Outcome::Error),
            (Effect::Once, Outcome::Unknown),
        ] {
            match toolbox.call(&call(&url, effect, limits::TOOL_TRIES, 20.0)).await {
                Tried::Answered(answer) => {
                    assert_eq!(answer.outcome, outcome, "{name}: {answer:?}")
                }
                Tried::Failed { .. } => panic!("{name}: it was the last try"),
            }
            let first = toolbox.call(&call(&url, effect, 1, 20.0)).await;
            let is_tried_again = matches!(first, Tried::Failed { .. });
            assert_eq!(is_tried_again, effect != Effect::Once, "{name}: {first:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_never_comes_to_an_end_is_cut_by_the_tools_time() {
    let toolbox = toolbox();
    let waits = "HTTP/1.1 100 Continue\r\n\r\n".repeat(5000).into_bytes();
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"half\":".to_vec();
    for says in [Vec::new(), waits, half] {
        let (url, _server) = raw(says, false).await;
        for (effect, outcome) in
            [(Effect::Read, Outcome::Timeout), (Effect::Once, Outcome::Unknown)]
        {
            match toolbox.call(&call(&url, effect, 1, 0.2)).await {
                Tried::Answered(answer) => assert_eq!(answer.outcome, outcome, "{answer:?}"),
                Tried::Failed { .. } => panic!("its time is over"),
            }
        }
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_become_text() {
    let toolbox = toolbox();
    let mut says = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n".to_vec();
    says.extend([b'a', 0xff, 0xfe, 0x00, 0xc3, 0xa9]);
    let (url, _server) = raw(says, true).await;
    match toolbox.call(&call(&url, Effect::Read, 1, 20.0)).await {
        Tried::Answered(answer) => assert_eq!(answer.result, Value::from("a\u{fffd}\u{fffd}\0é")),
        Tried::Failed { .. } => panic!("it answered well"),
    }
}

#[tokio::test]
async fn a_secret_is_for_its_hosts_also_where_the_settings_have_changed_since() {
    let toolbox = toolbox();
    let told = async |tool: Value| {
        let call = Invocation {
            tool: serde_json::from_value(tool).expect("a tool"),
            ..call("http://127.0.0.1:9/", Effect::Read, limits::TOOL_TRIES, 5.0)
        };
        match toolbox.call(&call).await {
            Tried::Answered(answer) => answer.result.to_string(),
            Tried::Failed { .. } => panic!("it is not tried again"),
        }
    };
    let with = |url: &str, name: &str| {
        json!({"type": "http", "name": "t", "url": url,
               "headers": {"X": format!("${{secret:{name}}}")}})
    };
    let other = told(with("http://127.0.0.2:9/", "KEY")).await;
    assert!(other.contains("not for this host"), "{other}");
    let gone = told(with("http://127.0.0.1:9/", "GONE")).await;
    assert!(gone.contains("no secret `GONE` any more"), "{gone}");
    assert!(!format!("{toolbox:?}").contains(CANARY));
}

#[test]
fn the_wait_doubles_with_each_try() {
    let waits: Vec<Duration> = (1..=4).map(|number| backoff(number, 1.0)).collect();
    assert_eq!(waits, [250, 500, 1000, 2000].map(Duration::from_millis));
    assert_eq!(backoff(1, 0.0), Duration::from_millis(125), "half of it at random");
    assert_eq!(backoff(u32::MAX, f64::NAN), Duration::ZERO);
}
