//! The models and the tool: a server in the benchmark's own process, as cheap as it can be, because
//! it works on the service's cores. What a model does, its name says (`script.rs`).
//!
//! It notes when it wrote what, by the clock that the readers use, so that delays have one clock.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::script::Script;

/// The answer of the tool.
const TOOL_ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                           content-length: 11\r\n\r\n{\"ok\":true}";

/// When the stub did what for a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// When each turn was asked for.
    pub(crate) asked: Vec<Instant>,
    /// When each delta of text was written, the first first.
    pub(crate) deltas: Vec<Instant>,
    /// When an answer of text was whole.
    pub(crate) ended: Option<Instant>,
    /// When the service closed the connection before that.
    pub(crate) hung_up: Option<Instant>,
}

#[derive(Debug, Default)]
struct Shared {
    scripts: Mutex<HashMap<String, Arc<Script>>>,
    /// Whether records are kept.
    keeps: AtomicBool,
    records: Mutex<HashMap<String, Record>>,
    turns: AtomicU64,
    tool_calls: AtomicU64,
}

/// The running stub.
#[derive(Debug)]
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Stub {
    pub(crate) async fn start() -> Result<Stub> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        // Thousands of connections come at once.
        socket2::SockRef::from(&listener).listen(4096)?;
        let address = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let server = tokio::spawn(accept(listener, shared.clone()));
        Ok(Stub { address, shared, server })
    }

    /// What the service's provider is told.
    pub(crate) fn model_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Where the HTTP tool is.
    pub(crate) fn tool_url(&self) -> String {
        format!("http://{}/tool", self.address)
    }

    /// Notes from now on what is done for each run, or no more; forgets what was noted.
    pub(crate) fn keep(&self, keeps: bool) {
        self.shared.keeps.store(keeps, Ordering::Relaxed);
        self.lock().clear();
    }

    /// What was done for the run with this input.
    pub(crate) fn record(&self, input: &str) -> Option<Record> {
        self.lock().get(input).cloned()
    }

    /// Turns that were asked for since the start.
    pub(crate) fn turns(&self) -> u64 {
        self.shared.turns.load(Ordering::Relaxed)
    }

    /// Calls of the tool since the start.
    pub(crate) fn tool_calls(&self) -> u64 {
        self.shared.tool_calls.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Record>> {
        self.shared.records.lock().expect("nothing panics while it holds it")
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let shared = shared.clone();
            connections.spawn(async move {
                if let Err(error) = Connection::new(stream, shared).serve().await
                    && error.downcast_ref::<io::Error>().is_none()
                {
                    eprintln!("stub: {error:#}");
                }
            });
        }
        while connections.try_join_next().is_some() {}
    }
}

/// What the stub reads of a request.
#[derive(Deserialize)]
struct Request {
    model: String,
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: Option<Value>,
}

impl Request {
    /// The last thing that the user said, and how many turns there were since.
    fn asked(&self) -> Result<(&str, usize)> {
        let place = self.messages.iter().rposition(|message| message.role == "user");
        let place = place.context("a user has asked")?;
        let input = self.messages[place].content.as_ref().and_then(Value::as_str);
        let since = &self.messages[place..];
        let turns = since.iter().filter(|message| message.role == "assistant").count();
        Ok((input.context("the input is text")?, turns))
    }
}

struct Connection {
    stream: TcpStream,
    shared: Arc<Shared>,
    buffer: Vec<u8>,
}

impl Connection {
    fn new(stream: TcpStream, shared: Arc<Shared>) -> Connection {
        // The worst is a slower answer.
        let _ = stream.set_nodelay(true);
        Connection { stream, shared, buffer: Vec::with_capacity(4096) }
    }

    /// Answers one request after the other until the service hangs up.
    async fn serve(mut self) -> Result<()> {
        while let Some((head, end)) = self.read().await? {
            let is_tool = self.buffer.starts_with(b"POST /tool ");
            if is_tool {
                self.shared.tool_calls.fetch_add(1, Ordering::Relaxed);
                self.stream.write_all(TOOL_ANSWER.as_bytes()).await?;
            } else {
                self.shared.turns.fetch_add(1, Ordering::Relaxed);
                let request: Request = serde_json::from_slice(&self.buffer[head..end])?;
                self.answer(&request).await?;
            }
            self.buffer.drain(..end);
        }
        Ok(())
    }

    /// Reads a request: the ends of its head and of its body in the buffer. None where none comes.
    async fn read(&mut self) -> Result<Option<(usize, usize)>> {
        loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = std::str::from_utf8(&self.buffer[..at])?;
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse())
                });
                let length: usize = length.context("a request tells its length")??;
                let end = at + 4 + length;
                while self.buffer.len() < end {
                    self.more().await?.then_some(()).context("a request breaks off")?;
                }
                return Ok(Some((at + 4, end)));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    async fn more(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    async fn answer(&mut self, request: &Request) -> Result<()> {
        let (input, turns) = request.asked()?;
        let script = self.script(&request.model)?;
        self.note(input, |record| record.asked.push(Instant::now()));
        if turns < script.tool_turns {
            self.stream.write_all(script.call.as_bytes()).await?;
            return Ok(());
        }
        if script.gap.is_zero() && script.first.is_zero() && !script.hangs {
            self.note(input, |record| {
                record.deltas.extend(std::iter::repeat_n(Instant::now(), script.deltas.len()));
            });
            self.stream.write_all(script.whole.as_bytes()).await?;
        } else if !self.play(&script, input).await? {
            self.note(input, |record| record.hung_up = Some(Instant::now()));
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
        }
        self.note(input, |record| record.ended = Some(Instant::now()));
        Ok(())
    }

    /// Sends each delta at its time; false where the service hung up. The times are counted from the
    /// request, so that one that is late does not make all later ones late.
    async fn play(&mut self, script: &Script, input: &str) -> Result<bool> {
        let began = tokio::time::Instant::now() + script.first;
        self.stream.write_all(script.head.as_bytes()).await?;
        for (delta, n) in script.deltas.iter().zip(0..) {
            if !self.wait_until(began + script.gap * n).await {
                return Ok(false);
            }
            // Before the write: the reader must not be earlier than the note.
            self.note(input, |record| record.deltas.push(Instant::now()));
            if self.stream.write_all(delta.as_bytes()).await.is_err() {
                return Ok(false);
            }
        }
        if script.hangs {
            self.hung_up().await;
            return Ok(false);
        }
        self.stream.write_all(script.tail.as_bytes()).await?;
        Ok(true)
    }

    async fn wait_until(&mut self, then: tokio::time::Instant) -> bool {
        if then <= tokio::time::Instant::now() {
            return true;
        }
        tokio::select! {
            biased;
            () = self.hung_up() => false,
            () = tokio::time::sleep_until(then) => true,
        }
    }

    /// Waits for the service to close its end: it sends nothing while it is being answered.
    async fn hung_up(&mut self) {
        let _ = self.stream.read(&mut [0; 1]).await;
    }

    fn script(&self, model: &str) -> Result<Arc<Script>> {
        let mut scripts =
            self.shared.scripts.lock().map_err(|_| anyhow!("the stub has panicked"))?;
        if let Some(script) = scripts.get(model) {
            return Ok(script.clone());
        }
        let script = Arc::new(Script::parse(model)?);
        scripts.insert(model.to_owned(), script.clone());
        Ok(script)
    }

    fn note(&self, input: &str, what: impl FnOnce(&mut Record)) {
        if !self.shared.keeps.load(Ordering::Relaxed) {
            return;
        }
        let mut records = self.shared.records.lock().expect("nothing panics while it holds it");
        if let Some(record) = records.get_mut(input) {
            what(record);
        } else {
            what(records.entry(input.to_owned()).or_default());
        }
    }
}
