//! A client that costs little: HTTP/1.1 on one connection, and streams of events. What it measures
//! runs on the same cores.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that is kept for many requests.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    /// What was read and not yet understood.
    buffer: Vec<u8>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// What the head of an answer says of its body.
#[derive(Clone, Copy, Debug)]
struct Head {
    status: u16,
    length: Option<usize>,
    is_chunked: bool,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, address, buffer: Vec::with_capacity(4096) })
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer> {
        self.send("GET", path, "", b"").await?;
        self.answer().await
    }

    pub(crate) async fn delete(&mut self, path: &str) -> Result<Answer> {
        self.send("DELETE", path, "", b"").await?;
        self.answer().await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &[u8]) -> Result<Answer> {
        self.send("POST", path, "Content-Type: application/json\r\n", body).await?;
        self.answer().await
    }

    /// Creates a run and reads its events.
    pub(crate) async fn post_stream(mut self, path: &str, body: &[u8]) -> Result<Events> {
        let headers = "Content-Type: application/json\r\nAccept: text/event-stream\r\n";
        self.send("POST", path, headers, body).await?;
        self.events().await
    }

    /// Reads the events of a run that is there.
    pub(crate) async fn get_stream(mut self, path: &str) -> Result<Events> {
        self.send("GET", path, "Accept: text/event-stream\r\n", b"").await?;
        self.events().await
    }

    async fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<()> {
        let (address, length) = (self.address, body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        Ok(self.stream.write_all(&bytes).await?)
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn head(&mut self) -> Result<Head> {
        let end = loop {
            match self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(at) => break at,
                None => self.more().await?,
            }
        };
        let head = parse_head(std::str::from_utf8(&self.buffer[..end])?)?;
        self.buffer.drain(..end + 4);
        Ok(head)
    }

    async fn answer(&mut self) -> Result<Answer> {
        let head = self.head().await?;
        let mut body = Vec::new();
        if head.is_chunked {
            let mut chunks = Chunks::default();
            while !chunks.take(&mut self.buffer, &mut body)? {
                self.more().await?;
            }
        } else if let Some(length) = head.length {
            while self.buffer.len() < length {
                self.more().await?;
            }
            body.extend(self.buffer.drain(..length));
        }
        Ok(Answer { status: head.status, body })
    }

    async fn events(mut self) -> Result<Events> {
        let head = self.head().await?;
        if head.status != 200 {
            bail!("a stream is answered with {}", head.status);
        }
        ensure!(head.is_chunked, "a stream has chunks");
        let at = Instant::now();
        Ok(Events {
            connection: self,
            chunks: Chunks::default(),
            text: Vec::new(),
            seen: 0,
            is_whole: false,
            at,
        })
    }
}

fn parse_head(head: &str) -> Result<Head> {
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let mut parsed =
        Head { status: status.context("an answer has a status")?, length: None, is_chunked: false };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            parsed.length = Some(value.trim().parse()?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            parsed.is_chunked = value.trim().eq_ignore_ascii_case("chunked");
        }
    }
    Ok(parsed)
}

/// How far HTTP's chunked coding was read.
#[derive(Debug, Default)]
struct Chunks {
    /// What is missing of the chunk, its line end included.
    left: usize,
}

impl Chunks {
    /// Moves what there is of the body from one buffer to the other; true at its end.
    fn take(&mut self, from: &mut Vec<u8>, to: &mut Vec<u8>) -> Result<bool> {
        let mut at = 0;
        let mut is_end = false;
        loop {
            let rest = &from[at..];
            if self.left > 0 {
                let part = rest.len().min(self.left);
                // The last two bytes are the chunk's line end.
                to.extend_from_slice(&rest[..part.min(self.left.saturating_sub(2))]);
                self.left -= part;
                at += part;
                if self.left > 0 {
                    break;
                }
                continue;
            }
            let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else { break };
            let size = std::str::from_utf8(&rest[..line])?;
            let size = size.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).context("a chunk tells its size")?;
            if size == 0 {
                // The service sends no trailers: an empty line ends the body.
                is_end = rest.len() >= line + 4;
                at += if is_end { line + 4 } else { 0 };
                break;
            }
            at += line + 2;
            self.left = size + 2;
        }
        from.drain(..at);
        Ok(is_end)
    }
}

/// A stream of events.
#[derive(Debug)]
pub(crate) struct Events {
    connection: Connection,
    chunks: Chunks,
    text: Vec<u8>,
    /// How much of the text was given out.
    seen: usize,
    is_whole: bool,
    at: Instant,
}

/// One event, as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event<'a> {
    pub(crate) seq: u64,
    pub(crate) kind: &'a str,
    pub(crate) data: &'a str,
    /// When its last byte was read.
    pub(crate) at: Instant,
}

impl Event<'_> {
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self.kind, "run.completed" | "run.failed" | "run.cancelled")
    }

    /// What a `text` event adds, where it has no character that JSON must escape: the stub's words
    /// have none.
    pub(crate) fn words(&self) -> Option<&str> {
        let (_, rest) = self.data.split_once("\"content\":\"")?;
        rest.split('"').next()
    }
}

impl Events {
    /// The next event; none at the end of the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Event<'_>>> {
        loop {
            let fresh = &self.text[self.seen..];
            if let Some(end) = fresh.windows(2).position(|two| two == b"\n\n") {
                let (from, to) = (self.seen, self.seen + end);
                self.seen = to + 2;
                // A comment: the heartbeat.
                if self.text[from] != b':' {
                    return parse_event(&self.text[from..to], self.at).map(Some);
                }
                continue;
            }
            if self.is_whole {
                return Ok(None);
            }
            self.text.drain(..self.seen);
            self.seen = 0;
            let before = self.text.len();
            self.is_whole = self.chunks.take(&mut self.connection.buffer, &mut self.text)?;
            if !self.is_whole && self.text.len() == before {
                self.connection.more().await?;
                self.at = Instant::now();
            }
        }
    }
}

fn parse_event(block: &[u8], at: Instant) -> Result<Event<'_>> {
    let (mut seq, mut kind, mut data) = (None, "", "");
    for line in std::str::from_utf8(block)?.split('\n') {
        match line.split_once(": ") {
            Some(("id", value)) => seq = Some(value.parse()?),
            Some(("event", value)) => kind = value,
            Some(("data", value)) => data = value,
            _ => {}
        }
    }
    Ok(Event { seq: seq.context("an event has an id")?, kind, data, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_read_however_they_are_cut() {
        let coded = b"5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\n\r\nnext";
        for cut in 0..coded.len() - 4 {
            let (mut chunks, mut body) = (Chunks::default(), Vec::new());
            let mut from = coded[..cut].to_vec();
            assert!(!chunks.take(&mut from, &mut body).expect("it is right so far"), "{cut}");
            from.extend_from_slice(&coded[cut..]);
            assert!(chunks.take(&mut from, &mut body).expect("and to the end"), "{cut}");
            assert_eq!((body.as_slice(), from.as_slice()), (&b"hello, world"[..], &b"next"[..]));
        }
    }

    #[test]
    fn an_event_is_its_lines() {
        let block = b"retry: 1000\nid: 7\nevent: text\ndata: {\"seq\":7,\"content\":\"w1 w2 \"}";
        let event = parse_event(block, Instant::now()).expect("it is one");
        assert_eq!((event.seq, event.kind, event.words()), (7, "text", Some("w1 w2 ")));
        assert!(!event.is_terminal());
    }
}
