//! Every rule that a request must keep, each refusal with its place and its bound.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Code, Models, Spec, Violation};
use crate::run::catalog::Catalog;
use crate::run::message::{Content, Message, Part};
use crate::run::{id, limits, template};

fn wrong(pointer: impl Into<String>, detail: impl Into<String>) -> Violation {
    Violation { pointer: pointer.into(), detail: detail.into(), code: Code::InvalidRequest }
}

/// Depth and NUL, which hold for every string and level of the body.
pub(super) fn shape(body: &Value) -> Result<(), Vec<Violation>> {
    let mut found = Vec::new();
    if body.is_object() {
        walk(body, &mut String::new(), 1, &mut found);
    } else {
        found.push(wrong("", "the body must be a JSON object"));
    }
    if found.is_empty() { Ok(()) } else { Err(found) }
}

fn walk(value: &Value, pointer: &mut String, depth: usize, found: &mut Vec<Violation>) {
    if depth > limits::JSON_DEPTH {
        found.push(wrong(
            pointer.chars().take(200).collect::<String>(),
            format!("is nested deeper than {} levels", limits::JSON_DEPTH),
        ));
        return;
    }
    let here = pointer.len();
    match value {
        Value::String(text) if text.contains('\0') => {
            found.push(wrong(pointer.clone(), "must not contain NUL (\\u0000)"));
        }
        Value::Array(items) => {
            for (place, item) in items.iter().enumerate() {
                pointer.push_str(&format!("/{place}"));
                walk(item, pointer, depth + 1, found);
                pointer.truncate(here);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                pointer.push('/');
                pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
                if name.contains('\0') {
                    found.push(wrong(pointer.replace('\0', "\\u0000"), "a name has a NUL"));
                }
                walk(field, pointer, depth + 1, found);
                pointer.truncate(here);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Types and names of fields. Each part is read on its own, so that the pointer says which it is.
pub(super) fn deserialize(body: &Value) -> Result<Spec, Vec<Violation>> {
    let mut found = Vec::new();
    let fields = body.as_object().expect("shape() has seen that it is an object");
    for name in fields.keys() {
        if !["agent", "input", "history", "variables", "config"].contains(&name.as_str()) {
            found.push(wrong(
                format!("/{name}"),
                format!(
                    "unknown field `{name}`; known are agent, input, history, variables, config"
                ),
            ));
        }
    }
    let agent = match fields.get("agent") {
        Some(Value::String(name)) => {
            found.push(Violation {
                pointer: "/agent".to_owned(),
                detail: format!("there is no stored agent `{name}`; give the agent inline"),
                code: Code::UnknownAgent,
            });
            None
        }
        Some(agent) => record(agent, "/agent", &mut found),
        None => {
            found.push(wrong("/agent", "is required"));
            None
        }
    };
    let input = fields.get("input").filter(|input| !input.is_null());
    if input.is_none() {
        found.push(wrong("/input", "is required: a string or a list of parts"));
    }
    let input = input.and_then(|input| content(input, "/input", &mut found));
    let history = match fields.get("history") {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(messages)) => Some(
            messages
                .iter()
                .enumerate()
                .filter_map(|(place, one)| message(one, &format!("/history/{place}"), &mut found))
                .collect(),
        ),
        Some(_) => {
            found.push(wrong("/history", "must be a list of messages"));
            None
        }
    };
    let variables = match fields.get("variables") {
        None | Some(Value::Null) => Some(Map::new()),
        Some(Value::Object(variables)) => Some(variables.clone()),
        Some(_) => {
            found.push(wrong("/variables", "must be an object"));
            None
        }
    };
    let config = match fields.get("config") {
        None | Some(Value::Null) => Some(super::Config::default()),
        Some(config) => record(config, "/config", &mut found),
    };
    match (agent, input, history, variables, config) {
        (Some(agent), Some(input), Some(history), Some(variables), Some(config))
            if found.is_empty() =>
        {
            Ok(Spec { agent, input, history, variables, config })
        }
        _ => Err(found),
    }
}

/// Reads an object field by field, so that an error names its field; unknown ones are refused too.
fn record<T: for<'de> Deserialize<'de>>(
    value: &Value,
    pointer: &str,
    found: &mut Vec<Violation>,
) -> Option<T> {
    let error = match T::deserialize(value) {
        Ok(record) => return Some(record),
        Err(error) => error,
    };
    let before = found.len();
    if let Value::Object(fields) = value {
        for (name, field) in fields {
            // Alone in an otherwise empty object a field shows its own error, if it has one.
            let alone = Value::Object(Map::from_iter([(name.clone(), field.clone())]));
            if let Err(error) = T::deserialize(&alone) {
                let detail = error.to_string();
                if !detail.starts_with("missing field") {
                    match field {
                        Value::Array(items) if name == "tools" => {
                            for (place, item) in items.iter().enumerate() {
                                let here = format!("{pointer}/{name}/{place}");
                                if item.is_object() {
                                    record::<super::Tool>(item, &here, found);
                                }
                            }
                            if found.len() == before {
                                found.push(wrong(format!("{pointer}/{name}"), detail));
                            }
                        }
                        _ => found.push(wrong(format!("{pointer}/{name}"), detail)),
                    }
                }
            }
        }
    }
    if found.len() == before {
        found.push(wrong(pointer, error.to_string()));
    }
    None
}

fn content(value: &Value, pointer: &str, found: &mut Vec<Violation>) -> Option<Content> {
    match value {
        Value::String(text) => Some(Content::Text(text.clone())),
        Value::Array(parts) => parts
            .iter()
            .enumerate()
            .map(|(place, part)| record::<Part>(part, &format!("{pointer}/{place}"), found))
            .collect::<Option<Vec<Part>>>()
            .map(Content::Parts),
        _ => {
            found.push(wrong(pointer, "must be a string or a list of parts"));
            None
        }
    }
}

fn message(value: &Value, pointer: &str, found: &mut Vec<Violation>) -> Option<Message> {
    match value.get("role").and_then(Value::as_str) {
        Some("user" | "assistant" | "tool") => {}
        Some("system" | "developer") => {
            found.push(wrong(
                format!("{pointer}/role"),
                "must be user, assistant or tool; a system message belongs in agent.instructions",
            ));
            return None;
        }
        _ => {
            found.push(wrong(format!("{pointer}/role"), "must be user, assistant or tool"));
            return None;
        }
    }
    if let Some(inner) = value.get("content").filter(|inner| !inner.is_null()) {
        content(inner, &format!("{pointer}/content"), found)?;
    }
    match Message::deserialize(value) {
        Ok(message) => Some(message),
        Err(error) => {
            found.push(wrong(pointer, error.to_string()));
            None
        }
    }
}

/// The rules that types can't say.
pub(super) fn rules(spec: &Spec, catalog: &Catalog) -> Vec<Violation> {
    let mut found = Vec::new();
    agent(spec, catalog, &mut found);
    history(spec, &mut found);
    config(spec, &mut found);
    if let Content::Parts(list) = &spec.input {
        parts(list, "/input", &mut found);
    }
    let variables = serde_json::to_string(&spec.variables).map_or(0, |text| text.len());
    if variables > limits::VARIABLES_BYTES {
        found.push(wrong(
            "/variables",
            format!("must be at most {} bytes as JSON, got {variables}", limits::VARIABLES_BYTES),
        ));
    }
    found
}

fn agent(spec: &Spec, catalog: &Catalog, found: &mut Vec<Violation>) {
    let agent = &spec.agent;
    if agent.name.is_none() && agent.instructions.is_none() {
        found.push(wrong("/agent", "needs instructions or name"));
    }
    if let Some(name) = &agent.name
        && !(1..=128).contains(&name.chars().count())
    {
        found.push(wrong("/agent/name", "must have 1 to 128 characters"));
    }
    if let Some(instructions) = &agent.instructions
        && let Err(unknown) = template::render(instructions, &spec.variables)
    {
        found.push(wrong("/agent/instructions", unknown.to_string()));
    }
    models(&agent.model, catalog, found);
    let settings = &agent.model_settings;
    for (name, value, bounds) in
        [("temperature", settings.temperature, 0.0..=2.0), ("top_p", settings.top_p, 0.0..=1.0)]
    {
        if let Some(value) = value
            && !bounds.contains(&value)
        {
            let (low, high) = (bounds.start(), bounds.end());
            found.push(wrong(
                format!("/agent/model_settings/{name}"),
                format!("must be between {low} and {high}, got {value}"),
            ));
        }
    }
    if settings.max_output_tokens == Some(0) {
        found.push(wrong("/agent/model_settings/max_output_tokens", "must be at least 1, got 0"));
    }
    if agent.output_schema.is_some() {
        found.push(wrong("/agent/output_schema", "is not available yet"));
    }
    tools(spec, catalog, found);
}

fn models(models: &Models, catalog: &Catalog, found: &mut Vec<Violation>) {
    if models.0.len() > limits::MODELS {
        found.push(wrong(
            "/agent/model",
            format!("must name at most {} models, got {}", limits::MODELS, models.0.len()),
        ));
    }
    for name in &models.0 {
        if !catalog.has_model(name) {
            found.push(Violation {
                pointer: "/agent/model".to_owned(),
                detail: format!(
                    "unknown model `{}`; a model is `provider/name`, configured providers are: {}",
                    name.chars().take(100).collect::<String>(),
                    catalog.providers.join(", ")
                ),
                code: Code::UnknownModel,
            });
        }
    }
}

fn tools(spec: &Spec, catalog: &Catalog, found: &mut Vec<Violation>) {
    let tools = &spec.agent.tools;
    if tools.len() > limits::TOOLS {
        found.push(wrong(
            "/agent/tools",
            format!("must have at most {} tools, got {}", limits::TOOLS, tools.len()),
        ));
    }
    let mut names = BTreeSet::new();
    for (place, tool) in tools.iter().enumerate() {
        let pointer = format!("/agent/tools/{place}");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if !(1..=64).contains(&tool.name.len()) || !tool.name.bytes().all(plain) {
            found.push(wrong(format!("{pointer}/name"), "must be 1 to 64 of [A-Za-z0-9_-]"));
        } else if catalog.builtin(&tool.name).is_none() {
            let known: Vec<&str> = catalog.builtins.iter().map(|one| one.name.as_str()).collect();
            found.push(wrong(
                format!("{pointer}/name"),
                format!(
                    "there is no built-in tool `{}`; there are {}",
                    tool.name,
                    known.join(", ")
                ),
            ));
        }
        if !names.insert(&tool.name) {
            found.push(wrong(
                format!("{pointer}/name"),
                format!("another tool is called `{}` already", tool.name),
            ));
        }
        if tool.description.is_some() || tool.parameters.is_some() || tool.effect.is_some() {
            found.push(wrong(
                pointer.clone(),
                "a built-in tool has a description, parameters and effect of its own",
            ));
        }
        if !limits::TOOL_TIMEOUT.contains(&tool.timeout) {
            found.push(out_of(format!("{pointer}/timeout"), &limits::TOOL_TIMEOUT, tool.timeout));
        }
    }
    if let Some(choice) = &spec.agent.model_settings.tool_choice {
        let pointer = "/agent/model_settings/tool_choice";
        let named = choice.get("name").and_then(Value::as_str);
        match (choice.as_str(), named) {
            (Some("auto" | "none" | "required"), _) => {}
            (_, Some(name)) if spec.tool(name).is_some() => {}
            (_, Some(name)) => {
                found
                    .push(wrong(pointer, format!("names `{name}`, which is no tool of the agent")));
            }
            (_, None) => found
                .push(wrong(pointer, r#"must be "auto", "none", "required" or {"name": TOOL}"#)),
        }
    }
}

fn history(spec: &Spec, found: &mut Vec<Violation>) {
    if spec.history.len() > limits::HISTORY_MESSAGES {
        found.push(wrong(
            "/history",
            format!(
                "must have at most {} messages, got {}",
                limits::HISTORY_MESSAGES,
                spec.history.len()
            ),
        ));
    }
    let mut open: BTreeSet<&str> = BTreeSet::new();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (place, message) in spec.history.iter().enumerate() {
        let pointer = format!("/history/{place}");
        match message {
            Message::Tool { call_id, content, .. } => {
                if !open.remove(call_id.as_str()) {
                    found.push(wrong(
                        format!("{pointer}/call_id"),
                        "answers no open tool call of the assistant's message before it",
                    ));
                }
                if let Content::Parts(list) = content {
                    parts(list, &format!("{pointer}/content"), found);
                }
                continue;
            }
            Message::User { .. } | Message::Assistant { .. } if !open.is_empty() => {
                found.push(wrong(
                    pointer.clone(),
                    "comes before every tool call of the assistant's message has its answer",
                ));
                open.clear();
            }
            Message::User { .. } | Message::Assistant { .. } => {}
        }
        let inner = match message {
            Message::User { content } => Some(content),
            Message::Assistant { content, .. } => content.as_ref(),
            Message::Tool { .. } => None,
        };
        if let Some(Content::Parts(list)) = inner {
            parts(list, &format!("{pointer}/content"), found);
        }
        if let Message::Assistant { tool_calls, .. } = message {
            for (number, call) in tool_calls.iter().enumerate() {
                if !seen.insert(&call.call_id) {
                    found.push(wrong(
                        format!("{pointer}/tool_calls/{number}/call_id"),
                        "is used by another tool call already",
                    ));
                }
                open.insert(&call.call_id);
            }
        }
    }
    if !open.is_empty() {
        found.push(wrong("/history", "ends before every tool call has its answer"));
    }
}

fn parts(list: &[Part], pointer: &str, found: &mut Vec<Violation>) {
    for (place, part) in list.iter().enumerate() {
        let Part::Image { url, media_type, data } = part else { continue };
        let whole = match (url, media_type, data) {
            (Some(_), None, None) | (None, Some(_), Some(_)) => true,
            (_, _, _) => false,
        };
        if !whole {
            found.push(wrong(
                format!("{pointer}/{place}"),
                "an image has either `url`, or `media_type` and `data`",
            ));
        }
    }
}

fn out_of<T: std::fmt::Display>(
    pointer: impl Into<String>,
    bounds: &std::ops::RangeInclusive<T>,
    got: T,
) -> Violation {
    let pointer = pointer.into();
    let name = pointer.trim_start_matches('/').replace('/', ".");
    let detail =
        format!("{name} must be between {} and {}, got {got}", bounds.start(), bounds.end());
    wrong(pointer, detail)
}

fn config(spec: &Spec, found: &mut Vec<Violation>) {
    let config = &spec.config;
    if let Some(chosen) = &config.run_id
        && !id::is_client_id(chosen)
    {
        found.push(wrong(
            "/config/run_id",
            "must be [A-Za-z0-9][A-Za-z0-9._:-]{0,127} and not in the form of a UUID",
        ));
    }
    if !limits::MAX_TURNS.contains(&config.max_turns) {
        found.push(out_of("/config/max_turns", &limits::MAX_TURNS, config.max_turns));
    }
    if !limits::MAX_TIME.contains(&config.max_time) {
        found.push(out_of("/config/max_time", &limits::MAX_TIME, config.max_time));
    }
    if !limits::TIMEOUT_PER_TURN.contains(&config.timeout_per_turn) {
        found.push(out_of(
            "/config/timeout_per_turn",
            &limits::TIMEOUT_PER_TURN,
            config.timeout_per_turn,
        ));
    }
    if config.max_total_tokens == Some(0) {
        found.push(wrong("/config/max_total_tokens", "must be at least 1, got 0"));
    }
    if config.max_cost_usd.is_some() {
        found.push(Violation {
            pointer: "/config/max_cost_usd".to_owned(),
            detail: format!("no price is configured for `{}`", spec.model()),
            code: Code::UnknownPrice,
        });
    }
    let (keys, key_chars, value_chars) = limits::METADATA;
    if config.metadata.len() > keys {
        found.push(wrong(
            "/config/metadata",
            format!("must have at most {keys} keys, got {}", config.metadata.len()),
        ));
    }
    for (key, value) in &config.metadata {
        let fits = key.chars().count() <= key_chars
            && value.as_str().is_some_and(|text| text.chars().count() <= value_chars);
        if !fits {
            found.push(wrong(
                format!(
                    "/config/metadata/{}",
                    key.chars().take(80).collect::<String>().replace('~', "~0").replace('/', "~1")
                ),
                format!(
                    "a key has at most {key_chars} characters, a value is a string of at most {value_chars}"
                ),
            ));
        }
    }
}
