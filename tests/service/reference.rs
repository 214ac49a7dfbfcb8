//! The reference of the API: it is served, it is kept, its examples work, its bounds are the
//! service's.

use std::collections::BTreeSet;
use std::path::Path;

use reqwest::Method;
use runledger::api::openapi::{Form, text};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::client::Client;
use crate::contract::{DOCUMENT, mismatches, named, parameters};
use crate::service::{Service, Setup, binary};
use crate::stub::Stub;
use crate::waiting::within;

fn kept() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.yaml");
    std::fs::read_to_string(path).expect("it is kept")
}

#[test]
fn the_kept_document_is_the_one_that_the_code_makes() {
    assert!(
        kept() == text(Form::Yaml),
        "openapi.yaml is not what the code says; if the change is meant: \
         cargo run -- openapi > openapi.yaml"
    );
}

/// Each path of the document with its methods.
fn operations() -> BTreeSet<(String, String)> {
    let paths = DOCUMENT["paths"].as_object().expect("there are paths");
    let of = |(path, item): (&String, &Value)| -> Vec<(String, String)> {
        let methods = item.as_object().expect("it has methods").keys();
        methods.map(|method| (path.clone(), method.to_ascii_uppercase())).collect()
    };
    paths.iter().flat_map(of).collect()
}

/// The routes as the router's source lists them: nothing at run time can be asked for them.
fn routes() -> BTreeSet<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/mod.rs");
    let source = std::fs::read_to_string(path).expect("it is there");
    let mut found = BTreeSet::new();
    for route in source.split(".route(").skip(1) {
        let path = route.split('"').nth(1).expect("a route has a path");
        let handlers = route.split("\n        .").next().expect("it has handlers");
        for method in ["get", "post", "put", "patch", "delete"] {
            let [first, further] = [format!(" {method}("), format!(".{method}(")];
            if handlers.contains(&first) || handlers.contains(&further) {
                found.insert((path.to_owned(), method.to_ascii_uppercase()));
            }
        }
    }
    assert!(found.len() > 10, "{found:?}");
    found
}

#[tokio::test]
async fn every_route_is_in_the_document_and_every_operation_is_a_route() {
    assert_eq!(operations(), routes());
    let service = Service::demo().await;
    let paths: BTreeSet<String> = operations().into_iter().map(|(path, _)| path).collect();
    for path in paths {
        let request = service.client.request(Method::TRACE, &path.replace("{id}", "x"));
        let answer = within("an answer", request.send()).await.unwrap();
        let allowed = answer.headers()["allow"].to_str().unwrap().to_owned();
        let allowed = allowed.split(',').filter(|method| *method != "HEAD");
        let allowed: BTreeSet<_> = allowed.map(|one| (path.clone(), one.to_owned())).collect();
        let described = operations().into_iter().filter(|(of, _)| *of == path).collect();
        assert_eq!(allowed, described);
    }
}

#[tokio::test]
async fn the_reference_is_served_and_printed_in_all_its_forms_and_needs_no_key() {
    let setup = Setup::default().env("RUNLEDGER_API_KEYS", "alpha");
    let service =
        Service::in_folder(std::sync::Arc::new(tempfile::tempdir().unwrap()), setup).await;
    let http = Client::new(&service.client.url, None);
    let printed = async |flags: &[&str]| {
        let mut command = Command::new(binary());
        let output = command.arg("openapi").args(flags).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(http.get("/models").await.status, 401);
    // Not shown: nobody would find the difference in it.
    assert!(http.get("/openapi.yaml").await.text == kept());
    assert!(printed(&[]).await == kept());
    let json = http.get("/openapi.json").await;
    assert!(json.json() == *DOCUMENT);
    assert!(printed(&["--json"]).await == json.text);
    let older = http.get("/openapi.json?version=3.0").await;
    assert_eq!(older.json()["openapi"], "3.0.3");
    assert!(printed(&["--3.0"]).await == older.text);
    let refused = http.get("/openapi.json?version=2.0").await.expect(422);
    assert_eq!(refused["errors"][0]["parameter"], "version");
}

/// What a browser says on its console about a page, and that it has been there.
async fn browsed(url: &str) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut browser = Command::new("chromium");
    browser
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--disable-quic", "--no-first-run", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", "--no-proxy-server"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.path().display()))
        .arg(url)
        .env("HOME", folder.path())
        .kill_on_drop(true);
    let output = within("the browser's end", browser.output()).await;
    let output = output.expect("`make setup` installs chromium");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let console = said.lines().filter(|line| line.contains("CONSOLE"));
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    (console.collect::<Vec<_>>().join("\n"), page)
}

#[tokio::test]
async fn the_page_of_the_reference_works_in_a_browser_under_its_own_policy() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let setup = Setup { log: Some(log.clone()), ..Setup::default() }
        .env("RUNLEDGER_LOG", "debug")
        .env("RUNLEDGER_API_KEYS", "alpha");
    let service =
        Service::in_folder(std::sync::Arc::new(tempfile::tempdir().unwrap()), setup).await;
    let http = Client::new(&service.client.url, None);
    let policy = http.get("/docs").await.header("content-security-policy").to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    for word in ["http", "*", "unsafe-eval"] {
        assert!(!policy.contains(word), "{policy}");
    }
    let (console, page) = browsed(&format!("{}/docs", http.url)).await;
    assert_eq!(console, "", "nothing is refused, and nothing fails");
    // RapiDoc has taken the page over, and has read the document.
    assert!(page.contains("<body style="), "{page}");
    let asked = std::fs::read_to_string(log).unwrap();
    for path in ["/docs", "/docs/rapidoc-min.js", "/openapi.json"] {
        let asked = asked.matches(&format!("\"{path}\"")).count();
        assert!(asked > 0, "{path}");
    }
    // Where something is refused, it is told.
    let refused = "data:text/html,<meta http-equiv=Content-Security-Policy \
                   content=\"script-src 'none'\"><script>1</script>";
    let (console, _) = browsed(refused).await;
    assert!(console.contains("Content Security Policy"), "{console}");
}

/// What 3.0 does not know stands nowhere in its form.
#[test]
fn the_older_form_has_no_word_of_the_newer() {
    fn look(value: &Value, place: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let place = format!("{place}/{name}");
                    let is_newer = match name.as_str() {
                        "const" | "contentEncoding" | "contentSchema" | "propertyNames" => true,
                        "type" => value.is_array() || value == "null",
                        "exclusiveMinimum" => value.is_number(),
                        "examples" => value.is_array(),
                        "$ref" => fields.len() > 1,
                        _ => false,
                    };
                    if is_newer {
                        found.push(place.clone());
                    }
                    if name != "example" {
                        look(value, &place, found);
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| look(item, place, found)),
            _ => {}
        }
    }
    let older: Value = serde_json::from_str(&text(Form::OlderJson)).unwrap();
    let mut found = Vec::new();
    look(&older, "", &mut found);
    assert_eq!(found, Vec::<String>::new());
    let mut newer = Vec::new();
    look(&DOCUMENT, "", &mut newer);
    assert!(newer.len() > 20, "the newer form has such words: {newer:?}");
}

#[tokio::test]
async fn the_examples_work_as_they_stand() {
    let service = Service::demo().await;
    let http = &service.client;
    let create = &DOCUMENT["paths"]["/runs"]["post"];
    let content = &create["requestBody"]["content"]["application/json"];
    let examples = content["examples"].as_object().expect("there are some");
    assert_eq!(examples.len(), 3);
    for (name, example) in examples {
        let run = http.post("/runs?wait=60", &example["value"]).await.expect(201);
        assert_eq!(run["status"], "COMPLETED", "{name}: {run}");
    }
    // What an answer is said to be is what it is, but for times and ids.
    let said = &create["responses"]["201"]["content"]["application/json"]["example"];
    let run = http.get("/runs/order-17").await.expect(200);
    for field in ["final_output", "input", "metadata", "usage", "agent", "variables", "status"] {
        assert_eq!(said[field], run[field], "{field}");
    }
    assert_eq!(mismatches(&named("Run"), said), Vec::<String>::new());
    let example = |path: &str, method: &str, name: &str| {
        let body = &DOCUMENT["paths"][path][method]["requestBody"];
        body["content"]["application/json"]["examples"][name]["value"].clone()
    };
    let batch = http.post("/batches", &example("/batches", "post", "two")).await.expect(201);
    assert_eq!(batch["run_ids"].as_array().unwrap().len(), 2);
    let slow = http.run("demo/assistant", "Tell me slowly in 1000 words").await;
    let change = example("/runs/{id}", "patch", "both");
    http.send(Method::PATCH, &format!("/runs/{slow}"), &change, &[]).await.expect(202);
    http.delete(&format!("/runs/{slow}?wait=60")).await.expect(202);
    let page = &DOCUMENT["paths"]["/runs/{id}/events"]["get"]["responses"]["200"]["content"]["application/json"]
        ["example"];
    assert_eq!(mismatches(&named("EventPage"), page), Vec::<String>::new());
    let problem = &DOCUMENT["components"]["schemas"]["Problem"]["examples"][0];
    assert_eq!(mismatches(&named("Problem"), problem), Vec::<String>::new());
}

#[tokio::test]
async fn a_stream_is_made_of_blocks_as_described() {
    let service = Service::demo().await;
    let body = crate::client::spec("demo/assistant", "What is 6*7?");
    let blocks = service.client.post_stream(&body, &[]).await.rest().await;
    assert!(blocks.len() > 5);
    for block in blocks {
        assert_eq!(mismatches(&named("KnownEvent"), &block.data()), Vec::<String>::new());
        let lines = json!({"id": block.id().to_string(), "event": block.kind(), "data": "{}"});
        assert_eq!(mismatches(&named("StreamBlock"), &lines), Vec::<String>::new());
    }
}

/// A value at a bound, and the next one beyond it.
fn around(bound: &Value, step: f64) -> (Value, Value) {
    match bound.as_u64() {
        Some(bound) if step < 0.0 && bound == 0 => (json!(0), json!(-1)),
        Some(bound) if step < 0.0 => (json!(bound), json!(bound - 1)),
        // Of the largest of all the next one is no whole number any more.
        Some(u64::MAX) => (json!(u64::MAX), json!(2e19)),
        Some(bound) => (json!(bound), json!(bound + 1)),
        None => (bound.clone(), json!(bound.as_f64().unwrap() + step / 1000.0)),
    }
}

#[tokio::test]
async fn the_bounds_of_the_document_are_the_bounds_of_the_service() {
    let stub = Stub::start().await;
    let service = Service::start(&stub).await;
    let http = &service.client;
    let mut tried = 0;
    for (schema, place) in [
        ("Config", "/config"),
        ("ModelSettings", "/agent/model_settings"),
        ("HttpTool", "/agent/tools/0"),
    ] {
        let properties = &DOCUMENT["components"]["schemas"][schema]["properties"];
        for (name, property) in properties.as_object().unwrap() {
            for (bound, step) in [("minimum", -1.0), ("maximum", 1.0)] {
                let Some(bound) = property.get(bound) else { continue };
                let (inside, outside) = around(bound, step);
                for (value, status) in [(inside, 201), (outside, 422)] {
                    let tool = json!({"type": "http", "name": "t", "url": "http://127.0.0.1:9/"});
                    let mut body = json!({
                        "agent": {"name": "A", "tools": [tool], "model_settings": {}},
                        "input": "Hi", "config": {},
                    });
                    body.pointer_mut(place).unwrap()[name] = value;
                    let answer = http.post("/runs", &body).await.expect(status);
                    if status == 422 {
                        assert_eq!(answer["errors"][0]["pointer"], format!("{place}/{name}"));
                    }
                    tried += 1;
                }
            }
        }
    }
    assert!(tried >= 30, "only {tried} values were tried");
}

#[tokio::test]
async fn what_an_absent_field_means_is_what_the_service_takes_it_for() {
    let service = Service::demo().await;
    let body = json!({"agent": {"name": "A"}, "input": "Hi"});
    let run = service.client.post("/runs", &body).await.expect(201);
    let properties = &DOCUMENT["components"]["schemas"]["Config"]["properties"];
    let mut told = 0;
    for (name, property) in properties.as_object().unwrap() {
        let Some(default) = property.get("x-default") else { continue };
        let taken = &run["config"][name];
        let is_same =
            default == taken || default.as_f64().zip(taken.as_f64()).is_some_and(|(a, b)| a == b);
        assert!(is_same, "{name}: {default} {taken}");
        told += 1;
    }
    assert_eq!(told, 7);
    let with_tool = json!({"agent": {"name": "A", "tools": [{"type": "builtin", "name": "calculator"}]}, "input": ""});
    let run = service.client.create(&with_tool).await;
    let spec = service.client.get(&format!("/runs/{run}/spec")).await.expect(200);
    let timeout = &DOCUMENT["components"]["schemas"]["BuiltinTool"]["properties"]["timeout"];
    assert_eq!(spec["agent"]["tools"][0]["timeout"].as_f64(), timeout["x-default"].as_f64());
}

#[tokio::test]
async fn the_bounds_of_parameters_are_the_bounds_of_the_service() {
    let service = Service::demo().await;
    let http = &service.client;
    let body = json!({"agent": {"name": "A"}, "input": "Hi", "config": {"run_id": "x"}});
    http.post("/runs?wait=60", &body).await.expect(201);
    let mut tried = 0;
    for (path, method) in operations().into_iter().filter(|(_, method)| method == "GET") {
        let operation = &DOCUMENT["paths"][&path][method.to_ascii_lowercase()];
        for parameter in parameters(operation).filter(|one| one["in"] == "query") {
            let (name, schema) = (parameter["name"].as_str().unwrap(), &parameter["schema"]);
            for (bound, step) in [("minimum", -1.0), ("maximum", 1.0)] {
                let Some(bound) = schema.get(bound) else { continue };
                let (inside, outside) = around(bound, step);
                for (value, is_inside) in [(inside, true), (outside, false)] {
                    let asked = format!("{}?{name}={value}", path.replace("{id}", "x"));
                    let answer = http.get(&asked).await;
                    // A number within the bounds may still be beyond this run's log.
                    let is_refused = answer.text.contains("must be a whole number between");
                    assert_eq!(is_refused, !is_inside, "{asked}: {}", answer.text);
                    tried += 1;
                }
            }
        }
    }
    assert!(tried >= 10, "only {tried} values were tried");
}

#[tokio::test]
async fn the_built_in_tools_of_the_document_are_those_of_the_service() {
    let service = Service::demo().await;
    let body = json!({"agent": {"name": "A", "tools": [{"type": "builtin", "name": "none"}]}, "input": ""});
    let refused = service.client.post("/runs", &body).await.expect(422);
    let detail = refused["detail"].as_str().unwrap();
    let (_, there_are) = detail.split_once("there are ").expect("it says which there are");
    let schema = &DOCUMENT["components"]["schemas"]["BuiltinTool"]["properties"]["name"];
    assert_eq!(json!(there_are.split(", ").collect::<Vec<_>>()), schema["enum"]);
}

#[test]
fn a_run_of_a_batch_has_the_fields_of_a_run() {
    let schemas = &DOCUMENT["components"]["schemas"];
    let names = |schema: &str| -> Vec<String> {
        schemas[schema]["properties"].as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(names("BatchRun"), names("RunRequest"));
    assert!(schemas["BatchRun"]["required"].is_null());
    // A list leaves parts of a run out, and has no others but previews.
    let mut item = names("RunItem");
    item.retain(|name| !name.ends_with("_preview"));
    let run = names("Run");
    assert!(item.iter().all(|name| run.contains(name)), "{item:?}");
}

/// What the service says to a field that it does not know: those that it knows there.
fn known_fields(refused: &Value, pointer: &str) -> BTreeSet<String> {
    let errors = refused["errors"].as_array().unwrap();
    let error = errors.iter().find(|error| error["pointer"] == pointer);
    let detail = error.unwrap_or_else(|| panic!("{pointer}: {refused}"))["detail"].as_str();
    let (_, names) = detail.unwrap().split_once("known are ").expect("it says which are known");
    names.split(", ").map(str::to_owned).collect()
}

#[tokio::test]
async fn the_fields_of_a_request_are_those_that_the_service_knows() {
    let service = Service::demo().await;
    let call = json!({"call_id": "c", "tool_name": "t", "arguments": {}, "x": 1});
    let parts = json!([
        {"type": "text", "text": "", "x": 1}, {"type": "image", "url": "", "x": 1},
        {"type": "reasoning", "x": 1},
    ]);
    let body = json!({
        "agent": {"name": "A", "model_settings": {"x": 1}, "x": 1,
            "tools": [{"type": "http", "name": "t", "url": "http://a.example/", "x": 1}]},
        "input": "", "config": {"x": 1}, "x": 1,
        "history": [
            {"role": "user", "content": "", "x": 1},
            {"role": "assistant", "content": parts, "tool_calls": [call], "x": 1},
            {"role": "tool", "call_id": "c", "content": "", "x": 1},
        ],
    });
    let http = &service.client;
    let refused = http.post("/runs", &body).await.expect(422);
    let batch = json!({"runs": [{"input": ""}], "x": 1});
    let of_batch = http.post("/batches", &batch).await.expect(422);
    let change = json!({"config": {"x": 1}, "x": 1});
    let of_change = http.send(Method::PATCH, "/runs/x", &change, &[]).await.expect(422);
    let schemas = &DOCUMENT["components"]["schemas"];
    for (refused, pointer, names, of_later) in [
        ("/x", &["RunRequest"][..], None),
        // Known, and refused by name until it is there.
        ("/agent/x", &["Agent"], Some("output_schema")),
        ("/agent/model_settings/x", &["ModelSettings"], None),
        ("/agent/tools/0/x", &["HttpTool"], None),
        ("/config/x", &["Config"], None),
        ("/history/0/x", &["UserMessage"], None),
        ("/history/1/x", &["AssistantMessage"], None),
        ("/history/1/tool_calls/0/x", &["MessageToolCall"], None),
        ("/history/1/content/0/x", &["TextPart"], None),
        ("/history/1/content/1/x", &["ImageUrlPart", "ImageDataPart"], None),
        ("/history/1/content/2/x", &["ReasoningPart"], None),
        ("/history/2/x", &["ToolMessage"], None),
    ]
    .map(|(pointer, names, of_later)| (&refused, pointer, names, of_later))
    .into_iter()
    .chain([
        (&of_batch, "/x", &["BatchRequest"][..], None),
        (&of_change, "/x", &["RunChange"], None),
        (&of_change, "/config/x", &["RaisedLimits"], None),
    ]) {
        let mut described: BTreeSet<String> = BTreeSet::new();
        for name in names {
            let properties = schemas[*name]["properties"].as_object().unwrap();
            described.extend(properties.keys().cloned());
        }
        described.extend(of_later.map(str::to_owned));
        assert_eq!(described, known_fields(refused, pointer), "{pointer}");
    }
}
