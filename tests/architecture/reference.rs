//! The events in the reference of the API have the fields and words of the code's own types.

use std::collections::{BTreeMap, BTreeSet};

use runledger::api::openapi::{Form, text};
use runledger::run::Draft;
use runledger::run::event::KINDS;
use serde_json::Value;

use super::documents::{collect, events, failures, words};

fn schemas() -> Value {
    let mut document: Value = serde_json::from_str(&text(Form::Json)).expect("it is JSON");
    document["components"]["schemas"].take()
}

/// The name of the schema of an event of this type.
fn schema_of<'a>(schemas: &'a Value, kind: &str) -> &'a str {
    let mapping = &schemas["KnownEvent"]["discriminator"]["mapping"];
    let path = mapping[kind].as_str().unwrap_or_else(|| panic!("`{kind}` is missing"));
    path.rsplit('/').next().unwrap_or_default()
}

fn properties(schema: &Value) -> BTreeSet<String> {
    schema["properties"].as_object().expect("it is an object").keys().cloned().collect()
}

fn strings(value: &Value) -> BTreeSet<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn every_event_has_a_schema_with_its_fields_and_no_others() {
    let schemas = schemas();
    let mapping = &schemas["KnownEvent"]["discriminator"]["mapping"];
    let described: BTreeSet<&str> =
        mapping.as_object().expect("it is there").keys().map(String::as_str).collect();
    assert_eq!(described, BTreeSet::from(KINDS));
    let mut inner = BTreeMap::new();
    for body in events() {
        let kind = body.name();
        let schema = &schemas[schema_of(&schemas, kind)];
        let text = Draft { turn: 1, attempt: 1, body }.to_text();
        let text = format!(r#"{{"seq":1,"at":"2026-11-24T20:50:53.640Z",{text}"#);
        let event: Value = serde_json::from_str(&text).expect("it is JSON");
        let fields: BTreeSet<String> =
            event.as_object().expect("it is an object").keys().cloned().collect();
        assert_eq!(properties(schema), fields, "{kind}");
        collect(kind, &event, &mut inner);
    }
    for (field, schema) in [
        ("agent", "AgentRef"),
        ("usage", "Usage"),
        ("limits", "RaisedLimits"),
        ("result", "RunResult"),
        ("error", "RunError"),
        ("parts", "OutputPart"),
        ("failed_before", "FailedTry"),
    ] {
        assert_eq!(properties(&schemas[schema]), inner[field], "{schema}");
    }
}

#[test]
fn the_words_of_a_field_are_those_of_the_code() {
    let schemas = schemas();
    for (name, schema, field) in [
        ("StartReason", "RunStartedEvent", "reason"),
        ("Executor", "ToolCallEvent", "executor"),
        ("Effect", "ToolCallEvent", "effect"),
        ("FinishReason", "TurnCompletedEvent", "finish_reason"),
        ("AbortReason", "TurnAbortedEvent", "reason"),
        ("Outcome", "ToolResultEvent", "outcome"),
        ("Outcome", "ToolCall", "outcome"),
    ] {
        let known = &schemas[schema]["properties"][field]["x-known-values"];
        let of_code = words(name);
        assert_eq!(strings(known), of_code.iter().map(String::as_str).collect(), "{schema}");
    }
    let known = strings(&schemas["RunError"]["properties"]["code"]["x-known-values"]);
    for code in failures() {
        assert!(known.contains(code.as_str()), "{code}");
    }
}
