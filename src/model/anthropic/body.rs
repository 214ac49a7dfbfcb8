//! A request as Messages wants it: blocks, turns that alternate, and always an output limit.

use serde_json::{Map, Value, json};

use crate::model::own_fields;
use crate::run::message::{Content, Message, Part, ToolCall};
use crate::run::request::{Request, ToolOffer};

/// The output limit where the agent sets none: the API wants one, and every model since Claude 3.5
/// takes this.
const MAX_TOKENS_DEFAULT: u32 = 8192;

/// The least that may be thought, by the API's word.
const BUDGET_MIN: u32 = 1024;

/// What `reasoning_effort` may be here, and the tokens that may be thought for it.
const BUDGETS: [(&str, u32); 5] =
    [("none", 0), ("minimal", 0), ("low", 2048), ("medium", 8192), ("high", 24_576)];

/// The words of `reasoning_effort` that can be said in this dialect.
pub const REASONING_EFFORTS: [&str; 5] = ["none", "minimal", "low", "medium", "high"];

/// The body of `POST /v1/messages`, streamed.
pub(super) fn body(request: &Request, provider: &str, model: &str) -> Value {
    let settings = &request.settings;
    let messages = messages(&request.messages, provider);
    let budget = budget(request, provider);
    let max_tokens = match settings.max_output_tokens {
        Some(most) => most,
        None => MAX_TOKENS_DEFAULT + budget.unwrap_or_default(),
    };
    let mut body = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    set("max_tokens", Some(Value::from(max_tokens)));
    set("temperature", settings.temperature.map(Value::from));
    set("top_p", settings.top_p.map(Value::from));
    set("stop_sequences", (!settings.stop.is_empty()).then(|| json!(settings.stop)));
    set("thinking", budget.map(|most| json!({"type": "enabled", "budget_tokens": most})));
    set("system", request.instructions.as_deref().filter(|text| !text.is_empty()).map(Value::from));
    for (name, value) in &settings.extra {
        set(name, Some(value.clone()));
    }
    set("model", Some(Value::from(model)));
    set("stream", Some(Value::Bool(true)));
    set("messages", Some(Value::Array(messages)));
    if !request.tools.is_empty() {
        set("tools", Some(request.tools.iter().map(tool).collect()));
        set("tool_choice", settings.tool_choice.as_ref().map(tool_choice));
    }
    Value::Object(body)
}

/// The tokens that may be thought: by the effort, at most half of the output limit. None where the
/// API would refuse it: where a tool is forced, and where calls since the user's last message came
/// without this provider's own thinking (of another model, before a fallback).
fn budget(request: &Request, provider: &str) -> Option<u32> {
    let settings = &request.settings;
    let effort = settings.reasoning_effort.as_deref()?;
    let (_, wanted) = BUDGETS.iter().find(|(word, _)| *word == effort)?;
    let most = settings.max_output_tokens.map_or(u32::MAX, |most| most / 2);
    let budget = most.min(*wanted);
    let is_forced = match &settings.tool_choice {
        Some(choice) => !matches!(choice.as_str(), Some("auto" | "none")),
        None => false,
    };
    let since_user = request.messages.iter().rev().take_while(|one| !is_user(one));
    let is_foreign = since_user.into_iter().any(|message| match message {
        Message::Assistant { tool_calls, reasoning, .. } => {
            let mut thoughts = reasoning.iter().filter_map(|part| thinking(part, provider));
            !tool_calls.is_empty() && thoughts.next().is_none()
        }
        Message::User { .. } | Message::Tool { .. } => false,
    });
    (budget >= BUDGET_MIN && !is_forced && !is_foreign).then_some(budget)
}

fn is_user(message: &Message) -> bool {
    matches!(message, Message::User { .. })
}

fn tool(offer: &ToolOffer) -> Value {
    let mut tool = json!({"name": offer.name, "input_schema": offer.parameters});
    if let Some(description) = &offer.description {
        tool["description"] = Value::from(description.as_str());
    }
    tool
}

fn tool_choice(choice: &Value) -> Value {
    match (choice.get("name"), choice.as_str()) {
        (Some(name), _) => json!({"type": "tool", "name": name}),
        (None, Some("required")) => json!({"type": "any"}),
        (None, _) => json!({ "type": choice }),
    }
}

/// The messages; neighbours of one role are one: all results of a turn stand in one message.
fn messages(messages: &[Message], provider: &str) -> Vec<Value> {
    let mut out: Vec<(&str, Vec<Value>)> = Vec::new();
    for message in messages {
        let (role, blocks) = match message {
            Message::User { content } => ("user", blocks(content)),
            Message::Tool { call_id, content, is_error } => {
                ("user", vec![result(call_id, content, *is_error)])
            }
            Message::Assistant { content, tool_calls, reasoning } => {
                ("assistant", said(content.as_ref(), tool_calls, reasoning, provider))
            }
        };
        match out.last_mut() {
            Some((last, inner)) if *last == role => inner.extend(blocks),
            // A message of the model that has nothing to send would be refused.
            Some(_) | None if blocks.is_empty() && role == "assistant" => {}
            Some(_) | None => out.push((role, blocks)),
        }
    }
    out.into_iter().map(|(role, blocks)| json!({"role": role, "content": plain(blocks)})).collect()
}

/// A single text, or nothing, as a plain string.
fn plain(blocks: Vec<Value>) -> Value {
    match blocks.as_slice() {
        [] => Value::from(""),
        [only] if only["type"] == "text" => only["text"].clone(),
        _ => Value::Array(blocks),
    }
}

/// Blocks of a content; a text without characters is none, it would be refused.
fn blocks(content: &Content) -> Vec<Value> {
    let text = |text: &str| (!text.is_empty()).then(|| json!({"type": "text", "text": text}));
    match content {
        Content::Text(said) => text(said).into_iter().collect(),
        Content::Parts(parts) => parts
            .iter()
            .filter_map(|part| match part {
                Part::Text { text: said } => text(said),
                Part::Image { url, media_type, data } => {
                    let source = source(url.as_deref(), media_type.as_deref(), data.as_deref());
                    Some(json!({"type": "image", "source": source}))
                }
                Part::Reasoning { .. } => None,
            })
            .collect(),
    }
}

/// A picture by its address, or by its bytes, also where these stand in a `data:` address.
fn source(url: Option<&str>, media_type: Option<&str>, data: Option<&str>) -> Value {
    let inline =
        |kind: &str, data: &str| json!({"type": "base64", "media_type": kind, "data": data});
    match url {
        Some(url) => match url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
            Some((kind, data)) => inline(kind, data),
            None => json!({"type": "url", "url": url}),
        },
        None => inline(media_type.unwrap_or("image/png"), data.unwrap_or_default()),
    }
}

fn result(call_id: &str, content: &Content, is_error: bool) -> Value {
    let mut block = json!({
        "type": "tool_result",
        "tool_use_id": call_id,
        "content": plain(blocks(content)),
    });
    if is_error {
        block["is_error"] = Value::Bool(true);
    }
    block
}

/// What the model said: its own thinking first, then text, then calls.
fn said(
    content: Option<&Content>,
    tool_calls: &[ToolCall],
    reasoning: &[Part],
    provider: &str,
) -> Vec<Value> {
    let inner = match content {
        Some(Content::Parts(parts)) => parts.as_slice(),
        Some(Content::Text(_)) | None => &[],
    };
    let thoughts = reasoning.iter().chain(inner).filter_map(|part| thinking(part, provider));
    let text = content.map(blocks).unwrap_or_default();
    thoughts.chain(text).chain(tool_calls.iter().map(|one| call(one, provider))).collect()
}

/// A stretch of reasoning that this provider signed; any other would be refused.
fn thinking(part: &Part, provider: &str) -> Option<Value> {
    let Part::Reasoning { text, provider_metadata } = part else { return None };
    let own = own_fields(provider_metadata.as_ref(), provider)?;
    if let Some(data) = own.get("redacted_thinking") {
        return Some(json!({"type": "redacted_thinking", "data": data}));
    }
    let signature = own.get("signature")?;
    let text = text.as_deref().unwrap_or_default();
    Some(json!({"type": "thinking", "thinking": text, "signature": signature}))
}

/// A call of the history. Its input is always an object, whatever the model wrote.
fn call(call: &ToolCall, provider: &str) -> Value {
    let input = match &call.arguments {
        Value::String(broken) => json!({ "invalid_json": broken }),
        object => object.clone(),
    };
    let mut block =
        json!({"type": "tool_use", "id": call.call_id, "name": call.tool_name, "input": input});
    if let Some(Value::Object(fields)) = own_fields(call.provider_metadata.as_ref(), provider) {
        for (field, value) in fields {
            block[field] = value.clone();
        }
    }
    block
}

#[cfg(test)]
mod tests;
