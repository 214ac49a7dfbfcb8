//! A model server that does what a test tells it, and remembers who called, by model name: OpenAI's
//! dialect, and Anthropic's.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use axum::routing::post;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::stub_messages as messages;
use crate::waiting::until;

/// What the stub does in one answer, in order.
#[derive(Clone, Debug)]
pub enum Do {
    /// One delta of text.
    Say(String),
    /// One delta of reasoning, in `reasoning_content`.
    Think(String),
    /// So many deltas `w1 `, `w2 `, … with a pause before each.
    Words(usize, Duration),
    /// A tool call in three pieces.
    Call(&'static str, Value),
    /// Raw bytes of the stream.
    Raw(String),
    /// The same, where they are no text.
    Bytes(Vec<u8>),
    /// Waits until the gate is open.
    Wait(Gate),
    /// Waits for the client to hang up.
    Hang,
    /// `finish_reason`, then the usage of 10 in and 5 out, then `[DONE]`.
    Finish(&'static str),
    /// The connection breaks off.
    Cut,
    /// Not a stream but this status, header and body; only as the first.
    Refuse(u16, &'static [(&'static str, &'static str)], String),
}

/// Says a text and ends well.
pub fn say(text: &str) -> Vec<Do> {
    vec![Do::Say(text.to_owned()), Do::Finish("stop")]
}

/// Asks for the calculator so often, with `1+1`, `2+1`, …
pub fn calculate(times: usize) -> Vec<Do> {
    let call = |n| Do::Call("calculator", json!({"expression": format!("{n}+1")}));
    (1..=times).map(call).chain([Do::Finish("tool_calls")]).collect()
}

/// Something that a test opens when it is ready.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub fn new() -> Gate {
        Gate(Arc::new(watch::Sender::new(false)))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn pass(&self) {
        let mut open = self.0.subscribe();
        open.wait_for(|is_open| *is_open).await.expect("the gate outlives the wait");
    }
}

/// One call that the stub got.
#[derive(Clone, Debug)]
pub struct Call {
    pub model: String,
    /// The last thing that a user said: tests that count give each run words of its own.
    pub input: String,
    /// 1 where the request ends with the user's message, one more for each answer since.
    pub turn: usize,
    /// Which call for this input and turn it is.
    pub attempt: usize,
    pub request: Value,
    pub headers: HeaderMap,
}

type Script = Arc<dyn Fn(&Call) -> Vec<Do> + Send + Sync>;

#[derive(Default)]
struct Shared {
    scripts: HashMap<String, Script>,
    calls: Vec<Call>,
    /// Calls whose client hung up before the answer's end.
    hung_up: Vec<Call>,
    /// Paths that nobody should ask for.
    unasked: Vec<String>,
}

/// The running stub.
pub struct Stub {
    pub base_url: String,
    shared: Arc<Mutex<Shared>>,
    server: JoinHandle<()>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Stub {
    pub async fn start() -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let shared = Arc::<Mutex<Shared>>::default();
        let router = Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/messages", post(message))
            .fallback(unasked)
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Stub { base_url, shared, server }
    }

    /// What the model of this name answers.
    pub fn on(&self, model: &str, script: impl Fn(&Call) -> Vec<Do> + Send + Sync + 'static) {
        self.lock().scripts.insert(model.to_owned(), Arc::new(script));
    }

    pub fn calls(&self, model: &str) -> Vec<Call> {
        self.lock().calls.iter().filter(|call| call.model == model).cloned().collect()
    }

    /// Forgets who has called.
    pub fn forget(&self) {
        self.lock().calls.clear();
    }

    /// How often each turn of the run with this input was asked for.
    pub fn counts(&self, input: &str) -> BTreeMap<usize, usize> {
        let mut counts = BTreeMap::new();
        for call in self.lock().calls.iter().filter(|call| call.input == input) {
            *counts.entry(call.turn).or_default() += 1;
        }
        counts
    }

    /// Paths beside those of the two dialects that were asked for.
    pub fn unasked(&self) -> Vec<String> {
        self.lock().unasked.clone()
    }

    /// Where Anthropic's dialect is spoken: without `/v1`.
    pub fn root(&self) -> &str {
        self.base_url.trim_end_matches("/v1")
    }

    /// Waits until the model was called so often.
    pub async fn called(&self, model: &str, times: usize) {
        let look = || async { (self.calls(model).len() >= times).then_some(()) };
        until(&format!("call {times} of {model}"), look).await;
    }

    /// Waits until a client hung up on the model so often.
    pub async fn hung_up(&self, model: &str, times: usize) {
        let count = || self.lock().hung_up.iter().filter(|call| call.model == model).count();
        let look = || async { (count() >= times).then_some(()) };
        until(&format!("{times} hang-ups on {model}"), look).await;
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }
}

/// What the stub speaks in one answer.
#[derive(Clone, Copy, PartialEq)]
enum Dialect {
    Chat,
    Messages,
}

async fn chat(
    State(shared): State<Arc<Mutex<Shared>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    complete(Dialect::Chat, shared, headers, body)
}

async fn message(
    State(shared): State<Arc<Mutex<Shared>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    complete(Dialect::Messages, shared, headers, body)
}

async fn unasked(State(shared): State<Arc<Mutex<Shared>>>, uri: Uri) -> StatusCode {
    shared.lock().unwrap().unasked.push(uri.to_string());
    StatusCode::NOT_FOUND
}

fn complete(
    dialect: Dialect,
    shared: Arc<Mutex<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let mut call = understood(request, headers);
    let script = {
        let mut shared = shared.lock().unwrap();
        let same = |one: &&Call| one.input == call.input && one.turn == call.turn;
        call.attempt = 1 + shared.calls.iter().filter(same).count();
        shared.calls.push(call.clone());
        shared.scripts.get(&call.model).cloned()
    };
    let steps = script.map_or_else(|| say("Hello."), |script| script(&call));
    if let Some(Do::Refuse(status, headers, text)) = steps.first() {
        let mut response = Response::builder().status(StatusCode::from_u16(*status).unwrap());
        for (name, value) in *headers {
            response = response.header(*name, *value);
        }
        return response.body(Body::from(text.clone())).unwrap();
    }
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        if play(dialect, steps, &sender).await.is_none() {
            shared.lock().unwrap().hung_up.push(call);
        }
    });
    let chunks = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    });
    Response::builder()
        .header("content-type", "text/event-stream")
        .header("x-request-id", "stub-request")
        .body(Body::from_stream(chunks))
        .unwrap()
}

pub fn understood(request: Value, headers: HeaderMap) -> Call {
    let messages = request["messages"].as_array().unwrap();
    let is_asking = |one: &Value| one["role"] == "user" && !messages::is_result(one);
    let asked = messages.iter().rposition(is_asking).unwrap();
    let answers = messages[asked..].iter().filter(|one| one["role"] == "assistant").count();
    Call {
        model: request["model"].as_str().unwrap().to_owned(),
        input: match &messages[asked]["content"] {
            Value::String(text) => text.clone(),
            parts => parts.to_string(),
        },
        turn: 1 + answers,
        attempt: 0,
        headers,
        request,
    }
}

/// None where the client hung up.
async fn play(
    dialect: Dialect,
    steps: Vec<Do>,
    to: &mpsc::Sender<Result<Bytes, io::Error>>,
) -> Option<()> {
    let mut calls = 0;
    if dialect == Dialect::Messages {
        send(to, messages::start()).await?;
    }
    for (step, place) in steps.into_iter().zip(0..) {
        if dialect == Dialect::Messages
            && let Some(events) = messages::events(&step, place)
        {
            send(to, events).await?;
            continue;
        }
        match step {
            Do::Say(text) => send(to, delta(&json!({"content": text}))).await?,
            Do::Think(text) => send(to, delta(&json!({"reasoning_content": text}))).await?,
            Do::Words(count, pause) => {
                for n in 1..=count {
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                    send(to, delta(&json!({"content": format!("w{n} ")}))).await?;
                }
            }
            Do::Call(name, arguments) => {
                let arguments = arguments.to_string();
                let (head, tail) = arguments.split_at(arguments.len() / 2);
                let id = format!("provider-{calls}");
                for piece in [
                    json!({"index": calls, "id": id, "type": "function",
                           "function": {"name": name, "arguments": ""}}),
                    json!({"index": calls, "function": {"arguments": head}}),
                    json!({"index": calls, "function": {"arguments": tail}}),
                ] {
                    send(to, delta(&json!({"tool_calls": [piece]}))).await?;
                }
                calls += 1;
            }
            Do::Raw(text) => send(to, text).await?,
            Do::Bytes(bytes) => to.send(Ok(Bytes::from(bytes))).await.ok()?,
            Do::Wait(gate) => tokio::select! {
                () = gate.pass() => {}
                () = to.closed() => return None,
            },
            Do::Hang => {
                to.closed().await;
                return None;
            }
            Do::Finish(reason) => {
                let finish = json!({"choices": [{"index": 0, "delta": {},
                    "finish_reason": reason}]});
                let usage = json!({"choices": [], "usage": {"prompt_tokens": 10,
                    "completion_tokens": 5, "total_tokens": 15}});
                send(to, format!("data: {finish}\n\ndata: {usage}\n\ndata: [DONE]\n\n")).await?;
            }
            Do::Cut => {
                let _ = to.send(Err(io::Error::other("cut"))).await;
                return Some(());
            }
            Do::Refuse(..) => panic!("a refusal is the whole answer"),
        }
    }
    Some(())
}

fn delta(delta: &Value) -> String {
    let chunk = json!({"id": "c", "model": "stub-model",
        "choices": [{"index": 0, "delta": delta, "finish_reason": null}]});
    format!("data: {chunk}\n\n")
}

async fn send(to: &mpsc::Sender<Result<Bytes, io::Error>>, text: String) -> Option<()> {
    to.send(Ok(Bytes::from(text))).await.ok()
}
