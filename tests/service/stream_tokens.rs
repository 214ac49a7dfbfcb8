//! Tokens of streams: what a page without a key may read, and what not.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::client::{Client, Sse, spec};
use crate::service::{Service, Setup};
use crate::stub::{Do, Gate, Stub, say};

fn keyed() -> Setup {
    let setup = Setup { key: Some("alpha".into()), ..Setup::default() };
    setup.env("RUNLEDGER_API_KEYS", "alpha")
}

async fn token(http: &Client, run: &str, body: &Value) -> Value {
    http.post(&format!("/runs/{run}/stream_tokens"), body).await.expect(201)
}

async fn open(http: &Client, path: &str) -> Sse {
    http.stream(path, &[]).await
}

#[tokio::test]
async fn a_token_opens_the_stream_of_its_run_and_nothing_else() {
    let stub = Stub::start().await;
    let gate = Gate::new();
    let opened = gate.clone();
    stub.on("live", move |_| {
        [vec![Do::Say("A".into()), Do::Wait(opened.clone())], say("B")].concat()
    });
    let service = Service::start_with(&stub, keyed()).await;
    let http = &service.client;
    let run = http.run("openai/live", "a").await;
    let other = http.run("openai/any", "b").await;
    let made = token(http, &run, &json!({"ttl": 60})).await;
    let text = made["token"].as_str().unwrap();
    assert_eq!(made["url"], format!("/runs/{run}/stream?token={text}"));
    let ends: String = made["expires_at"].as_str().unwrap().to_owned();
    assert!(ends.ends_with("Z") && ends.len() == 24, "{ends}");

    let page = Client::new(&http.url, None);
    let mut stream = open(&page, made["url"].as_str().unwrap()).await;
    assert_eq!(stream.status, 200);
    let seen = stream.take(3).await;
    let resumed = format!("/runs/{run}/stream?after=1&named=false&token={text}");
    let mut resumed = open(&page, &resumed).await;
    gate.open();
    let rest = stream.rest().await;
    assert_eq!(rest.last().unwrap().kind(), "run.completed");
    assert_eq!(resumed.rest().await.len(), seen.len() + rest.len() - 1);
    let over = format!("/runs/{run}/stream?after={}&token={text}", seen.len() + rest.len());
    assert_eq!(page.get(&over).await.status, 204, "`EventSource` stops");

    for path in [
        format!("/runs/{run}?token={text}"),
        format!("/runs/{run}/events?token={text}"),
        format!("/runs/{run}/spec?token={text}"),
        format!("/runs?token={text}"),
        format!("/metrics?token={text}"),
        format!("/runs/{run}/stream"),
    ] {
        assert_eq!(page.get(&path).await.expect(401)["code"], "unauthenticated", "{path}");
    }
    for path in ["", "/cancel", "/purge", "/stream_tokens", "/stream"] {
        let path = format!("/runs/{run}{path}?token={text}");
        page.post(&path, &json!({})).await.expect(401);
        page.delete(&path).await.expect(401);
    }
    for name in [other.as_str(), "nobody"] {
        let refused = page.get(&format!("/runs/{name}/stream?token={text}")).await.expect(401);
        assert!(refused["detail"].as_str().unwrap().contains("another run"), "{refused}");
    }
    // A bearer does not save a token that is none.
    let refused = http.get(&format!("/runs/{other}/stream?token={text}")).await.expect(401);
    assert!(refused["detail"].as_str().unwrap().contains("another run"), "{refused}");
}

#[tokio::test]
async fn a_token_with_any_byte_changed_opens_nothing() {
    let service =
        Service::in_folder(std::sync::Arc::new(tempfile::tempdir().unwrap()), keyed()).await;
    let http = &service.client;
    let run = http.create(&json!({"agent": {"name": "A"}, "input": "x"})).await;
    let made = token(http, &run, &json!({})).await;
    let text = made["token"].as_str().unwrap();
    let page = Client::new(&http.url, None);
    let bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
    for place in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[place] ^= 1;
        let text = URL_SAFE_NO_PAD.encode(bytes);
        let refused = page.get(&format!("/runs/{run}/stream?token={text}")).await.expect(401);
        assert!(refused["detail"].as_str().unwrap().contains("none of this service"), "{refused}");
    }
    for wrong in ["", "x", &text[1..], &format!("{text}AA"), "a%00b"] {
        page.get(&format!("/runs/{run}/stream?token={wrong}")).await.expect(401);
    }
    assert_eq!(open(&page, made["url"].as_str().unwrap()).await.status, 200);
}

#[tokio::test]
async fn tokens_outlive_a_restart_and_not_their_run() {
    let service =
        Service::in_folder(std::sync::Arc::new(tempfile::tempdir().unwrap()), keyed()).await;
    let body = json!({"agent": {"name": "A"}, "input": "x", "config": {"run_id": "r"}});
    service.client.create(&body).await;
    service.client.ended("r").await;
    let made = token(&service.client, "r", &Value::Null).await;
    let url = made["url"].as_str().unwrap();
    let service = service.kill().await.start().await;
    let http = &service.client;
    let page = Client::new(&http.url, None);
    assert_eq!(open(&page, url).await.status, 200, "the key is kept");
    // JSON knows no difference between 60 and 60.0.
    token(http, "r", &json!({"ttl": 60.0})).await;
    let again = token(http, "r", &json!({"ttl": null})).await;
    assert_eq!(open(&page, again["url"].as_str().unwrap()).await.status, 200);

    // Another run of the same name is another run.
    assert_eq!(http.post("/runs/r/purge", &Value::Null).await.status, 204);
    page.get(url).await.expect(401);
    http.create(&body).await;
    let refused = page.get(url).await.expect(401);
    assert!(refused["detail"].as_str().unwrap().contains("another run"), "{refused}");
}

#[tokio::test]
async fn a_lifetime_has_bounds() {
    let service = Service::demo().await;
    let http = &service.client;
    let run = http.create(&spec("demo/assistant", "x")).await;
    for (body, pointer) in [
        (json!({"ttl": 59}), "/ttl"),
        (json!({"ttl": 86_401}), "/ttl"),
        (json!({"ttl": 60.5}), "/ttl"),
        (json!({"ttl": "60"}), "/ttl"),
        (json!({"tll": 60}), "/tll"),
        (json!([]), ""),
    ] {
        let refused = http.post(&format!("/runs/{run}/stream_tokens"), &body).await.expect(422);
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{refused}");
    }
    http.post("/runs/nobody/stream_tokens", &json!({})).await.expect(404);
    let bare = http.request(reqwest::Method::POST, &format!("/runs/{run}/stream_tokens"));
    assert_eq!(bare.send().await.unwrap().status(), 201, "nothing at all is an hour");
    // Without keys a token is checked all the same.
    http.get(&format!("/runs/{run}/stream?token=x")).await.expect(401);
}
