//! Who may do what: every operation of the reference with every identity.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use crate::bulk;
use crate::client::{Client, spec};
use crate::contract::DOCUMENT;
use crate::service::{Service, Setup};
use crate::stub::Stub;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Nobody,
    WrongKey,
    RightKey,
    /// The right key, in a scheme that is none of ours.
    Basic,
    /// The right key without a scheme.
    Bare,
    /// A token for the stream of the run.
    Token,
    /// A token for the stream of another run.
    OthersToken,
    /// The token, changed.
    FalseToken,
}

const EVERYBODY: [Who; 8] = [
    Who::Nobody,
    Who::WrongKey,
    Who::Basic,
    Who::Bare,
    Who::OthersToken,
    Who::FalseToken,
    Who::Token,
    Who::RightKey,
];

/// Which credentials an operation takes, as the reference says.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Takes {
    Nothing,
    Key,
    KeyOrToken,
}

/// Every operation of the reference.
fn operations() -> Vec<(Method, String, Takes)> {
    let mut operations = Vec::new();
    for (path, methods) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
            if operation.get("responses").is_none() {
                continue;
            }
            let security = operation.get("security").unwrap_or(&DOCUMENT["security"]);
            let ways = security.as_array().unwrap();
            let takes = if ways.is_empty() {
                Takes::Nothing
            } else if ways.iter().any(|way| way.get("streamToken").is_some()) {
                Takes::KeyOrToken
            } else {
                Takes::Key
            };
            operations.push((method, path.clone(), takes));
        }
    }
    operations
}

/// What each operation is tried on.
struct Things {
    run: String,
    batch: String,
    tokens: BTreeMap<&'static str, String>,
}

async fn things(client: &Client) -> Things {
    let runs = ["a", "b"].map(|input| spec("openai/any", input));
    let body = json!({"runs": runs});
    let (_, batch) = bulk::ask(client, Method::POST, "/batches", &body).await;
    let names: Vec<&str> = batch["run_ids"].as_array().unwrap().iter().map(bulk::text).collect();
    let run = names[0].to_owned();
    let mut tokens = BTreeMap::new();
    for (kind, name) in [("own", names[0]), ("other", names[1])] {
        bulk::ended(client, name).await;
        let path = format!("/runs/{name}/stream_tokens");
        let (_, made) = bulk::ask(client, Method::POST, &path, &json!({})).await;
        tokens.insert(kind, bulk::text(&made["token"]).to_owned());
    }
    let batch = bulk::text(&batch["batch_id"]).to_owned();
    let own = &tokens["own"];
    let first = if own.starts_with('A') { "B" } else { "A" };
    let changed = format!("{first}{}", &own[1..]);
    tokens.insert("false", changed);
    Things { run, batch, tokens }
}

/// Asks as somebody; the status.
async fn ask(url: &str, who: Who, method: &Method, path: &str, things: &Things) -> u16 {
    let thing = if path.starts_with("/batches") { &things.batch } else { &things.run };
    let mut path = path.replace("{id}", thing);
    assert!(!path.contains('{'), "{path}");
    let token = match who {
        Who::Token => Some("own"),
        Who::OthersToken => Some("other"),
        Who::FalseToken => Some("false"),
        Who::Nobody | Who::WrongKey | Who::RightKey | Who::Basic | Who::Bare => None,
    };
    if let Some(token) = token {
        path = format!("{path}?token={}", things.tokens[token]);
    }
    let client = Client::new(url, None);
    let header = match who {
        Who::WrongKey => Some("Bearer beta"),
        Who::RightKey => Some("Bearer alpha"),
        Who::Basic => Some("Basic alpha"),
        Who::Bare => Some("alpha"),
        Who::Nobody | Who::Token | Who::OthersToken | Who::FalseToken => None,
    };
    let mut headers: Vec<(&str, &str)> = header.iter().map(|key| ("authorization", *key)).collect();
    let body = match *method {
        Method::POST | Method::PATCH => json!({}),
        _ => Value::Null,
    };
    if path.contains("/stream") && *method == Method::GET {
        headers.push(("accept", "text/event-stream"));
    }
    bulk::try_ask(&client, method.clone(), &path, &body, &headers).await.unwrap().0
}

/// The runs, as they are.
async fn listed(http: &Client) -> Value {
    bulk::get(http, "/runs?limit=200").await
}

/// Every operation as everybody; what was answered wrongly, and how much was asked.
async fn wrong(service: &Service) -> (Vec<String>, usize, usize) {
    let http = &service.client;
    let (mut found, mut asked, mut let_in) = (Vec::new(), 0, 0);
    for (method, path, takes) in operations() {
        let things = things(http).await;
        let before = listed(http).await;
        let mut is_untouched = true;
        for who in EVERYBODY {
            let may = match takes {
                Takes::Nothing => true,
                Takes::Key => who == Who::RightKey,
                Takes::KeyOrToken => [Who::RightKey, Who::Token].contains(&who),
            };
            // Those who may come last.
            if may && std::mem::take(&mut is_untouched) && listed(http).await != before {
                found.push(format!("{method} {path} changed something for nobody"));
            }
            let status = ask(&http.url, who, &method, &path, &things).await;
            asked += 1;
            let_in += usize::from(may);
            if (status == 401) == may || [403, 404, 405].contains(&status) || status >= 500 {
                found.push(format!("{method} {path} as {who:?}: {status}"));
            }
        }
    }
    (found, asked, let_in)
}

/// reliability.md, row 23: authorization.
#[tokio::test]
async fn every_operation_takes_the_credentials_that_the_reference_says_and_no_others() {
    let stub = Stub::start().await;
    let setup = Setup { key: Some("alpha".into()), ..Setup::default() };
    let setup = setup.env("RUNLEDGER_API_KEYS", "alpha");
    let service = Service::start_with(&stub, setup).await;
    let (found, asked, let_in) = wrong(&service).await;
    println!("row=23 faults_fired={} ops_ok={let_in} value={}", asked - let_in, found.len());
    assert_eq!(found, Vec::<String>::new());
    assert!(asked >= 20 * EVERYBODY.len() && asked - let_in >= 60, "{asked}, {let_in}");
}

/// The control: a service that asks for no key.
#[tokio::test]
async fn a_service_without_keys_is_found_open() {
    let stub = Stub::start().await;
    let service = Service::start(&stub).await;
    let (found, asked, let_in) = wrong(&service).await;
    println!("row=23 control=true faults_fired={} value={}", asked - let_in, found.len());
    assert!(found.len() >= 40, "{found:?}");
}
