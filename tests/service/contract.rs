//! Every answer that a test of this suite gets is held against the reference of the API, and every
//! request that is accepted too: what the document says is what the service does.
//!
//! The document is read strictly here: of what clients must expect to grow (fields, words) nothing
//! may come that this release does not describe.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

use reqwest::Method;
use reqwest::header::HeaderMap;
use runledger::api::openapi::{Form, text};
use serde_json::{Map, Value, json};

/// Headers that are a part of the contract wherever they come.
const HEADERS: [&str; 7] = [
    "location",
    "content-location",
    "idempotent-replayed",
    "preference-applied",
    "retry-after",
    "www-authenticate",
    "x-request-id",
];

/// Methods that every path has in HTTP's own sense.
const OF_HTTP: [Method; 2] = [Method::HEAD, Method::OPTIONS];

pub static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(&text(Form::Json)).expect("it is JSON"));

static STRICT: LazyLock<Value> = LazyLock::new(|| strict(&DOCUMENT));

/// The document with nothing left open: what grows in later releases is closed.
fn strict(value: &Value) -> Value {
    let Value::Object(fields) = value else {
        return match value {
            Value::Array(items) => items.iter().map(strict).collect(),
            other => other.clone(),
        };
    };
    let mut closed: Map<String, Value> = fields
        .iter()
        .map(|(name, value)| match name.as_str() {
            // Beside `type: [string, null]`, null is none of the words.
            "x-known-values" => {
                let words = value.as_array().into_iter().flatten().cloned();
                ("enum".to_owned(), words.chain([Value::Null]).collect())
            }
            "$ref" if value == "#/components/schemas/Event" => {
                (name.clone(), json!("#/components/schemas/KnownEvent"))
            }
            _ => (name.clone(), strict(value)),
        })
        .collect();
    if fields.get("type") == Some(&json!("object")) && fields.contains_key("properties") {
        closed.entry("additionalProperties").or_insert(json!(false));
    }
    closed.into()
}

type Validators = Mutex<BTreeMap<String, Arc<jsonschema::Validator>>>;

static VALIDATORS: LazyLock<Validators> = LazyLock::new(Mutex::default);

/// What of a value a schema of the document does not allow.
pub fn mismatches(schema: &Value, value: &Value) -> Vec<String> {
    let validator = {
        let mut known = VALIDATORS.lock().unwrap();
        let compiled = known.entry(schema.to_string()).or_insert_with(|| {
            let whole = json!({"allOf": [schema], "components": STRICT["components"]});
            Arc::new(jsonschema::validator_for(&whole).expect("the document's schemas are right"))
        });
        Arc::clone(compiled)
    };
    let told = validator.iter_errors(value).map(|error| {
        let words: String = error.to_string().chars().take(300).collect();
        format!("{}: {words}", error.instance_path())
    });
    told.collect()
}

/// The schema of this name, read strictly.
pub fn named(name: &str) -> Value {
    assert!(!STRICT["components"]["schemas"][name].is_null(), "there is no schema {name}");
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The operations of the path that this request asks for.
fn item(path: &str) -> Option<&'static Value> {
    let path = path.split('?').next().unwrap_or_default();
    let is_it = |template: &str| {
        let steps = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        let (template, path) = (steps(template), steps(path));
        let fits = |(step, given): (&String, &String)| {
            step == given || (step.starts_with('{') && !given.is_empty())
        };
        template.len() == path.len() && template.iter().zip(&path).all(fits)
    };
    let paths = STRICT["paths"].as_object().expect("there are paths");
    paths.iter().find(|(template, _)| is_it(template)).map(|(_, item)| item)
}

/// The end of the test where an answer is none that the document describes.
#[track_caller]
pub fn check(method: &Method, path: &str, status: u16, headers: &HeaderMap, body: Option<&str>) {
    let place = format!("{method} {path} {status}");
    let Some(item) = item(path) else {
        let is_refused = [401, 403, 404].contains(&status);
        assert!(is_refused, "{place}: the document has no such path");
        return;
    };
    let operation = &item[method.as_str().to_ascii_lowercase()];
    if operation.is_null() {
        let is_right = OF_HTTP.contains(method) || [401, 403, 405].contains(&status);
        assert!(is_right, "{place}: the document has no such operation");
        return;
    }
    let answer = &operation["responses"][status.to_string()];
    assert!(!answer.is_null(), "{place}: no such status is described. {body:?}");
    for name in HEADERS.iter().filter(|name| headers.contains_key(**name)) {
        let described = answer["headers"].as_object().expect("it has headers");
        let is_described = described.keys().any(|one| one.eq_ignore_ascii_case(name));
        assert!(is_described, "{place}: no header {name} is described");
    }
    assert!(headers.contains_key("x-request-id"), "{place}");
    let Some(contents) = answer["content"].as_object() else {
        assert!(body.is_none_or(str::is_empty), "{place}: no body is described");
        return;
    };
    let media_type = headers.get("content-type").expect("a body says what it is");
    let media_type = media_type.to_str().unwrap().split(';').next().unwrap();
    let content = contents.get(media_type);
    let content = content.unwrap_or_else(|| panic!("{place}: {media_type} is not described"));
    let Some(body) = body.filter(|_| media_type.ends_with("json")) else { return };
    let body: Value = serde_json::from_str(body).unwrap();
    let wrong = mismatches(&content["schema"], &body);
    assert!(wrong.is_empty(), "{place}: {wrong:#?}\n{body}");
    if let Some(codes) = answer["x-codes"].as_array() {
        assert!(codes.contains(&body["code"]), "{place}: {} is not described", body["code"]);
    }
}

/// The end of the test where a request was accepted that the document does not allow.
#[track_caller]
pub fn check_accepted(method: &Method, path: &str, body: Option<&Value>) {
    let Some(item) = item(path) else { return };
    let operation = &item[method.as_str().to_ascii_lowercase()];
    let content = &operation["requestBody"]["content"]["application/json"];
    if let (Some(body), false) = (body, content.is_null()) {
        let wrong = mismatches(&content["schema"], body);
        assert!(wrong.is_empty(), "{method} {path} was accepted: {wrong:#?}\n{body}");
    }
    let (_, query) = path.split_once('?').unwrap_or_default();
    for name in query.split('&').filter_map(|pair| pair.split('=').next()) {
        let is_described = name.is_empty()
            || parameters(operation).any(|one| one["name"] == name)
            || schemes(operation).any(|one| one["in"] == "query" && one["name"] == name);
        assert!(is_described, "{method} {path} was accepted: no parameter {name} is described");
    }
}

/// The parameters of an operation, each whole.
pub fn parameters(operation: &Value) -> impl Iterator<Item = &'static Value> {
    let names = operation["parameters"].as_array().into_iter().flatten();
    names.map(|parameter| {
        let path = parameter["$ref"].as_str().expect("parameters are named");
        DOCUMENT.pointer(path.trim_start_matches('#')).expect("it is there")
    })
}

/// The further ways in which an operation may be authorized.
fn schemes(operation: &Value) -> impl Iterator<Item = &'static Value> {
    let ways = operation["security"].as_array().into_iter().flatten();
    let names = ways.flat_map(|way| way.as_object().expect("it is an object").keys());
    names.map(|name| &DOCUMENT["components"]["securitySchemes"][name])
}

#[test]
fn what_the_document_does_not_say_is_found() {
    let mut run: Value = DOCUMENT["paths"]["/runs/{id}"]["get"]["responses"]["200"]["content"]
        ["application/json"]["example"]
        .clone();
    let run_schema = named("Run");
    assert_eq!(mismatches(&run_schema, &run), Vec::<String>::new());
    for (field, sin) in [
        ("status", json!("DONE")),
        ("stop_reason", json!("because")),
        ("surplus", json!(1)),
        ("created_at", json!(7)),
        ("last_seq", json!(-1)),
        ("tool_calls", json!([{}])),
        ("history", json!([{"role": "system", "content": "x"}])),
    ] {
        let right = run.as_object_mut().unwrap().insert(field.to_owned(), sin);
        assert!(!mismatches(&run_schema, &run).is_empty(), "{field}");
        match right {
            Some(right) => run[field] = right,
            None => drop(run.as_object_mut().unwrap().remove(field)),
        }
    }
    let event = |kind: &str| json!({"seq": 1, "at": "x", "type": kind, "turn": 0, "attempt": 1});
    assert!(!mismatches(&named("Event"), &event("news")).is_empty(), "an unknown type");
    let mut reader = HeaderMap::new();
    let lost = std::panic::catch_unwind(|| check(&Method::GET, "/nowhere", 200, &reader, None));
    assert!(lost.is_err(), "a path that is not described");
    reader.insert("x-request-id", "1".parse().unwrap());
    let status = std::panic::catch_unwind(|| check(&Method::GET, "/models", 418, &reader, None));
    assert!(status.is_err(), "a status that is not described");
}
