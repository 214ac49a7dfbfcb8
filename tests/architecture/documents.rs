//! The documents say what the code does: every event and field, every error, every setting.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use runledger::api::problem::ErrorCode;
use runledger::config::SETTINGS_HELP;
use runledger::run::event::{
    AbortReason, AgentRef, Effect, Executor, FailedTry, FinishReason, KINDS, Outcome, OutputPart,
    RunError, RunResult, StartReason, Usage,
};
use runledger::run::{Body, CallId, Content, Draft, Raise, Seq};
use serde_json::{Map, Value, json};

use super::rules::{files, root};
use super::source;

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn usage() -> Usage {
    Usage { estimated: Some(true), ..Usage::default() }
}

fn result() -> RunResult {
    RunResult {
        final_output: None,
        output: None,
        stop_reason: String::new(),
        error: Some(RunError {
            code: String::new(),
            message: String::new(),
            retryable: false,
            details: Value::Null,
        }),
        usage: usage(),
        turn_count: 1,
        elapsed_time: 0.0,
        variables: Map::new(),
    }
}

/// One event of every type, with every field that it may have. A new field does not compile here
/// until it has its place.
pub(crate) fn events() -> Vec<Body> {
    [run_events(), turn_events(), tool_events()].concat()
}

fn text() -> String {
    String::new()
}

fn opaque() -> Option<Value> {
    Some(json!("opaque"))
}

fn raise() -> Raise {
    Raise {
        max_turns: Some(1),
        max_time: Some(1.0),
        timeout_per_turn: Some(1.0),
        max_total_tokens: Some(1),
        max_cost_usd: Some(1.0),
        max_tool_calls: Some(1),
    }
}

fn run_events() -> Vec<Body> {
    vec![
        Body::RunQueued {
            format: 1,
            run_id: text(),
            uuid: text(),
            agent: AgentRef { name: None, version: Some(1) },
            model: text(),
            by: text(),
            parent_run_id: Some(text()),
            continued_from: Some(text()),
            input: json!("text"),
            truncated: Some(true),
            traceparent: Some(text()),
        },
        Body::Input { content: Content::Text(text()), by: text() },
        Body::RunStarted {
            node: text(),
            reason: StartReason::New,
            crashes: 0,
            elapsed: 0.0,
            turn_elapsed: 0.0,
            waited: 0.0,
        },
        Body::RunUpdated { metadata: Some(Map::new()), limits: Some(raise()), by: text() },
        Body::CancelRequested { by: text(), reason: Some(text()) },
        Body::Log { level: text(), message: text(), data: Value::Null },
        Body::RunCompleted { run_id: text(), result: result() },
        Body::RunFailed { run_id: text(), result: result() },
        Body::RunCancelled { run_id: text(), result: result() },
    ]
}

fn turn_events() -> Vec<Body> {
    vec![
        Body::TurnStarted { model: text(), request_sha256: text() },
        Body::Text { item: 1, content: text() },
        Body::Reasoning { item: 1, content: text(), provider_metadata: opaque() },
        Body::TurnCompleted {
            finish_reason: FinishReason::Stop,
            parts: vec![
                OutputPart::Text { item: 1, text: text() },
                OutputPart::Reasoning { item: 2, text: None, provider_metadata: opaque() },
            ],
            usage: usage(),
            model: text(),
            provider_request_id: Some(text()),
            provider_metadata: opaque(),
            elapsed_time: 0.0,
            first_output_time: Some(0.0),
        },
        Body::TurnAborted {
            reason: AbortReason::Cut,
            provider_status: Some(500),
            message: Some(text()),
            discard_from_seq: Seq(1),
            last_item: 1,
            retry_in: Some(0.0),
            elapsed_time: Some(0.0),
            usage: Some(usage()),
        },
    ]
}

fn tool_events() -> Vec<Body> {
    let call_id = || CallId(String::new());
    vec![
        Body::ToolCall {
            item: 1,
            call_id: call_id(),
            provider_call_id: Some(text()),
            tool_name: text(),
            arguments: json!("text"),
            arguments_raw: text(),
            executor: Executor::Server,
            effect: Effect::Read,
            provider_metadata: opaque(),
        },
        Body::ToolStarted {
            item: 1,
            call_id: call_id(),
            try_number: 1,
            failed_before: Some(FailedTry {
                http_status: Some(500),
                message: text(),
                elapsed_time: 0.0,
            }),
            child_run_id: Some(text()),
        },
        Body::ToolResult {
            item: 1,
            call_id: call_id(),
            tool_name: text(),
            result: json!("text"),
            is_error: false,
            outcome: Outcome::Ok,
            try_number: 1,
            http_status: Some(200),
            truncated: Some(true),
            elapsed_time: 0.0,
        },
        Body::VariablesSet { values: Map::new() },
    ]
}

/// The sections of a document by the first `name` in their heading.
fn sections(text: &str) -> BTreeMap<&str, &str> {
    let mut sections = BTreeMap::new();
    for section in text.split("\n### ").skip(1) {
        let section = section.split("\n## ").next().unwrap_or(section);
        let name = section.split('`').nth(1).expect("a heading names its subject");
        assert!(sections.insert(name, section).is_none(), "`{name}` is described twice");
    }
    sections
}

/// The names in the first column of a section's table.
fn rows(section: &str) -> BTreeSet<String> {
    let first = |line: &str| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned());
    section.lines().filter_map(first).collect()
}

/// The fields of objects by the name under which they are described: a type's, or a field's.
pub(crate) fn collect(name: &str, value: &Value, fields: &mut BTreeMap<String, BTreeSet<String>>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (field, value) in object {
                fields.entry(name.to_owned()).or_default().insert(field.clone());
                collect(field, value, fields);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(name, item, fields)),
        _ => {}
    }
}

#[test]
fn every_event_and_every_field_is_described_and_nothing_else() {
    let text = read("docs/events.md");
    let mut sections = sections(&text);
    let envelope = rows(sections.remove("seq").expect("the envelope is described"));
    let names = ["seq", "at", "type", "turn", "attempt", "item"].map(str::to_owned);
    assert_eq!(envelope, BTreeSet::from(names));
    let mut fields = BTreeMap::new();
    for body in events() {
        let name = body.name();
        let text = Draft { turn: 1, attempt: 1, body }.to_text();
        let mut event: Value = serde_json::from_str(&format!("{{{text}")).expect("it is JSON");
        event.as_object_mut().expect("an event is an object").retain(|k, _| !envelope.contains(k));
        collect(name, &event, &mut fields);
    }
    let of_types: BTreeSet<&str> = events().iter().map(Body::name).collect();
    assert_eq!(of_types, BTreeSet::from(KINDS), "there is one event of every type above");
    for (name, fields) in &fields {
        let section = sections.get(name.as_str()).unwrap_or_else(|| panic!("`{name}` is missing"));
        assert_eq!(rows(section), *fields, "the fields of `{name}`");
    }
    let described: Vec<&str> = sections.into_keys().collect();
    assert_eq!(described, fields.keys().collect::<Vec<_>>());
}

/// The words that an enum of the events is written as.
pub(crate) fn words(name: &str) -> BTreeSet<String> {
    let events = read("src/run/event.rs");
    let tokens = source::tokens(&events);
    let at = tokens.windows(2).position(|pair| [pair[0].text, pair[1].text] == ["enum", name]);
    let body = tokens.iter().skip(at.expect("the enum is there") + 3);
    let variants = body.take_while(|token| token.text != "}").filter(|token| token.text != ",");
    let word = |variant: &str| {
        let mut word = String::new();
        for c in variant.chars() {
            if c.is_uppercase() && !word.is_empty() {
                word.push('_');
            }
            word.extend(c.to_lowercase());
        }
        word
    };
    variants.map(|variant| word(variant.text)).collect()
}

#[test]
fn every_word_that_a_field_may_hold_is_described() {
    let text = read("docs/events.md");
    for name in ["StartReason", "Executor", "Effect", "FinishReason", "AbortReason", "Outcome"] {
        for word in words(name) {
            assert!(text.contains(&format!("`{word}`")), "{name}: `{word}`");
        }
    }
}

/// The codes with which the source lets runs fail.
pub(crate) fn failures() -> BTreeSet<String> {
    let mut failures = BTreeSet::new();
    for (_, code) in files(&["src"]) {
        for call in code.split("Ending::failed(").skip(1) {
            if let Some(literal) = call.trim_start().strip_prefix('"') {
                failures.extend(literal.split('"').next().map(str::to_owned));
            }
        }
    }
    assert!(failures.len() > 5, "only {failures:?} were found");
    failures
}

#[test]
fn every_failure_of_a_run_is_described() {
    let text = read("docs/events.md");
    for code in failures() {
        assert!(text.contains(&format!("`{code}`")), "{code}");
    }
}

#[test]
fn every_rule_for_models_names_tests_that_are_there() {
    let text = read("docs/models.md");
    let (_, table) = text.split_once("| rule | held by |").expect("the table is there");
    let sources: Vec<String> = files(&["src", "tests"]).into_iter().map(|(_, text)| text).collect();
    for rule in 1..=25 {
        let row = table.lines().find(|line| line.starts_with(&format!("| {rule}. ")));
        let row = row.unwrap_or_else(|| panic!("rule {rule} has no row"));
        let names = row.split('`').filter_map(|word| word.strip_suffix('…'));
        let starts: Vec<&str> = names.filter_map(|name| name.rsplit("::").next()).collect();
        assert!(!starts.is_empty(), "rule {rule} names no test");
        for start in starts {
            let function = format!("fn {start}");
            assert!(sources.iter().any(|text| text.contains(&function)), "rule {rule}: {start}");
        }
    }
}

#[test]
fn an_event_that_is_not_written_yet_says_so() {
    let text = read("docs/events.md");
    let sections = sections(&text);
    let sources = files(&["src"]);
    for body in events() {
        let (name, shown) = (body.name(), format!("{body:?}"));
        let variant = shown.split(' ').next().unwrap_or_default();
        let is_written = sources.iter().any(|(path, text)| {
            let writers = ["src/worker/", "src/api/", "src/journal/", "src/run/ending"];
            let may_write = writers.iter().any(|room| path.starts_with(room));
            // `Body::X { .. }` only asks which it is.
            let written = format!("Body::{variant} {{");
            let mut behind = text.split(&written).skip(1);
            may_write && !path.contains("/tests") && behind.any(|rest| !rest.starts_with(" .. }"))
        });
        let says_so = sections[name].contains("Not written by this release.");
        assert_eq!(says_so, !is_written, "{name}");
    }
}

#[test]
fn every_error_is_described_with_its_status() {
    let text = read("docs/errors.md");
    let (sent, reserved) = text.split_once("## Reserved").expect("there are two lists");
    let sources = files(&["src"]);
    let mut listed = rows(sent);
    listed.extend(rows(reserved));
    let all: BTreeSet<String> = ErrorCode::ALL.iter().map(|code| code.name().to_owned()).collect();
    assert_eq!(listed, all);
    for code in ErrorCode::ALL {
        let retryable = if code.is_retryable() { "yes" } else { "no" };
        let row = format!("| `{}` | {} | {retryable} | ", code.name(), code.status().as_u16());
        let is_sent = sources.iter().any(|(path, text)| {
            path != "src/api/problem.rs" && text.contains(&format!("ErrorCode::{code:?}"))
        });
        let list = if is_sent { sent } else { reserved };
        assert!(list.lines().any(|line| line.starts_with(&row)), "{row}");
    }
}

/// The words of a text that are settings of the environment.
pub(crate) fn settings(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| {
            let is_ours = ["RUNLEDGER_", "OPENAI_", "ANTHROPIC_", "DATABASE_"]
                .iter()
                .any(|start| word.starts_with(start));
            is_ours && word.bytes().all(|byte| byte == b'_' || byte.is_ascii_uppercase())
        })
        .collect()
}

#[test]
fn the_readme_names_every_setting_and_no_other() {
    assert_eq!(settings(&read("README.md")), settings(SETTINGS_HELP));
}

#[test]
fn the_code_map_names_every_room() {
    let map = read("ARCHITECTURE.md");
    for (path, _) in files(&["src"]).iter().filter(|(path, _)| path != "src/lib.rs") {
        let inside = path.strip_prefix("src/").expect("it stands there");
        let room = inside.split('/').next().unwrap_or_default();
        let room = if inside.contains('/') { format!("{room}/") } else { room.to_owned() };
        // A folder beside a file of the same name is that file's.
        let is_there = map.contains(&room) || map.contains(&room.replace('/', ".rs"));
        assert!(is_there, "{room}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let mut documents = vec![
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "examples/README.md",
    ]
    .into_iter()
    .map(str::to_owned)
    .collect::<Vec<_>>();
    for folder in ["docs", "docs/adr"] {
        let entries = fs::read_dir(root().join(folder)).expect("the folder is there");
        let names = entries.map(|entry| entry.expect("it can be read").file_name());
        let names = names.map(|name| name.into_string().expect("names are ASCII"));
        documents.extend(names.filter(|n| n.ends_with(".md")).map(|n| format!("{folder}/{n}")));
    }
    let mut links = 0;
    for document in documents {
        let text = read(&document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let folder = Path::new(&document).parent().unwrap_or(Path::new(""));
            assert!(root().join(folder).join(target).exists(), "{document}: {link}");
            links += 1;
        }
    }
    assert!(links > 10, "only {links} links were looked at");
}
