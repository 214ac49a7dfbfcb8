//! A model server below HTTP: it answers a call with bytes as they are, and breaks off as a test says.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::stub::{Call, understood};

/// What the server does with one call, in order. Behind the last the connection takes another.
#[derive(Clone, Debug)]
pub enum Wire {
    Bytes(Vec<u8>),
    /// One byte after another, with a pause before each.
    Drip(Vec<u8>, Duration),
    /// Nothing, until the client hangs up.
    Silence,
    /// The end of the connection.
    Close,
    /// The same, as a reset.
    Reset,
}

type Script = Arc<dyn Fn(&Call) -> Vec<Wire> + Send + Sync>;

#[derive(Default)]
struct Shared {
    /// How often each turn of the run with this input was asked for.
    counts: HashMap<String, std::collections::BTreeMap<usize, usize>>,
    /// When a client hung up, by input.
    hung_up: HashMap<String, Instant>,
}

/// The running server.
pub struct WireStub {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    _tasks: JoinSet<()>,
}

impl WireStub {
    pub async fn start(script: impl Fn(&Call) -> Vec<Wire> + Send + Sync + 'static) -> WireStub {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shared, script) = (Arc::<Mutex<Shared>>::default(), Arc::new(script) as Script);
        let mut tasks = JoinSet::new();
        let inside = shared.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.unwrap();
                        connections.spawn(serve(stream, inside.clone(), script.clone()));
                    }
                    Some(_ended) = connections.join_next() => {}
                }
            }
        });
        WireStub { address, shared, _tasks: tasks }
    }

    /// Where both dialects are spoken: without `/v1`.
    pub fn root(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How often each turn of the run with this input was asked for.
    pub fn counts(&self, input: &str) -> std::collections::BTreeMap<usize, usize> {
        self.shared.lock().unwrap().counts.get(input).cloned().unwrap_or_default()
    }

    /// When the client hung up on the run with this input in a [`Wire::Silence`].
    pub fn hung_up(&self, input: &str) -> Option<Instant> {
        self.shared.lock().unwrap().hung_up.get(input).copied()
    }
}

/// A stream of events, whole, as one chunk of a body.
pub fn stream_of(body: &[u8]) -> Vec<u8> {
    [HEAD.as_bytes(), &chunk(body), b"0\r\n\r\n"].concat()
}

/// The head of a stream of events in chunks.
pub const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
    x-request-id: stub-request\r\ntransfer-encoding: chunked\r\n\r\n";

pub fn chunk(body: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat()
}

/// A whole answer with this status.
pub fn answer(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Status\r\n{headers}content-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

async fn serve(stream: TcpStream, shared: Arc<Mutex<Shared>>, script: Script) {
    stream.set_nodelay(true).unwrap();
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let mut call = understood(request, Default::default());
        {
            let mut shared = shared.lock().unwrap();
            let turns = shared.counts.entry(call.input.clone()).or_default();
            let count = turns.entry(call.turn).or_default();
            *count += 1;
            call.attempt = *count;
        }
        for step in script(&call) {
            if play(step, &mut stream, &call, &shared).await.is_none() {
                return;
            }
        }
    }
}

/// None where the connection is at its end.
async fn play(
    step: Wire,
    stream: &mut BufReader<TcpStream>,
    call: &Call,
    shared: &Arc<Mutex<Shared>>,
) -> Option<()> {
    match step {
        Wire::Bytes(bytes) => stream.write_all(&bytes).await.ok(),
        Wire::Drip(bytes, pause) => {
            for byte in bytes {
                tokio::time::sleep(pause).await;
                stream.write_all(&[byte]).await.ok()?;
            }
            Some(())
        }
        Wire::Silence => {
            // The client has nothing more to say: whatever comes is its end.
            let _ = stream.read_u8().await;
            shared.lock().unwrap().hung_up.insert(call.input.clone(), Instant::now());
            None
        }
        Wire::Close => None,
        Wire::Reset => {
            let linger = Some(Duration::ZERO);
            socket2::SockRef::from(stream.get_ref()).set_linger(linger).unwrap();
            None
        }
    }
}

/// The body of the next request.
async fn read(stream: &mut BufReader<TcpStream>) -> Option<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim().to_ascii_lowercase();
        if let Some(said) = line.strip_prefix("content-length:") {
            length = said.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(serde_json::from_slice(&body).unwrap())
}
