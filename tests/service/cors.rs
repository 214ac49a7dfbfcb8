//! Web pages of configured origins: what they may send, what they may read, and that nobody else may.

use reqwest::Method;
use serde_json::json;

use crate::client::Client;
use crate::service::{Service, Setup};

const ORIGIN: &str = "https://app.example";

async fn service(keys: bool) -> Service {
    let setup =
        Setup::default().env("RUNLEDGER_CORS_ORIGINS", format!("{ORIGIN},http://b.example"));
    let setup = if keys { setup.env("RUNLEDGER_API_KEYS", "alpha") } else { setup };
    Service::in_folder(std::sync::Arc::new(tempfile::tempdir().unwrap()), setup).await
}

/// The answer's headers, by name.
async fn asked(
    http: &Client,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, impl Fn(&str) -> Option<String> + use<>) {
    let mut request = http.request(method, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let headers = response.headers().clone();
    let header =
        move |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    (response.status().as_u16(), header)
}

fn words(list: &str) -> Vec<String> {
    let mut words: Vec<String> =
        list.split(',').map(|word| word.trim().to_ascii_lowercase()).collect();
    words.sort();
    words
}

#[tokio::test]
async fn a_preflight_of_a_known_origin_is_told_what_it_may_send() {
    for keys in [false, true] {
        let service = service(keys).await;
        let http = &service.client;
        for path in ["/runs", "/runs/x", "/runs/x/stream", "/batches", "/runs/x/stream_tokens"] {
            for method in ["POST", "PATCH", "DELETE", "GET"] {
                let ask = [
                    ("origin", ORIGIN),
                    ("access-control-request-method", method),
                    ("access-control-request-headers", "authorization,content-type"),
                ];
                let (status, header) = asked(http, Method::OPTIONS, path, &ask).await;
                assert_eq!(status, 204, "no key is asked for: browsers send none");
                assert_eq!(header("access-control-allow-origin").as_deref(), Some(ORIGIN));
                let methods = words(&header("access-control-allow-methods").unwrap());
                assert!(methods.contains(&method.to_ascii_lowercase()), "{methods:?}");
                let expected = "Authorization, Content-Type, Accept, Idempotency-Key, Prefer, \
                                Last-Event-ID";
                let allowed = words(&header("access-control-allow-headers").unwrap());
                assert_eq!(allowed, words(expected));
                assert_eq!(header("vary").as_deref(), Some("Origin"));
                assert!(header("access-control-max-age").is_some());
                assert_eq!(header("access-control-allow-credentials"), None);
            }
        }
    }
}

#[tokio::test]
async fn every_answer_is_readable_by_a_known_origin_and_by_no_other() {
    let service = service(true).await;
    let http = &Client::new(&service.client.url, Some("alpha"));
    let run = http.create(&json!({"agent": {"name": "A"}, "input": "x"})).await;
    http.ended(&run).await;
    let anybody = Client::new(&http.url, None);
    let known = [("origin", ORIGIN)];
    for (client, method, path, expected) in [
        (http, Method::GET, format!("/runs/{run}"), 200),
        (http, Method::GET, format!("/runs/{run}/stream"), 200),
        (http, Method::GET, "/runs".to_owned(), 200),
        (http, Method::GET, "/runs/nobody".to_owned(), 404),
        (http, Method::GET, "/nowhere".to_owned(), 404),
        (http, Method::PUT, "/runs".to_owned(), 405),
        (http, Method::GET, "/runs?x=1".to_owned(), 422),
        (http, Method::POST, "/runs".to_owned(), 415),
        (&anybody, Method::GET, format!("/runs/{run}"), 401),
        (&anybody, Method::GET, format!("/runs/{run}/stream?token=x"), 401),
    ] {
        let (status, header) = asked(client, method.clone(), &path, &known).await;
        assert_eq!(status, expected, "{path}");
        assert_eq!(header("access-control-allow-origin").as_deref(), Some(ORIGIN), "{path}");
        let expected = "Location, Content-Location, Idempotent-Replayed, Preference-Applied, \
                        Retry-After, X-Request-Id";
        let exposed = words(&header("access-control-expose-headers").unwrap());
        assert_eq!(exposed, words(expected), "{path}");
        assert_eq!(header("vary").as_deref(), Some("Origin"), "{path}");
        for other in
            ["https://evil.example", "https://app.example.evil", "null", "http://app.example"]
        {
            let (_, header) = asked(client, method.clone(), &path, &[("origin", other)]).await;
            assert_eq!(header("access-control-allow-origin"), None, "{other} {path}");
            assert_eq!(header("vary").as_deref(), Some("Origin"), "{other} {path}");
        }
        // Caches must tell apart also what came without an origin.
        let (_, header) = asked(client, method, &path, &[]).await;
        assert_eq!(header("vary").as_deref(), Some("Origin"), "{path}");
    }
}

#[tokio::test]
async fn without_keys_a_page_of_another_origin_changes_nothing() {
    let service = service(false).await;
    let http = &service.client;
    let run = http.create(&json!({"agent": {"name": "A"}, "input": "x"})).await;
    http.ended(&run).await;
    for (path, method) in [
        (format!("/runs/{run}/purge"), Method::POST),
        (format!("/runs/{run}/cancel"), Method::POST),
        (format!("/runs/{run}/stream_tokens"), Method::POST),
        (format!("/runs/{run}"), Method::DELETE),
        (format!("/runs/{run}"), Method::PATCH),
        ("/batches".to_owned(), Method::POST),
    ] {
        let evil = [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")];
        let (status, header) = asked(http, method.clone(), &path, &evil).await;
        assert_eq!(status, 403, "{method} {path}");
        assert_eq!(header("vary").as_deref(), Some("Origin"));
        let ask = [evil[0], ("access-control-request-method", method.as_str())];
        let (_, header) = asked(http, Method::OPTIONS, &path, &ask).await;
        assert_eq!(header("access-control-allow-origin"), None);
        assert_eq!(header("access-control-allow-methods"), None);
    }
    let known = [("origin", ORIGIN), ("sec-fetch-site", "cross-site")];
    let path = format!("/runs/{run}/purge");
    assert_eq!(asked(http, Method::POST, &path, &known).await.0, 204);
}

#[tokio::test]
async fn without_configured_origins_nothing_is_said_of_them() {
    let service = Service::demo().await;
    let (_, header) = asked(&service.client, Method::GET, "/models", &[("origin", ORIGIN)]).await;
    assert_eq!(header("access-control-allow-origin"), None);
    assert_eq!(header("vary"), None);
}
