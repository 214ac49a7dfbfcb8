//! The rules that types can't say, each refusal with its place, its bound and what it got.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::read::{Parts, VIOLATIONS_MAX, short, step};
use super::{Agent, Code, Config, Models, Violation, tools};
use crate::run::catalog::Catalog;
use crate::run::message::{Content, Message, Part};
use crate::run::{id, limits, template};

pub(super) fn wrong(pointer: impl Into<String>, detail: impl Into<String>) -> Violation {
    Violation { pointer: pointer.into(), detail: detail.into(), code: Code::InvalidRequest }
}

/// Checks what could be read of a body.
pub(super) fn rules(parts: &Parts, catalog: &Catalog, found: &mut Vec<Violation>) {
    let Parts { agent: of_agent, input, history: messages, variables, config: of_config } = parts;
    if let Some(of_agent) = of_agent {
        agent(of_agent, catalog, found);
        if let (Some(instructions), Some(variables)) = (&of_agent.instructions, variables)
            && let Err(unrendered) = template::render(instructions, variables)
        {
            found.push(wrong("/agent/instructions", unrendered.to_string()));
        }
    }
    if let Some(input) = input {
        content(input, "/input", Speaker::Other, found);
    }
    if let Some(messages) = messages {
        history(messages, found);
    }
    if let Some(variables) = variables {
        let bytes = serde_json::to_string(variables).map_or(0, |text| text.len());
        if bytes > limits::VARIABLES_BYTES {
            found.push(wrong(
                "/variables",
                format!("must be at most {} bytes as JSON, got {bytes}", limits::VARIABLES_BYTES),
            ));
        }
    }
    if let Some(of_config) = of_config {
        config(of_config, found);
        if let Some(of_agent) = of_agent {
            cost(of_config, asked(of_agent, catalog), catalog, found);
        }
    }
    found.truncate(VIOLATIONS_MAX);
}

fn agent(agent: &Agent, catalog: &Catalog, found: &mut Vec<Violation>) {
    if agent.name.is_none() && agent.instructions.is_none() {
        found.push(wrong("/agent", "needs instructions or name"));
    }
    if let Some(name) = &agent.name
        && !limits::AGENT_NAME.contains(&name.chars().count())
    {
        let got = name.chars().count();
        let (low, high) = (limits::AGENT_NAME.start(), limits::AGENT_NAME.end());
        let detail = format!("must have {low} to {high} characters, got {got}");
        found.push(wrong("/agent/name", detail));
    }
    models(&agent.model, catalog, found);
    let settings = &agent.model_settings;
    for (name, value, bounds) in
        [("temperature", settings.temperature, 0.0..=2.0), ("top_p", settings.top_p, 0.0..=1.0)]
    {
        if let Some(value) = value
            && !bounds.contains(&value)
        {
            found.push(out_of(format!("/agent/model_settings/{name}"), &bounds, value));
        }
    }
    if settings.max_output_tokens == Some(0) {
        found.push(wrong("/agent/model_settings/max_output_tokens", "must be at least 1, got 0"));
    }
    effort(agent, catalog, found);
    if agent.output_schema.is_some() {
        found.push(wrong("/agent/output_schema", "is not available yet"));
    }
    tools::tools(agent, catalog, found);
}

fn models(models: &Models, catalog: &Catalog, found: &mut Vec<Violation>) {
    if models.0.len() > limits::MODELS {
        found.push(wrong(
            "/agent/model",
            format!("must name at most {} models, got {}", limits::MODELS, models.0.len()),
        ));
        return;
    }
    for name in &models.0 {
        let length = name.chars().count();
        if length > limits::MODEL_NAME_CHARS {
            found.push(wrong(
                "/agent/model",
                format!(
                    "a name must have at most {} characters, got {length}",
                    limits::MODEL_NAME_CHARS
                ),
            ));
        } else if !catalog.has_model(name) {
            found.push(Violation {
                pointer: "/agent/model".to_owned(),
                detail: format!(
                    "unknown model {}; a model is `provider/name`, on offer are: {}",
                    quoted(name),
                    catalog.models.join(", ")
                ),
                code: Code::UnknownModel,
            });
        }
    }
}

/// Who speaks: only a model has reasoning.
#[derive(Clone, Copy, PartialEq)]
enum Speaker {
    Model,
    Other,
}

fn history(messages: &[Message], found: &mut Vec<Violation>) {
    let count = messages.len();
    if count > limits::HISTORY_MESSAGES {
        found.push(wrong(
            "/history",
            format!("must have at most {} messages, got {count}", limits::HISTORY_MESSAGES),
        ));
        return;
    }
    let mut open: BTreeSet<&str> = BTreeSet::new();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (place, message) in messages.iter().enumerate() {
        let pointer = format!("/history/{place}");
        let inside = format!("{pointer}/content");
        if !matches!(message, Message::Tool { .. }) && !open.is_empty() {
            found.push(wrong(
                pointer.clone(),
                format!("comes before the answer to {}", unanswered(&open)),
            ));
            open.clear();
        }
        match message {
            Message::User { content: inner } => content(inner, &inside, Speaker::Other, found),
            Message::Tool { call_id, content: inner, .. } => {
                if !open.remove(call_id.as_str()) {
                    found.push(wrong(
                        format!("{pointer}/call_id"),
                        format!(
                            "answers no open tool call of the message before it, got {}",
                            quoted(call_id)
                        ),
                    ));
                }
                content(inner, &inside, Speaker::Other, found);
            }
            Message::Assistant { content: inner, tool_calls, .. } => {
                if let Some(inner) = inner {
                    content(inner, &inside, Speaker::Model, found);
                }
                for (number, call) in tool_calls.iter().enumerate() {
                    let pointer = format!("{pointer}/tool_calls/{number}");
                    if !seen.insert(&call.call_id) {
                        found.push(wrong(
                            format!("{pointer}/call_id"),
                            format!("{} is another tool call already", quoted(&call.call_id)),
                        ));
                    }
                    if !call.arguments.is_object() && !call.arguments.is_string() {
                        found.push(wrong(
                            format!("{pointer}/arguments"),
                            format!(
                                "must be an object, or a string if the model's were none, got {}",
                                short(&call.arguments)
                            ),
                        ));
                    }
                    open.insert(&call.call_id);
                }
            }
        }
    }
    if !open.is_empty() {
        found.push(wrong("/history", format!("ends before the answer to {}", unanswered(&open))));
    }
}

fn unanswered(open: &BTreeSet<&str>) -> String {
    let first = open.first().copied().unwrap_or_default();
    match open.len() {
        1 => format!("the tool call {}", quoted(first)),
        several => format!("{several} tool calls, {} among them", quoted(first)),
    }
}

fn content(content: &Content, pointer: &str, speaker: Speaker, found: &mut Vec<Violation>) {
    let Content::Parts(parts) = content else { return };
    for (place, part) in parts.iter().enumerate() {
        let pointer = format!("{pointer}/{place}");
        match part {
            Part::Text { .. } => {}
            Part::Reasoning { .. } if speaker == Speaker::Model => {}
            Part::Reasoning { .. } => {
                found.push(wrong(pointer, "reasoning belongs to assistant messages"));
            }
            Part::Image { url: Some(_), media_type: None, data: None }
            | Part::Image { url: None, media_type: Some(_), data: Some(_) } => {}
            Part::Image { .. } => found.push(wrong(
                pointer,
                "an image must have either `url`, or `media_type` and `data`",
            )),
        }
    }
}

pub(super) fn out_of<T: std::fmt::Display>(
    pointer: impl Into<String>,
    bounds: &RangeInclusive<T>,
    got: T,
) -> Violation {
    let (low, high) = (bounds.start(), bounds.end());
    wrong(pointer, format!("must be between {low} and {high}, got {got}"))
}

pub(super) fn quoted(text: &str) -> String {
    short(&Value::from(text))
}

fn config(config: &Config, found: &mut Vec<Violation>) {
    if let Some(chosen) = &config.run_id
        && !id::is_client_id(chosen)
    {
        found.push(wrong(
            "/config/run_id",
            format!(
                "must be [A-Za-z0-9][A-Za-z0-9._:-]{{0,127}} and not in the form of a UUID, got {}",
                quoted(chosen)
            ),
        ));
    }
    limits(config, found);
    metadata(&config.metadata, "/config/metadata", found);
}

/// The limits of a run, each within its bounds.
pub(super) fn limits(config: &Config, found: &mut Vec<Violation>) {
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
    if let Some(most) = config.max_cost_usd
        && most <= 0.0
    {
        found.push(wrong("/config/max_cost_usd", format!("must be more than 0, got {most}")));
    }
}

/// The models that may be asked.
fn asked<'a>(agent: &'a Agent, catalog: &'a Catalog) -> &'a [String] {
    match agent.model.0.as_slice() {
        [] => std::slice::from_ref(&catalog.default_model),
        named => named,
    }
}

/// A limit of money holds only where every model that may be asked has a price.
fn cost(config: &Config, models: &[String], catalog: &Catalog, found: &mut Vec<Violation>) {
    if config.max_cost_usd.is_none() {
        return;
    }
    let unpriced = models.iter().filter(|model| catalog.price(model).is_none());
    let unpriced: Vec<String> = unpriced.map(|model| quoted(model)).collect();
    if !unpriced.is_empty() {
        found.push(Violation {
            pointer: "/config/max_cost_usd".to_owned(),
            detail: format!("no price is configured for {}", unpriced.join(", ")),
            code: Code::UnknownPrice,
        });
    }
}

/// Not every dialect can say every effort.
fn effort(agent: &Agent, catalog: &Catalog, found: &mut Vec<Violation>) {
    let Some(effort) = &agent.model_settings.reasoning_effort else { return };
    for model in asked(agent, catalog) {
        let provider = catalog.provider_of(model).map(|(provider, _)| provider);
        let Some(words) = provider.and_then(|one| one.reasoning_efforts.as_ref()) else { continue };
        if !words.contains(effort) {
            let (words, model) = (words.join(", "), quoted(model));
            let detail = format!("must be one of {words} for {model}, got {}", quoted(effort));
            found.push(wrong("/agent/model_settings/reasoning_effort", detail));
            return;
        }
    }
}

/// Labels, at this place of the body.
pub(super) fn metadata(labels: &Map<String, Value>, at: &str, found: &mut Vec<Violation>) {
    let (keys, key_chars, value_chars) = limits::METADATA;
    if labels.len() > keys {
        let detail = format!("must have at most {keys} keys, got {}", labels.len());
        found.push(wrong(at, detail));
        return;
    }
    for (key, value) in labels {
        let pointer = format!("{at}{}", step(key));
        let length = key.chars().count();
        if length > key_chars {
            let detail = format!("a key must have at most {key_chars} characters, got {length}");
            found.push(wrong(pointer.clone(), detail));
        }
        let bound = format!("must be a string of at most {value_chars} characters");
        match value.as_str().map(|text| text.chars().count()) {
            None => found.push(wrong(pointer, format!("{bound}, got {}", short(value)))),
            Some(length) if length > value_chars => {
                found.push(wrong(pointer, format!("{bound}, got {length}")));
            }
            Some(_) => {}
        }
    }
}
