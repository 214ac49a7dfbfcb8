//! Rubbish from outside: the right problem document, nothing stored, and the service as before.

use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use sqlx::ConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::spec;
use crate::service::{Service, Setup};
use crate::stub::Stub;
use crate::waiting;

/// A body, the status and code of its refusal, and where the mistake is.
#[derive(Clone)]
struct Bad {
    body: Vec<u8>,
    status: u16,
    code: &'static str,
    place: &'static str,
}

fn raw(body: impl Into<Vec<u8>>, status: u16, code: &'static str) -> Bad {
    Bad { body: body.into(), status, code, place: "" }
}

/// A good body with one thing changed.
fn with(pointer: &str, value: Value, code: &'static str, place: &'static str) -> Bad {
    let mut body = spec("demo/assistant", "hello");
    body["config"] = json!({});
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap()[field] = value;
    Bad { body: body.to_string().into_bytes(), status: 422, code, place }
}

fn invalid(pointer: &'static str, value: Value) -> Bad {
    with(pointer, value, "invalid_request", pointer)
}

fn in_field(pointer: &str, value: Value, place: &'static str) -> Bad {
    with(pointer, value, "invalid_request", place)
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}

/// No JSON, and JSON of the wrong shape.
fn shapes() -> Vec<Bad> {
    let without = |field: &str| {
        let mut body = spec("demo/assistant", "hello");
        body.as_object_mut().unwrap().remove(field);
        body.to_string()
    };
    let deep = format!("{{\"variables\":{{\"a\":{}{}}}}}", "[".repeat(50_000), "]".repeat(50_000));
    vec![
        raw("", 400, "malformed_json"),
        raw("{", 400, "malformed_json"),
        raw(b"{\"agent\":\"\xff\"}".to_vec(), 400, "malformed_json"),
        raw(r#"{"agent":"\ud800"}"#, 400, "malformed_json"),
        raw(r#"{"input":1e400}"#, 400, "malformed_json"),
        raw(r#"{"input":"a"} x"#, 400, "malformed_json"),
        raw("[]", 422, "invalid_request"),
        raw("null", 422, "invalid_request"),
        raw("\"text\"", 422, "invalid_request"),
        raw(deep, 422, "invalid_request"),
        Bad { place: "/agent", ..raw(without("agent"), 422, "invalid_request") },
        Bad { place: "/input", ..raw(without("input"), 422, "invalid_request") },
        invalid("/inputs", json!("x")),
        invalid("/input", json!(7)),
        invalid("/input", json!("a\u{0}b")),
        in_field("/variables", json!({"a": nested(70)}), "/variables/a"),
        invalid("/variables", json!([1])),
        invalid("/variables", json!({"a": "x".repeat(65 * 1024)})),
    ]
}

/// Limits and labels out of their bounds.
fn configs() -> Vec<Bad> {
    let many: serde_json::Map<String, Value> =
        (0..33).map(|n| (n.to_string(), json!("x"))).collect();
    vec![
        invalid("/config/max_turn", json!(3)),
        invalid("/config/max_turns", json!(0)),
        invalid("/config/max_turns", json!(1001)),
        invalid("/config/max_turns", json!(-1)),
        invalid("/config/max_turns", json!("10")),
        invalid("/config/max_turns", json!(1.5)),
        invalid("/config/max_time", json!(0)),
        invalid("/config/max_time", json!(86_401)),
        invalid("/config/timeout_per_turn", json!(0)),
        invalid("/config/on_limit", json!("explode")),
        invalid("/config/run_id", json!("00000000-0000-7000-8000-000000000000")),
        invalid("/config/run_id", json!("../etc/passwd")),
        invalid("/config/run_id", json!("")),
        invalid("/config/metadata", Value::Object(many)),
        in_field("/config/metadata", json!({"a": 1}), "/config/metadata/a"),
        in_field("/config/metadata", json!({"a": "x".repeat(513)}), "/config/metadata/a"),
        with("/config/max_cost_usd", json!(1), "unknown_price", "/config/max_cost_usd"),
    ]
}

/// Agents and conversations that can't be.
fn agents() -> Vec<Bad> {
    let call = json!([{"call_id": "a", "tool_name": "t", "arguments": {}}]);
    let tool = |tool: Value, place| in_field("/agent/tools", json!([tool]), place);
    let history = |message: Value, place| in_field("/history", json!([message]), place);
    vec![
        history(json!({"role": "system", "content": "x"}), "/history/0/role"),
        history(json!({"role": "tool", "call_id": "a", "content": "x"}), "/history/0/call_id"),
        history(json!({"role": "assistant", "tool_calls": call}), "/history"),
        invalid("/history", json!(vec![json!({"role": "user", "content": "x"}); 10_001])),
        with("/agent", json!("nobody"), "unknown_agent", "/agent"),
        with("/agent/model", json!("nobody/x"), "unknown_model", "/agent/model"),
        with("/agent/model", json!("gpt"), "unknown_model", "/agent/model"),
        with("/agent/model", json!("demo/other"), "unknown_model", "/agent/model"),
        invalid("/agent/instructions", json!("Hi {{nobody}}")),
        invalid("/agent/temperature", json!(1)),
        in_field(
            "/agent/model_settings",
            json!({"temperature": 9}),
            "/agent/model_settings/temperature",
        ),
        tool(json!({"type": "builtin", "name": "shell"}), "/agent/tools/0/name"),
        tool(json!({"type": "magic", "name": "calculator"}), "/agent/tools/0/type"),
        tool(
            json!({"type": "builtin", "name": "calculator", "timeout": 0}),
            "/agent/tools/0/timeout",
        ),
        in_field("/input", json!([{"type": "image", "url": "u", "data": "d"}]), "/input/0"),
    ]
}

/// How many runs and events the service has stored.
async fn stored(service: &Service) -> (i64, i64) {
    let path = service.folder().join("runledger.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).read_only(true);
    let mut connection = options.connect().await.unwrap();
    sqlx::query_as("select (select count(*) from runs) + (select count(*) from run_keys), (select count(*) from events)")
        .fetch_one(&mut connection)
        .await
        .unwrap()
}

#[tokio::test]
async fn bad_bodies_are_refused_with_their_place_and_store_nothing() {
    let service = Service::demo().await;
    let http = &service.client;
    let bodies = [shapes(), configs(), agents()].concat();
    let count = bodies.len();
    for Bad { body, status, code, place } in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        let response = http
            .request(Method::POST, "/runs")
            .header("content-type", "application/json")
            .header("idempotency-key", "same-for-all")
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{shown}");
        assert_eq!(response.status(), status, "{shown}");
        let problem: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!(problem["code"], code, "{shown}: {problem}");
        assert_eq!(problem["status"], status);
        for field in ["type", "title", "detail", "request_id"] {
            assert!(
                problem[field].as_str().is_some_and(|text| !text.is_empty()),
                "{field}: {problem}"
            );
        }
        if !place.is_empty() {
            let pointer = problem["errors"][0]["pointer"].as_str().unwrap_or("nowhere");
            assert!(pointer.starts_with(place), "{shown}: {pointer} is not {place}");
        }
    }
    println!("row=hostile_bodies faults_fired={count} ops_ok={count} value=0");
    assert!(count >= 40);
    assert_eq!(stored(&service).await, (0, 0));
    let id = http.run("demo/assistant", "hello").await;
    assert_eq!(http.ended(&id).await["status"], "COMPLETED");
}

#[tokio::test]
async fn every_mistake_of_a_body_is_told_at_once() {
    let service = Service::demo().await;
    let mut body = spec("nobody/x", "hello");
    body["config"] = json!({"max_turns": 0, "max_time": 0, "run_id": "a b"});
    body["variables"] = json!({});
    body["agent"]["instructions"] = json!("{{a}}");
    let problem = service.client.post("/runs", &body).await.expect(422);
    let pointers: Vec<&str> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["pointer"].as_str().unwrap())
        .collect();
    for pointer in [
        "/agent/instructions",
        "/agent/model",
        "/config/run_id",
        "/config/max_turns",
        "/config/max_time",
    ] {
        assert!(pointers.contains(&pointer), "{pointer} in {pointers:?}");
    }
    let detail = problem["errors"].to_string();
    assert!(detail.contains("must be between 1 and 1000, got 0"), "{detail}");
}

/// Method, path, headers; status and code of the refusal.
type Around = (Method, &'static str, Vec<(&'static str, &'static str)>, u16, &'static str);

fn requests() -> Vec<Around> {
    let json_type = ("content-type", "application/json");
    let post = Method::POST;
    vec![
        (post.clone(), "/runs", vec![], 415, "unsupported_media_type"),
        (
            post.clone(),
            "/runs",
            vec![("content-type", "text/plain")],
            415,
            "unsupported_media_type",
        ),
        (
            post.clone(),
            "/runs",
            vec![json_type, ("content-encoding", "gzip")],
            415,
            "unsupported_media_type",
        ),
        (post.clone(), "/runs", vec![json_type, ("accept", "text/html")], 406, "not_acceptable"),
        (post.clone(), "/runs?wiat=3", vec![json_type], 422, "invalid_request"),
        (post.clone(), "/runs?wait=301", vec![json_type], 422, "invalid_request"),
        (post.clone(), "/runs?wait=1&wait=2", vec![json_type], 422, "invalid_request"),
        (post.clone(), "/runs", vec![json_type, ("host", "evil.example")], 403, "forbidden"),
        (
            post.clone(),
            "/runs",
            vec![json_type, ("sec-fetch-site", "cross-site")],
            403,
            "cross_site",
        ),
        (
            post.clone(),
            "/runs",
            vec![json_type, ("origin", "https://evil.example")],
            403,
            "cross_site",
        ),
        (post.clone(), "/runs/x/cancel", vec![("origin", "null")], 403, "cross_site"),
        (post.clone(), "/runs/x/cancel", vec![], 404, "not_found"),
        (post.clone(), "/healthz", vec![], 405, "method_not_allowed"),
        (Method::PUT, "/runs", vec![], 405, "method_not_allowed"),
        (Method::PATCH, "/runs/x/events", vec![], 405, "method_not_allowed"),
        (Method::GET, "/nowhere", vec![], 404, "not_found"),
        (Method::GET, "/runs/..%2f..%2fetc%2fpasswd", vec![], 404, "not_found"),
        (Method::GET, "/runs/%ff%fe", vec![], 0, ""),
        (Method::GET, "/runs/00000000-0000-7000-8000-000000000000", vec![], 404, "not_found"),
        (Method::GET, "/runs/x?omit=everything", vec![], 422, "invalid_request"),
        (Method::GET, "/runs/x/spec?a=b", vec![], 422, "invalid_request"),
        (Method::DELETE, "/runs/x?wait=no", vec![], 422, "invalid_request"),
        (Method::DELETE, "/runs/x", vec![("sec-fetch-site", "same-site")], 403, "cross_site"),
    ]
}

#[tokio::test]
async fn bad_requests_around_a_good_body_are_refused() {
    let service = Service::demo().await;
    let http = &service.client;
    let good = spec("demo/assistant", "hello");
    for (method, path, headers, status, code) in requests() {
        let mut request = http.request(method.clone(), path).body(good.to_string());
        for (name, value) in &headers {
            request = request.header(*name, HeaderValue::from_str(value).unwrap());
        }
        let response = request.send().await.unwrap();
        let told = format!("{method} {path} {headers:?}");
        let got = response.status().as_u16();
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{told}");
        if got == 405 {
            assert!(response.headers().contains_key("allow"), "{told}");
        }
        let problem: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        if status == 0 {
            assert!((400..500).contains(&got), "{told}: {problem}");
            continue;
        }
        assert_eq!((got, problem["code"].as_str().unwrap()), (status, code), "{told}: {problem}");
    }
    assert_eq!(stored(&service).await, (0, 0));
}

/// Sends bytes; gives everything that comes until the server closes.
async fn exchange(service: &Service, bytes: &[u8]) -> String {
    let address = service.client.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that has seen enough may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = waiting::within("the server's close", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn what_is_hardly_http_ends_its_own_connection_only() {
    let service = Service::demo().await;
    let host = "Host: localhost\r\n";
    let smuggled = format!(
        "POST /runs HTTP/1.1\r\n{host}Content-Type: application/json\r\nContent-Length: 4\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\n{host}\r\n"
    );
    let long_header = format!("GET / HTTP/1.1\r\n{host}X: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{host}{}\r\n", "X: y\r\n".repeat(500));
    for bytes in [
        "\r\n\r\n\r\n",
        "GARBAGE\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET /\r\n\r\n",
        "POST /runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        "POST /runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST /runs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}",
        smuggled.as_str(),
        long_header.as_str(),
        many.as_str(),
    ] {
        let shown: String = bytes.chars().take(60).collect();
        let closed = format!("{bytes}\r\n\r\n");
        let answer = exchange(&service, closed.as_bytes()).await;
        assert!(!answer.contains(" 200 ") && !answer.contains(" 500 "), "{shown:?}: {answer}");
    }
    assert_eq!(service.client.get("/healthz").await.status, 200);
    assert_eq!(stored(&service).await, (0, 0));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_answered_at_once() {
    let service = Service::demo().await;
    let head = "POST /runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    // The length alone is enough; not a byte of it was sent.
    let announced =
        exchange(&service, format!("{head}Content-Length: 9000000\r\n\r\n").as_bytes()).await;
    let chunk = "x".repeat(64 * 1024);
    let mut chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    for _ in 0..160 {
        chunked.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
    }
    let sent = exchange(&service, chunked.as_bytes()).await;
    for answer in [announced, sent] {
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains("payload_too_large") && answer.contains("8388608"), "{answer}");
        assert!(answer.contains("\"request_id\":\""), "{answer}");
    }
    assert_eq!(stored(&service).await, (0, 0));
}

#[tokio::test]
async fn with_keys_nothing_but_the_probes_answers_without_one() {
    let stub = Stub::start().await;
    let setup = Setup { key: Some("alpha".into()), ..Setup::default() }
        .env("RUNLEDGER_API_KEYS", "other,alpha");
    let service = Service::start_with(&stub, setup).await;
    let nobody = crate::client::Client::new(&service.client.url, None);
    let wrong = crate::client::Client::new(&service.client.url, Some("beta"));
    for client in [&nobody, &wrong] {
        for path in ["/runs/x", "/metrics", "/", "/nowhere", "/runs/x/stream"] {
            let refused = client.get(path).await;
            assert_eq!(refused.header("www-authenticate"), "Bearer", "{path}");
            assert_eq!(refused.expect(401)["code"], "unauthenticated", "{path}");
        }
        client.post("/runs", &spec("openai/any", "x")).await.expect(401);
        for path in ["/healthz", "/readyz"] {
            client.get(path).await.expect(200);
        }
    }
    let id = service.client.run("openai/any", "hello").await;
    assert_eq!(service.client.ended(&id).await["created_by"], "key:static-2");
    assert!(service.greeting.contains("2 key(s)") && !service.greeting.contains("alpha"));
}
