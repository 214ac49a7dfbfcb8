//! An HTTP client as any user would write one, and a reader of event streams that keeps every byte.

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::contract;
use crate::waiting::within;

#[derive(Clone)]
pub struct Client {
    pub url: String,
    http: reqwest::Client,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    /// The body, where the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.json()
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("no header {name}"));
        value.to_str().unwrap()
    }
}

impl Client {
    pub fn new(url: &str, key: Option<&str>) -> Client {
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            headers.insert("authorization", format!("Bearer {key}").parse().unwrap());
        }
        // Tests talk to loopback alone: no certificates are needed, and no proxy wanted.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .default_headers(headers)
            // The service closes what was idle for 30 s, at which moment it must not be used again.
            .pool_idle_timeout(std::time::Duration::from_secs(15))
            .tls_certs_only([])
            .build()
            .unwrap();
        Client { url: url.to_owned(), http }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.answer(Method::GET, path, self.request(Method::GET, path)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.answer(Method::DELETE, path, self.request(Method::DELETE, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, body, &[]).await
    }

    pub async fn post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::POST, path, body, headers).await
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        let request = self.sending(method.clone(), path, body, headers);
        let answer = self.answer(method.clone(), path, request).await;
        if answer.status < 300 {
            contract::check_accepted(&method, path, Some(body));
        }
        answer
    }

    fn posting(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> RequestBuilder {
        self.sending(Method::POST, path, body, headers)
    }

    fn sending(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> RequestBuilder {
        let mut post = self
            .request(method, path)
            .header("content-type", "application/json")
            .body(body.to_string());
        for (name, value) in headers {
            post = post.header(*name, HeaderValue::from_str(value).unwrap());
        }
        post
    }

    /// The whole answer, which is one that the reference of the API describes.
    async fn answer(&self, method: Method, path: &str, request: RequestBuilder) -> Answer {
        let asking = async {
            let response = request.send().await.unwrap();
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            Answer { status, headers, text: response.text().await.unwrap() }
        };
        let answer = within("an answer", asking).await;
        contract::check(&method, path, answer.status, &answer.headers, Some(&answer.text));
        if answer.status < 300 {
            contract::check_accepted(&method, path, None);
        }
        answer
    }

    /// An answer, where the service is there to give one.
    pub async fn attempt(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> Option<Answer> {
        let response = self.sending(method, path, body, headers).send().await.ok()?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Some(Answer { status, headers, text: response.text().await.ok()? })
    }

    /// Creates a run; gives its id.
    pub async fn run(&self, model: &str, input: &str) -> String {
        self.create(&spec(model, input)).await
    }

    pub async fn create(&self, body: &Value) -> String {
        let run = self.post("/runs", body).await.expect(201);
        run["run_id"].as_str().unwrap().to_owned()
    }

    /// The run once it has ended.
    pub async fn ended(&self, run: &str) -> Value {
        let run = self.get(&format!("/runs/{run}?wait=80")).await.expect(200);
        assert!(is_terminal(&run), "it has not ended in time: {run}");
        run
    }

    /// The run's whole log so far.
    pub async fn log(&self, run: &str) -> Vec<Value> {
        let mut log = Vec::new();
        loop {
            let path = format!("/runs/{run}/events?limit=1000&after={}", log.len());
            let page = self.get(&path).await.expect(200);
            let data = page["data"].as_array().unwrap().clone();
            if data.is_empty() {
                return log;
            }
            log.extend(data);
        }
    }

    /// Waits until the log has an event of this type.
    pub async fn event(&self, run: &str, kind: &str) -> Value {
        let path = format!("/runs/{run}/events?types={kind}&limit=1&wait=80");
        let page = self.get(&path).await.expect(200);
        let event = page["data"].get(0).cloned();
        event.unwrap_or_else(|| panic!("no {kind} came: {page}"))
    }

    pub async fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Sse {
        let mut get = self.request(Method::GET, path);
        for (name, value) in headers {
            get = get.header(*name, *value);
        }
        let stream = Sse::open(get).await;
        contract::check(&Method::GET, path, stream.status, &stream.headers, None);
        stream
    }

    /// The same, where the service may not be there.
    pub async fn try_stream(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Sse, reqwest::Error> {
        let mut get = self.request(Method::GET, path);
        for (name, value) in headers {
            get = get.header(*name, *value);
        }
        Sse::try_open(get).await
    }

    pub async fn post_stream(&self, body: &Value, headers: &[(&str, &str)]) -> Sse {
        let post = self.posting("/runs", body, headers);
        let stream = Sse::open(post.header("accept", "text/event-stream")).await;
        contract::check(&Method::POST, "/runs", stream.status, &stream.headers, None);
        if stream.status < 300 {
            contract::check_accepted(&Method::POST, "/runs", Some(body));
        }
        stream
    }
}

/// The body that runs an agent with the built-in tools.
pub fn spec(model: &str, input: &str) -> Value {
    json!({
        "agent": {"name": "Test", "model": model, "tools": [
            {"type": "builtin", "name": "calculator"}, {"type": "builtin", "name": "current_time"},
        ]},
        "input": input,
    })
}

pub fn is_terminal(run: &Value) -> bool {
    ["COMPLETED", "FAILED", "CANCELLED"].contains(&run["status"].as_str().unwrap())
}

/// The types of a log's events, in order.
pub fn kinds(log: &[Value]) -> Vec<&str> {
    log.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

/// The events of one type.
pub fn of<'a>(log: &'a [Value], kind: &str) -> Vec<&'a Value> {
    log.iter().filter(|event| event["type"] == kind).collect()
}

/// One block of a stream, with its lines as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// `id`, `event` and `data` lines, byte for byte.
    pub lines: String,
}

impl Block {
    fn field(&self, name: &str) -> Option<&str> {
        self.lines.lines().find_map(|line| line.strip_prefix(name))
    }

    pub fn id(&self) -> u64 {
        self.field("id: ").unwrap().parse().unwrap()
    }

    pub fn kind(&self) -> &str {
        self.field("event: ").unwrap()
    }

    pub fn data(&self) -> Value {
        serde_json::from_str(self.field("data: ").unwrap()).unwrap()
    }
}

/// A stream of server-sent events.
pub struct Sse {
    response: Response,
    buffer: Vec<u8>,
    /// Everything that was not `id`, `event` or `data`: comments and `retry`.
    pub asides: Vec<String>,
    pub status: u16,
    pub headers: HeaderMap,
}

impl Sse {
    async fn open(request: RequestBuilder) -> Sse {
        Sse::try_open(request).await.unwrap()
    }

    async fn try_open(request: RequestBuilder) -> Result<Sse, reqwest::Error> {
        let response = within("a stream's head", request.send()).await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Sse { response, buffer: Vec::new(), asides: Vec::new(), status, headers })
    }

    /// The next event; none at a clean end.
    ///
    /// # Errors
    /// The stream was cut.
    pub async fn next(&mut self) -> Result<Option<Block>, reqwest::Error> {
        while let Some(block) = self.block().await? {
            if !block.lines.is_empty() {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// The next aside that stands in a block of its own.
    pub async fn aside(&mut self) -> String {
        let block = self.block().await.unwrap().expect("the stream has ended early");
        assert_eq!(block.lines, "");
        self.asides.last().expect("the block is not empty").clone()
    }

    /// The next block, asides taken out of it.
    async fn block(&mut self) -> Result<Option<Block>, reqwest::Error> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let block = String::from_utf8(block).unwrap();
                let (lines, asides): (Vec<&str>, Vec<&str>) =
                    block.trim_end().lines().partition(|line| {
                        ["id: ", "event: ", "data: "].iter().any(|name| line.starts_with(name))
                    });
                self.asides.extend(asides.into_iter().map(str::to_owned));
                return Ok(Some(Block { lines: lines.join("\n") }));
            }
            match within("more of a stream", self.response.chunk()).await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => {
                    assert!(self.buffer.is_empty(), "a stream ends behind a block");
                    return Ok(None);
                }
            }
        }
    }

    /// So many events.
    pub async fn take(&mut self, count: usize) -> Vec<Block> {
        let mut blocks = Vec::new();
        while blocks.len() < count {
            blocks.push(self.next().await.unwrap().expect("the stream has ended early"));
        }
        blocks
    }

    /// Everything to the clean end.
    pub async fn rest(&mut self) -> Vec<Block> {
        let mut blocks = Vec::new();
        while let Some(block) = self.next().await.expect("the stream was cut") {
            blocks.push(block);
        }
        blocks
    }

    /// Everything until the connection ends, however it does; true where it was clean.
    pub async fn all(&mut self) -> (Vec<Block>, bool) {
        let mut blocks = Vec::new();
        loop {
            match self.next().await {
                Ok(Some(block)) => blocks.push(block),
                Ok(None) => return (blocks, true),
                Err(_cut) => return (blocks, false),
            }
        }
    }
}
