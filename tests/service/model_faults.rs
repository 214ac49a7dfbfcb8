//! Providers that fail in every way that they are known to: no part of an answer is ever committed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::bulk;
use crate::client::{Client, kinds, of};
use crate::model_cuts::{Whole, body, done, setup, told};
use crate::recovery::violations;
use crate::scale::scaled;
use crate::service::Service;
use crate::stub::Call;
use crate::wire_stub::{HEAD, Wire, WireStub, answer, chunk, stream_of};

/// Rounds, of a run for each kind, that are under way at once: few enough that each run ends in its time
/// on a loaded machine.
const ROUNDS: usize = 12;

/// What a fault comes to.
#[derive(Clone, Copy, PartialEq)]
enum To {
    /// The call is made again.
    Again,
    /// The turn's time runs out.
    TimeOut,
    /// It is the request's fault, or looks like it: nobody asks again.
    End,
}

/// A kind of fault, and what it comes to.
const KINDS: [(&str, To); 22] = [
    ("refused", To::Again),
    ("408", To::Again),
    ("409", To::Again),
    ("429", To::Again),
    ("500", To::Again),
    ("503", To::Again),
    ("529", To::Again),
    ("error-in-stream", To::Again),
    ("silence-before-headers", To::TimeOut),
    ("silence-after-headers", To::TimeOut),
    ("silence-mid-stream", To::TimeOut),
    ("slow-drip", To::TimeOut),
    ("comments-only", To::TimeOut),
    ("reset-before-headers", To::Again),
    ("reset-mid-stream", To::Again),
    ("html", To::Again),
    ("invalid-json", To::Again),
    ("half-a-character", To::Again),
    ("gzip", To::Again),
    ("redirect", To::End),
    ("no-finish-reason", To::Again),
    ("half-a-head", To::Again),
];

fn refusal(status: u16, headers: &str) -> Vec<Wire> {
    let body = json!({"error": {"message": "try later", "type": "overloaded_error"}});
    let headers = format!("content-type: application/json\r\n{headers}");
    vec![Wire::Bytes(answer(status, &headers, body.to_string().as_bytes()))]
}

/// An answer that begins well and goes on with this.
fn begun(whole: &Whole, rest: &[u8]) -> Vec<u8> {
    let body = &whole.body[..2000];
    let end = body.windows(2).rposition(|pair| pair == b"\n\n").unwrap() + 2;
    [&body[..end], rest].concat()
}

fn fault(kind: &str, whole: &Whole) -> Vec<Wire> {
    let head = || Wire::Bytes(HEAD.as_bytes().to_vec());
    let stream = |rest: &[u8]| vec![Wire::Bytes(stream_of(&begun(whole, rest)))];
    let open = |rest: &[u8]| Wire::Bytes(chunk(&begun(whole, rest)));
    match kind {
        "408" => refusal(408, ""),
        "409" => refusal(409, ""),
        "429" => refusal(429, "retry-after-ms: 300\r\n"),
        "500" => refusal(500, ""),
        "503" => refusal(503, "retry-after: 1\r\n"),
        "529" => refusal(529, ""),
        "error-in-stream" => stream(
            b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\
              \"message\":\"Overloaded\"}}\n\n",
        ),
        "silence-before-headers" => vec![Wire::Silence],
        "silence-after-headers" => vec![head(), Wire::Silence],
        "silence-mid-stream" => vec![head(), open(b""), Wire::Silence],
        "slow-drip" => {
            let pause = Duration::from_millis(20);
            vec![head(), Wire::Drip(chunk(&whole.body), pause), Wire::Silence]
        }
        "comments-only" => {
            let comments = chunk(b":\n\n").repeat(10_000);
            vec![head(), Wire::Drip(comments, Duration::from_millis(20))]
        }
        "reset-before-headers" => vec![Wire::Reset],
        "reset-mid-stream" => vec![head(), open(b""), Wire::Reset],
        "html" => vec![Wire::Bytes(answer(200, "content-type: text/html\r\n", b"<html>Hi</html>"))],
        "invalid-json" => stream(b"data: {\"choices\": [{\n\n"),
        "half-a-character" => stream(b"data: {\"choices\": [{\"delta\": {\"content\": \"caf\xc3"),
        "gzip" => {
            let headers = "content-type: text/event-stream\r\ncontent-encoding: gzip\r\n";
            vec![Wire::Bytes(answer(200, headers, b"\x1f\x8b\x08\x00garbage of no use\xff\x00"))]
        }
        "redirect" => vec![Wire::Bytes(answer(302, "location: /elsewhere\r\n", b""))],
        "no-finish-reason" => stream(b"data: [DONE]\n\n"),
        "half-a-head" => vec![Wire::Bytes(b"HTTP/1.1 200 OK\r\ncontent-ty".to_vec()), Wire::Close],
        other => panic!("no fault {other}"),
    }
}

/// Each third run's provider never gets well.
fn is_lasting(n: usize) -> bool {
    n % 3 == 2
}

/// What a fault comes to, which one of its kind it is, and the run.
type Body = (To, usize, Value);

fn bodies(count: usize) -> Vec<Body> {
    let mut bodies = Vec::new();
    for n in 0..count {
        for (kind, to) in KINDS {
            let dialect = if n % 2 == 0 { "chat" } else { "messages" };
            let mut body = body(dialect, &format!("{kind} {dialect} {n}"));
            let well = format!("{dialect}/m");
            match (kind, is_lasting(n)) {
                ("refused", true) => body["agent"]["model"] = json!("nobody/m"),
                ("refused", false) => body["agent"]["model"] = json!(["nobody/m", well]),
                _ => {}
            }
            if to == To::TimeOut {
                body["config"]["timeout_per_turn"] = json!(1.0 + (n % 7) as f64 / 7.0);
            }
            bodies.push((to, n, body));
        }
    }
    bodies
}

/// The runs of these bodies once they have ended, with their logs.
async fn round<'a>(client: &Client, some: &'a [Body]) -> Vec<(Value, Vec<Value>, &'a Body)> {
    let asked: Vec<Value> = some.iter().map(|(_, _, body)| body.clone()).collect();
    let runs = bulk::create(client, &asked).await;
    bulk::all(runs.iter().zip(some), |(run, body)| async move {
        (bulk::ended(client, run).await, bulk::log(client, run).await, body)
    })
    .await
}

/// reliability.md, row 12: kinds of fault.
#[tokio::test]
async fn no_fault_of_a_provider_commits_a_part_of_an_answer() {
    let count = scaled(3, 100);
    let wholes = [Whole::chat(), Whole::messages()];
    let answers = wholes.clone();
    let stub = WireStub::start(move |call: &Call| {
        let words: Vec<&str> = call.input.split(' ').collect();
        let (kind, is_chat, n) = (words[0], words[1] == "chat", words[2].parse().unwrap());
        let whole = &answers[usize::from(!is_chat)];
        match call.turn {
            1 if kind != "refused" && (call.attempt == 1 || is_lasting(n)) => fault(kind, whole),
            1 => vec![Wire::Bytes(stream_of(&whole.body))],
            _ => vec![Wire::Bytes(done(is_chat))],
        }
    })
    .await;
    // A port that was somebody's a moment ago, and is nobody's.
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let setup = setup(&stub.root(), folder.path()).env("RUNLEDGER_SLOTS", "4096");
    let file = std::fs::read_to_string(folder.path().join("test.toml")).unwrap();
    let more =
        format!("[providers.nobody]\nkind = \"openai\"\nbase_url = \"http://{nobody}/v1\"\n");
    std::fs::write(folder.path().join("test.toml"), file + &more).unwrap();
    let service = Service::in_folder(Arc::new(tempfile::tempdir().unwrap()), setup).await;
    let client = &service.client;
    let bodies = bodies(count);
    let looked = bulk::each(bodies.chunks(KINDS.len()), ROUNDS, |some| round(client, some));
    let (mut fired, mut ok, mut found, mut fold) = (0, 0, Vec::new(), [None, None]);
    for (run, log, (to, n, body)) in looked.concat().await {
        let input = bulk::text(&body["input"]);
        let which = usize::from(input.contains("messages"));
        let mut wrong = wholes[which].partial(&log);
        let counts =
            if input.starts_with("refused") { Default::default() } else { stub.counts(input) };
        wrong.extend(violations(&log, &[], &counts));
        fired += of(&log, "turn.aborted").len();
        ok += 1;
        let ends_well = *to == To::Again && !is_lasting(*n);
        let expected = if ends_well { "run.completed" } else { "run.failed" };
        if kinds(&log).last() != Some(&expected) {
            wrong.push(format!("it should be {expected}: {log:?}"));
        }
        if ends_well {
            let told = told(&run);
            if *fold[which].get_or_insert(told.clone()) != told {
                wrong.push(format!("another fold: {told}"));
            }
        }
        found.extend(wrong.into_iter().map(|wrong| format!("{input}: {wrong}")));
    }
    println!("row=12 kinds={} faults_fired={fired} ops_ok={ok} value={}", KINDS.len(), found.len());
    assert_eq!(found, Vec::<String>::new());
    assert!(fired >= KINDS.len() * count && ok == bodies.len(), "{fired} faults, {ok} ends");
}
