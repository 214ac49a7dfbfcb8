//! Secrets, each a word that is looked for in everything that the service says.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::bulk;
use crate::client::spec;
use crate::nodes::Nodes;
use crate::postgres::Cluster;
use crate::service::{Service, Setup, command};
use crate::stub::{Do, Stub, say};
use crate::tool_stub::{Called, ToolStub, json as good, send};

/// The secrets: of the provider (its key, a header of its), of a tool, of clients, of the database, and
/// what a client puts where none belongs.
const PROVIDER_KEY: &str = "canary-1-provider-key";
const PROVIDER_HEADER: &str = "canary-2-provider-header";
const TOOL_SECRET: &str = "canary-3-tool-secret";
const API_KEY: &str = "canary-4-api-key";
const PASSWORD: &str = "canary-5-database";
const MISPLACED: &str = "canary-6-misplaced";
const CANARIES: [&str; 6] =
    [PROVIDER_KEY, PROVIDER_HEADER, TOOL_SECRET, API_KEY, PASSWORD, MISPLACED];

/// What is said that should not be.
fn leaks(said: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (place, text) in said {
        for canary in CANARIES {
            let encoded = STANDARD.encode(canary);
            if text.contains(canary) || text.contains(&encoded[..encoded.len() - 4]) {
                let at = text.find(canary).unwrap_or_default();
                let from = text[..at].char_indices().rev().nth(120).map_or(0, |(place, _)| place);
                found.push(format!("{canary} in {place}: {}", &text[from..at + canary.len()]));
            }
        }
    }
    found
}

/// A provider and a tool that repeat what they are sent, in errors above all.
async fn echoes(stub: &Stub, tools: &ToolStub) {
    stub.on("leaks", |call| {
        let sent = format!("{:?}", call.headers);
        let error = json!({"error": {"message": format!("not with {sent}")}}).to_string();
        match (call.turn, call.attempt) {
            (1, 1) => vec![Do::Refuse(503, &[], error)],
            (1, 2) => vec![Do::Say("Half".into()), Do::Raw(format!("data: {error}\n\n"))],
            (1, 3) => vec![Do::Raw(format!("data: no json {sent}\n\n"))],
            (1, _) => {
                let calls = ["good", "bad", "busy"].map(|name| Do::Call(name, json!({})));
                calls.into_iter().chain([Do::Finish("tool_calls")]).collect()
            }
            _ => say("Done."),
        }
    });
    stub.on("refuses", |call| vec![Do::Refuse(401, &[], format!("{:?}", call.headers))]);
    let echo = |call: &Called| format!("{:?}", call.headers);
    tools.on("/good", move |call| good(&json!({"you sent": echo(call)})));
    tools.on("/bad", move |call| send(401, "text/plain", &echo(call)));
    tools.on("/busy", move |call| {
        send(if call.attempt < 3 { 503 } else { 200 }, "text/plain", &echo(call))
    });
}

fn body(tools: &ToolStub, model: &str) -> Value {
    let mut body = spec(&format!("mine/{model}"), "go");
    let tool = |name: &str| {
        json!({"type": "http", "name": name, "url": format!("{}/{name}", tools.url),
            "headers": {"Authorization": "Bearer ${secret:SHOP}"}})
    };
    body["agent"]["tools"] = ["good", "bad", "busy"].map(tool).into();
    body["config"] = json!({"verbose": true});
    body
}

/// Clients that put a secret where none belongs; what they are told.
async fn misplaced(service: &Service) -> Vec<(String, String)> {
    let http = &service.client;
    let mut told = Vec::new();
    for (method, path, header) in [
        (Method::GET, format!("/runs?key={MISPLACED}"), String::new()),
        (Method::GET, format!("/runs/x/stream?token={MISPLACED}"), String::new()),
        (Method::GET, format!("/nowhere?api_key={MISPLACED}"), String::new()),
        (Method::GET, "/runs".to_owned(), format!("Basic {}", STANDARD.encode(MISPLACED))),
        (Method::GET, "/runs".to_owned(), format!("Bearer {MISPLACED}")),
        (Method::POST, "/runs".to_owned(), format!("Token {MISPLACED}")),
    ] {
        let mut headers = Vec::new();
        if !header.is_empty() {
            headers.push(("authorization", header.as_str()));
        }
        let client = match header.is_empty() {
            true => http.clone(),
            false => crate::client::Client::new(&http.url, None),
        };
        let answer = bulk::try_ask(&client, method, &path, &Value::Null, &headers).await.unwrap();
        told.push((format!("the answer to {path} {header}"), answer.1.to_string()));
    }
    // Credentials in the authority of a URL go out as a header of theirs.
    let url = http.url.replace("http://", &format!("http://user:{MISPLACED}@"));
    let sent = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let answer = sent.get(format!("{url}/runs")).send().await.unwrap();
    told.push(("the answer to a URL with credentials".to_owned(), answer.text().await.unwrap()));
    told
}

/// All that a run says of itself.
async fn told_of(service: &Service, run: &str) -> Vec<(String, String)> {
    let http = &service.client;
    let mut told = Vec::new();
    for path in ["", "/events?limit=1000", "/spec", "/stream"] {
        let path = format!("/runs/{run}{path}");
        told.push((path.clone(), bulk::get(http, &path).await.to_string()));
    }
    told
}

/// The end of a start whose settings are wrong, with secrets among them.
async fn a_wrong_start() -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path())
        .env("DATABASE_URL", format!("postgres://user:{PASSWORD}@127.0.0.1:1/none?bad={PASSWORD}"))
        .env("OPENAI_BASE_URL", format!("http://user:{PROVIDER_KEY}@ /v1"))
        .env("OPENAI_API_KEY", format!("{PROVIDER_KEY}\n"))
        .env("RUNLEDGER_API_KEYS", format!("{API_KEY},a b"))
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
    let said = [output.stdout, output.stderr].concat();
    ("a start that fails".to_owned(), String::from_utf8(said).unwrap())
}

/// reliability.md, row 23: six secrets, looked for in logs, events, errors, metrics and answers.
#[tokio::test]
async fn no_secret_is_said_anywhere() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let url = cluster.url().replace("postgres@", &format!("postgres:{PASSWORD}@"));
    let (nodes, tools) = (Nodes::at(url.clone()).await, ToolStub::start().await);
    echoes(&nodes.stub, &tools).await;
    let folder = tempfile::tempdir().unwrap();
    let file = format!(
        "[secrets.SHOP]\nvalue_env = \"SHOP_KEY\"\nhosts = [\"127.0.0.1\"]\n\
         [providers.mine]\nkind = \"openai\"\nbase_url = \"{}\"\napi_key_env = \"MINE\"\n\
         headers = {{ X-Team = \"{PROVIDER_HEADER}\" }}\n",
        nodes.stub.base_url
    );
    let setup = Setup {
        key: Some(API_KEY.into()),
        log: Some(folder.path().join("log")),
        ..Setup::default()
    }
    .env("DATABASE_URL", url)
    .env("MINE", PROVIDER_KEY)
    .env("SHOP_KEY", TOOL_SECRET)
    .env("RUNLEDGER_API_KEYS", API_KEY)
    .env("RUNLEDGER_ALLOW_NETWORKS", "127.0.0.0/8")
    .env("RUNLEDGER_LOG", "debug,runledger=trace")
    .file(folder.path(), &file);
    let data = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let service = Service::in_folder(data, setup).await;
    let http = &service.client;
    let mut said =
        vec![("the greeting".to_owned(), service.greeting.clone()), a_wrong_start().await];
    for (model, status) in [("leaks", "COMPLETED"), ("refuses", "FAILED")] {
        let run = http.create(&body(&tools, model)).await;
        assert_eq!(http.ended(&run).await["status"], status);
        said.extend(told_of(&service, &run).await);
    }
    said.extend(misplaced(&service).await);
    for path in ["/metrics", "/models", "/runs", "/readyz", "/openapi.json"] {
        said.push((path.to_owned(), bulk::get(http, path).await.to_string()));
    }
    // Without its database the service has much to say.
    drop(cluster);
    for path in ["/readyz", "/runs"] {
        let (_, told) = bulk::ask(http, Method::GET, path, &Value::Null).await;
        said.push((format!("{path} without a database"), told.to_string()));
    }
    drop(service.kill().await);
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains("\"TRACE\"") || log.contains("\"DEBUG\""), "the log is verbose");
    said.push(("the log".to_owned(), log));
    let found = leaks(&said);
    println!("row=23 faults_fired={} ops_ok={} value={}", CANARIES.len(), said.len(), found.len());
    assert_eq!(found, Vec::<String>::new());

    // The control: what the provider and the tools were sent has the secrets in it.
    let sent = nodes.stub.calls("leaks").iter().map(|call| format!("{:?}", call.headers)).collect();
    let called = tools.calls("/good").iter().map(|call| format!("{:?}", call.headers)).collect();
    let found = leaks(&[("the provider".to_owned(), sent), ("the tool".to_owned(), called)]);
    println!("row=23 control=true faults_fired=3 value={}", found.len());
    assert_eq!(found.len(), 3, "{found:?}");
}
