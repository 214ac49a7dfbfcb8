//! A server of tools that does what a test tells it, by path, and remembers who called.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::waiting::until;

/// What the server does with one call.
#[derive(Clone, Debug)]
pub enum Reply {
    /// This status, these headers, this body.
    Send(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The same, after a pause.
    After(Duration, Box<Reply>),
    /// Nothing, until the caller hangs up.
    Hang,
    /// The head of a good answer, a piece of its body, and the end of the connection.
    Cut,
    /// So many bytes of text, in pieces, without saying how many.
    Flood(usize),
}

/// A good answer with this JSON.
pub fn json(value: &Value) -> Reply {
    send(200, "application/json", &value.to_string())
}

/// A good answer with this text.
pub fn text(text: &str) -> Reply {
    send(200, "text/plain", text)
}

pub fn send(status: u16, media_type: &str, body: &str) -> Reply {
    Reply::Send(status, vec![("content-type", media_type.to_owned())], body.into())
}

/// One call that the server got.
#[derive(Clone, Debug)]
pub struct Called {
    pub path: String,
    /// Its `Idempotency-Key`.
    pub key: String,
    /// Which call with this key it is.
    pub attempt: usize,
    pub headers: HeaderMap,
    pub body: Value,
}

type Script = Arc<dyn Fn(&Called) -> Reply + Send + Sync>;

#[derive(Default)]
struct Shared {
    scripts: HashMap<String, Script>,
    calls: Vec<Called>,
    /// Calls whose caller hung up before the answer's end.
    hung_up: Vec<Called>,
    /// Calls that are being answered now, and the most that were at once.
    under_way: usize,
    at_once: usize,
}

/// The running server.
pub struct ToolStub {
    pub url: String,
    shared: Arc<Mutex<Shared>>,
    server: JoinHandle<()>,
}

impl Drop for ToolStub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl ToolStub {
    pub async fn start() -> ToolStub {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::<Mutex<Shared>>::default();
        let router = Router::new().fallback(serve).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        ToolStub { url, shared, server }
    }

    /// What the tool at this path answers.
    pub fn on(&self, path: &str, script: impl Fn(&Called) -> Reply + Send + Sync + 'static) {
        self.lock().scripts.insert(path.to_owned(), Arc::new(script));
    }

    pub fn calls(&self, path: &str) -> Vec<Called> {
        self.lock().calls.iter().filter(|call| call.path == path).cloned().collect()
    }

    /// How often each key came.
    pub fn counts(&self, path: &str) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for call in self.calls(path) {
            *counts.entry(call.key).or_default() += 1;
        }
        counts
    }

    /// The most calls that were being answered at once.
    pub fn at_once(&self) -> usize {
        self.lock().at_once
    }

    /// Waits until the tool was called so often.
    pub async fn called(&self, path: &str, times: usize) {
        let look = || async { (self.calls(path).len() >= times).then_some(()) };
        until(&format!("call {times} of {path}"), look).await;
    }

    /// Waits until a caller hung up on the tool so often.
    pub async fn hung_up(&self, path: &str, times: usize) {
        let count = || self.lock().hung_up.iter().filter(|call| call.path == path).count();
        let look = || async { (count() >= times).then_some(()) };
        until(&format!("{times} hang-ups on {path}"), look).await;
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }
}

/// Says that a call is over, and whether its caller had gone before: then the server drops the
/// answer on its way.
struct UnderWay {
    shared: Arc<Mutex<Shared>>,
    call: Called,
    is_done: bool,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut shared = self.shared.lock().unwrap();
        shared.under_way -= 1;
        if !self.is_done {
            shared.hung_up.push(self.call.clone());
        }
    }
}

async fn serve(
    State(shared): State<Arc<Mutex<Shared>>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let key = headers.get("idempotency-key").map(|key| key.to_str().unwrap().to_owned());
    let mut call = Called {
        path: uri.path().to_owned(),
        key: key.unwrap_or_default(),
        attempt: 0,
        headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let script = {
        let mut shared = shared.lock().unwrap();
        call.attempt = 1 + shared.calls.iter().filter(|one| one.key == call.key).count();
        shared.calls.push(call.clone());
        shared.under_way += 1;
        shared.at_once = shared.at_once.max(shared.under_way);
        shared.scripts.get(&call.path).cloned()
    };
    let mut under_way = UnderWay { shared, call: call.clone(), is_done: false };
    let reply =
        script.map_or_else(|| send(404, "text/plain", "no such tool"), |script| script(&call));
    let response = play(reply).await;
    under_way.is_done = true;
    response
}

async fn play(mut reply: Reply) -> Response<Body> {
    loop {
        reply = match reply {
            Reply::After(pause, then) => {
                tokio::time::sleep(pause).await;
                *then
            }
            Reply::Hang => std::future::pending().await,
            Reply::Send(status, headers, body) => {
                let mut response =
                    Response::builder().status(StatusCode::from_u16(status).unwrap());
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                return response.body(Body::from(body)).unwrap();
            }
            Reply::Cut => {
                let pieces = [Ok(Bytes::from("{\"half\":")), Err(io::Error::other("cut"))];
                // The head has to be on its way before the cut.
                let pieces = stream::iter(pieces).then(|piece| async {
                    tokio::task::yield_now().await;
                    piece
                });
                return Response::new(Body::from_stream(pieces));
            }
            Reply::Flood(bytes) => {
                let piece = Bytes::from("0123456789abcdef".repeat(1024));
                let pieces = bytes.div_ceil(piece.len());
                let pieces =
                    stream::iter((0..pieces).map(move |_| Ok::<_, io::Error>(piece.clone())));
                return Response::new(Body::from_stream(pieces));
            }
        }
    }
}
