//! Calls over a real socket: how answers begin, end, stall and break off, in both dialects.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::model::endpoint::Dialect;
use crate::model::{Model, Registry, openai};
use crate::run::Request;
use crate::run::spec::ModelSettings;

const CHAT: Dialect = Dialect::ChatCompletions(openai::Settings {
    output_limit_field: "max_tokens",
    has_stream_usage: true,
});
const BOTH: [Dialect; 2] = [CHAT, Dialect::Messages];

/// The head of a stream whose end is the connection's.
const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

/// The same in chunks, so that an end without a last chunk is a broken one.
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

type Called = (Result<Reply, Failure>, Vec<Delta>);

/// A server that the test plays by hand.
struct Server {
    listener: TcpListener,
    registry: Registry,
}

impl Server {
    async fn start(dialect: Dialect, patience: Patience) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let endpoint =
            Endpoint { patience, ..Endpoint::for_tests(&format!("http://{address}"), dialect) };
        Server { listener, registry: Registry::new(vec![endpoint], "stub/m".to_owned()) }
    }

    fn model(&self) -> Model {
        self.registry.resolve("stub/m").expect("it is configured")
    }

    /// A call under way.
    fn call(&self) -> JoinHandle<Called> {
        let model = self.model();
        tokio::spawn(async move {
            let (sender, mut receiver) = mpsc::channel(64);
            let request = request();
            let call = model.call(&request, sender);
            let collect = async {
                let mut deltas = Vec::new();
                while let Some(delta) = receiver.recv().await {
                    deltas.push(delta);
                }
                deltas
            };
            tokio::join!(call, collect)
        })
    }

    /// The next connection, its request read.
    async fn accept(&self) -> (TcpStream, String) {
        let (mut socket, _) = self.listener.accept().await.expect("somebody calls");
        let mut asked = String::new();
        let mut buffer = [0; 4096];
        while !asked.ends_with('}') {
            let read = socket.read(&mut buffer).await.expect("it asks");
            assert!(read > 0, "it hung up before it had asked: {asked}");
            asked.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        (socket, asked)
    }

    /// What becomes of a call that is answered with this, then the end of the connection.
    async fn answered(&self, answer: &str) -> Called {
        let call = self.call();
        let (mut socket, _) = self.accept().await;
        socket.write_all(answer.as_bytes()).await.expect("it listens");
        drop(socket);
        call.await.expect("no panic")
    }
}

fn request() -> Request {
    Request {
        instructions: None,
        messages: serde_json::from_value(json!([{"role": "user", "content": "hi"}]))
            .expect("a message"),
        tools: Vec::new(),
        settings: ModelSettings::default(),
        output_schema: None,
    }
}

fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

/// A piece of the answer.
fn said(dialect: Dialect) -> String {
    event(&match dialect {
        Dialect::ChatCompletions(_) => json!({"choices": [{"delta": {"content": "yes"}}]}),
        Dialect::Messages => json!({"type": "content_block_delta", "index": 0,
            "delta": {"type": "text_delta", "text": "yes"}}),
    })
}

/// The message's end.
fn ended(dialect: Dialect) -> String {
    match dialect {
        Dialect::ChatCompletions(_) => {
            event(&json!({"choices": [{"delta": {}, "finish_reason": "stop"}]}))
        }
        Dialect::Messages => {
            let delta = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}});
            event(&delta) + &event(&json!({"type": "message_stop"}))
        }
    }
}

fn text(deltas: &[Delta]) -> String {
    let texts = deltas.iter().map(|delta| match delta {
        Delta::Text(text) | Delta::Reasoning { text, .. } => text.as_str(),
    });
    texts.collect()
}

fn patience(ms: u64) -> Patience {
    let time = Duration::from_millis(ms);
    Patience { silence: time, progress: time, usage: time }
}

#[track_caller]
fn failed((called, _): Called) -> Failure {
    called.expect_err("it is no reply")
}

#[tokio::test]
async fn rule_1_the_providers_own_end_makes_a_reply_with_done_or_without() {
    for dialect in BOTH {
        let server = Server::start(dialect, Patience::default()).await;
        for tail in ["", "data: [DONE]\n\n"] {
            let (reply, deltas) =
                server.answered(&[STREAM, &said(dialect), &ended(dialect), tail].concat()).await;
            assert!(reply.is_ok(), "{dialect:?} {reply:?}");
            assert_eq!(text(&deltas), "yes");
        }
        let done = [STREAM, &said(dialect), "data: [DONE]\n\n"].concat();
        assert_eq!(failed(server.answered(&done).await).reason, AbortReason::Cut);
    }
}

#[tokio::test]
async fn rule_2_after_the_end_there_is_a_grace_for_the_usage_and_a_late_failure_passes() {
    let brief = Patience { usage: Duration::from_millis(50), ..Patience::default() };
    let server = Server::start(CHAT, brief).await;
    let call = server.call();
    let (mut socket, _) = server.accept().await;
    let open = [STREAM, &said(CHAT), &ended(CHAT)].concat();
    socket.write_all(open.as_bytes()).await.expect("it listens");
    assert!(call.await.expect("no panic").0.is_ok(), "the connection is open and silent");
    let whole = said(CHAT) + &ended(CHAT);
    for late in ["data: no json\n\n", "data: {\"error\":\"late\"}\n\n"] {
        let (reply, deltas) = server.answered(&[STREAM, &whole, late].concat()).await;
        assert!(reply.is_ok(), "{late} {reply:?}");
        assert_eq!(text(&deltas), "yes");
    }
    let broken = format!("{CHUNKED}{:x}\r\n{whole}\r\n", whole.len());
    assert!(server.answered(&broken).await.0.is_ok(), "the body breaks off behind the end");
}

#[tokio::test]
async fn rule_3_the_bodys_end_without_a_reason_is_a_cut_also_when_it_is_clean_or_empty() {
    for dialect in BOTH {
        let server = Server::start(dialect, Patience::default()).await;
        let half = said(dialect);
        let chunk = format!("{CHUNKED}{:x}\r\n{half}\r\n", half.len());
        for answer in [
            STREAM.to_owned(),
            [STREAM, &half].concat(),
            format!("{chunk}0\r\n\r\n"),
            chunk,
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(),
        ] {
            let failure = failed(server.answered(&answer).await);
            let got = (failure.reason, failure.remedy, failure.has_begun);
            assert_eq!(got, (AbortReason::Cut, Remedy::Retry, true), "{answer}");
        }
    }
}

#[tokio::test]
async fn rule_4_a_frame_that_is_no_json_and_an_error_are_the_streams_fault() {
    for dialect in BOTH {
        let server = Server::start(dialect, Patience::default()).await;
        for (frame, words) in [
            ("data: {\"error\": \"say \"no\"\"}\n\n", "no JSON"),
            ("data: {\"error\":{\"message\":\"m\",\"code\":\"503\"}}\n\ndata: [DONE]\n\n", "m"),
        ] {
            let failure = failed(server.answered(&[STREAM, &said(dialect), frame].concat()).await);
            assert!(failure.message.contains(words), "{failure:?}");
            assert_eq!(failure.remedy, Remedy::Retry);
        }
    }
}

#[tokio::test]
async fn rule_14_a_200_of_another_type_is_read_and_json_is_a_whole_answer_or_an_error() {
    for dialect in BOTH {
        let server = Server::start(dialect, Patience::default()).await;
        let whole = said(dialect) + &ended(dialect);
        let plain = ["HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n", &whole].concat();
        assert!(server.answered(&plain).await.0.is_ok());
        let json = |body: &Value| {
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{body}")
        };
        let answer = match dialect {
            Dialect::ChatCompletions(_) => {
                json!({"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]})
            }
            Dialect::Messages => json!({"type": "message", "stop_reason": "end_turn",
                "content": [{"type": "text", "text": "yes"}]}),
        };
        let (reply, deltas) = server.answered(&json(&answer)).await;
        assert!(reply.is_ok() && text(&deltas) == "yes", "{reply:?}");
        let error = json!({"error": {"message": "no money", "code": 402}});
        let failure = failed(server.answered(&json(&error)).await);
        assert_eq!((failure.status, failure.remedy), (Some(402), Remedy::Final));
    }
}

#[tokio::test]
async fn rule_15_silence_and_comments_alone_end_a_call() {
    for dialect in BOTH {
        let server = Server::start(dialect, patience(60)).await;
        let call = server.call();
        let (_unanswered, _) = server.accept().await;
        let failure = failed(call.await.expect("no panic"));
        assert_eq!(failure.reason, AbortReason::Stalled);
        assert!(failure.message.contains("no answer") && failure.has_begun);

        let silent = Patience { silence: Duration::from_millis(60), ..Patience::default() };
        let server = Server::start(dialect, silent).await;
        let call = server.call();
        let (mut socket, _) = server.accept().await;
        socket.write_all([STREAM, &said(dialect)].concat().as_bytes()).await.expect("it listens");
        let failure = failed(call.await.expect("no panic"));
        assert!(failure.message.contains("no byte"), "{failure:?}");

        let stuck = Patience { progress: Duration::from_millis(200), ..Patience::default() };
        let server = Server::start(dialect, stuck).await;
        let call = server.call();
        let (mut socket, _) = server.accept().await;
        socket.write_all(STREAM.as_bytes()).await.expect("it listens");
        let mut pause = tokio::time::interval(Duration::from_millis(10));
        pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pings = 0;
        while pings < 500 && socket.write_all(b": ping\n\n").await.is_ok() {
            pause.tick().await;
            pings += 1;
        }
        assert!(pings < 500, "comments alone held the call for 5 s");
        let failure = failed(call.await.expect("no panic"));
        assert!(failure.message.contains("no data"), "{failure:?}");
    }
}

#[tokio::test]
async fn rules_16_and_18_a_refusal_is_told_with_its_words_and_its_wait() {
    for dialect in BOTH {
        let server = Server::start(dialect, Patience::default()).await;
        let refusal = "HTTP/1.1 429 Too Many Requests\r\nretry-after-ms: 250\r\n\r\n\
            {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"slow\"}}";
        let failure = failed(server.answered(refusal).await);
        let got = (failure.status, failure.remedy, failure.message.as_str(), failure.has_begun);
        assert_eq!(got, (Some(429), Remedy::Retry, "slow", false));
        assert_eq!(failure.retry_after, Some(Duration::from_millis(250)));
        let gateway = "HTTP/1.1 401 Unauthorized\r\n\r\n<html>bad key sk-secret</html>";
        let failure = failed(server.answered(gateway).await);
        assert_eq!(failure.message, "<html>bad key ***</html>", "keys are taken out");
        assert_eq!(failure.remedy, Remedy::Fallback);
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_read_counts_and_one_that_found_nobody_does_not() {
    for dialect in BOTH {
        let server = Server::start(dialect, Patience::default()).await;
        for answer in ["", "HTTP/1.1 200 OK\r\ncontent-ty"] {
            let failure = failed(server.answered(answer).await);
            let got = (failure.reason, failure.remedy, failure.has_begun);
            assert_eq!(got, (AbortReason::Connection, Remedy::Retry, true), "{failure:?}");
        }
        let model = server.model();
        drop(server);
        let (sender, _deltas) = mpsc::channel(64);
        let failure = model.call(&request(), sender).await.expect_err("nobody is there");
        assert_eq!((failure.reason, failure.has_begun), (AbortReason::Connection, false));
    }
}

#[tokio::test]
async fn rules_20_and_22_path_and_keys_are_those_of_the_dialect() {
    for dialect in BOTH {
        let server = Server::start(dialect, Patience::default()).await;
        let call = server.call();
        let (socket, asked) = server.accept().await;
        drop(socket);
        assert_eq!(failed(call.await.expect("no panic")).reason, AbortReason::Connection);
        let asked = asked.to_ascii_lowercase();
        assert!(asked.contains("authorization: bearer sk-secret\r\n"), "{asked}");
        match dialect {
            Dialect::ChatCompletions(_) => {
                assert!(asked.starts_with("post /chat/completions "), "{asked}");
                assert!(!asked.contains("x-api-key"), "{asked}");
            }
            Dialect::Messages => {
                assert!(asked.starts_with("post /v1/messages "), "{asked}");
                assert!(asked.contains("x-api-key: sk-secret\r\n"), "{asked}");
                assert!(asked.contains("anthropic-version: 2023-06-01\r\n"), "{asked}");
                assert!(asked.contains("\"max_tokens\":"), "{asked}");
            }
        }
    }
}

#[tokio::test]
async fn rule_23_a_dropped_call_closes_its_connection_which_is_not_used_again() {
    for dialect in BOTH {
        let server = Server::start(dialect, Patience::default()).await;
        let (model, (sender, mut deltas)) = (server.model(), mpsc::channel(1));
        let call = tokio::spawn(async move { model.call(&request(), sender).await });
        let (mut first, _) = server.accept().await;
        let chunk = said(dialect);
        let begun = format!("{CHUNKED}{:x}\r\n{chunk}\r\n", chunk.len());
        first.write_all(begun.as_bytes()).await.expect("it listens");
        assert!(deltas.recv().await.is_some(), "it has begun");
        call.abort();
        let mut rest = Vec::new();
        // Closed, or reset: both are an end.
        let _ = first.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "nothing more was asked over it");
        let again = server.answered(&[STREAM, &chunk, &ended(dialect)].concat()).await;
        assert!(again.0.is_ok(), "the next call has a connection of its own");
    }
}

#[tokio::test]
async fn rule_24_a_calls_id_stands_in_one_of_the_headers_or_in_the_stream() {
    let server = Server::start(CHAT, Patience::default()).await;
    let chunk = event(&json!({"id": "in-stream", "choices": []}));
    for (header, id) in [
        ("x-request-id: a", "a"),
        ("request-id: b", "b"),
        ("x-litellm-call-id: c", "c"),
        ("x-generation-id: d", "d"),
        ("x-other: e", "in-stream"),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n");
        let reply = server.answered(&[&head, chunk.as_str(), &ended(CHAT)].concat()).await.0;
        assert_eq!(reply.expect("a reply").provider_request_id.as_deref(), Some(id));
    }
}

#[test]
fn rule_25_a_models_name_is_everything_behind_the_first_slash() {
    let endpoint = Endpoint::for_tests("http://localhost", CHAT);
    let registry = Registry::new(vec![endpoint], "stub/m".to_owned());
    let Some(Model::OpenAi(model)) = registry.resolve("stub/org/m:8b@main.q4") else {
        panic!("it is offered")
    };
    assert!(format!("{model:?}").contains("\"org/m:8b@main.q4\""));
}
