//! A request as Chat Completions wants it: few fields, none that was not set.

use serde_json::{Map, Value, json};

use super::Settings;
use crate::model::own_fields;
use crate::run::message::{Content, Message, Part, ToolCall};
use crate::run::request::{Request, ToolOffer};

/// The body of `POST /chat/completions`, streamed.
pub(super) fn body(request: &Request, provider: &str, server: Settings, model: &str) -> Value {
    let settings = &request.settings;
    let mut body = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    set("temperature", settings.temperature.map(Value::from));
    set("top_p", settings.top_p.map(Value::from));
    set("stop", (!settings.stop.is_empty()).then(|| json!(settings.stop)));
    set(server.output_limit_field, settings.max_output_tokens.map(Value::from));
    set("reasoning_effort", settings.reasoning_effort.as_deref().map(Value::from));
    set("response_format", request.output_schema.as_ref().map(response_format));
    set("stream_options", server.has_stream_usage.then(|| json!({"include_usage": true})));
    for (name, value) in &settings.extra {
        set(name, Some(value.clone()));
    }
    set("model", Some(Value::from(model)));
    set("stream", Some(Value::Bool(true)));
    set("messages", Some(messages(request, provider)));
    if !request.tools.is_empty() {
        set("tools", Some(request.tools.iter().map(tool).collect()));
        set("tool_choice", settings.tool_choice.as_ref().map(tool_choice));
    }
    Value::Object(body)
}

fn response_format(schema: &Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "output", "schema": schema}})
}

fn tool(offer: &ToolOffer) -> Value {
    let mut function = json!({"name": offer.name, "parameters": offer.parameters});
    if let Some(description) = &offer.description {
        function["description"] = Value::from(description.as_str());
    }
    json!({"type": "function", "function": function})
}

fn tool_choice(choice: &Value) -> Value {
    match choice.get("name") {
        Some(name) => json!({"type": "function", "function": {"name": name}}),
        None => choice.clone(),
    }
}

fn messages(request: &Request, provider: &str) -> Value {
    let system = request.instructions.iter().map(|text| json!({"role": "system", "content": text}));
    system.chain(request.messages.iter().map(|message| one(message, provider))).collect()
}

fn one(message: &Message, provider: &str) -> Value {
    match message {
        Message::User { content: said } => json!({"role": "user", "content": content(said)}),
        Message::Tool { call_id, content, is_error: _ } => {
            json!({"role": "tool", "tool_call_id": id(call_id), "content": content.text()})
        }
        Message::Assistant { content, tool_calls, reasoning } => {
            let text = content.as_ref().map(Content::text).unwrap_or_default();
            let mut message = json!({"role": "assistant", "content": text});
            if !tool_calls.is_empty() {
                message["tool_calls"] = tool_calls.iter().map(|one| call(one, provider)).collect();
                for (field, value) in reasoning_fields(reasoning, provider) {
                    message[field] = value;
                }
            }
            message
        }
    }
}

/// Text as a plain string wherever it is only text: not every server takes parts.
fn content(content: &Content) -> Value {
    match content {
        Content::Text(text) => Value::from(text.as_str()),
        Content::Parts(parts) if parts.iter().all(|part| matches!(part, Part::Text { .. })) => {
            Value::from(content.text())
        }
        Content::Parts(parts) => parts
            .iter()
            .filter_map(|part| match part {
                Part::Text { text } => Some(json!({"type": "text", "text": text})),
                Part::Image { url, media_type, data } => {
                    let inline = || {
                        let kind = media_type.as_deref().unwrap_or("image/png");
                        format!("data:{kind};base64,{}", data.as_deref().unwrap_or_default())
                    };
                    let url = url.clone().unwrap_or_else(inline);
                    Some(json!({"type": "image_url", "image_url": {"url": url}}))
                }
                Part::Reasoning { .. } => None,
            })
            .collect(),
    }
}

/// A call of the history. Its arguments are always valid JSON, whatever the model wrote: several
/// servers answer 500 to anything else.
fn call(call: &ToolCall, provider: &str) -> Value {
    let arguments = match &call.arguments {
        Value::String(broken) => json!({ "invalid_json": broken }).to_string(),
        object => object.to_string(),
    };
    let mut out = json!({
        "id": id(&call.call_id),
        "type": "function",
        "function": {"name": call.tool_name, "arguments": arguments},
    });
    if let Some(Value::Object(fields)) = own_fields(call.provider_metadata.as_ref(), provider) {
        for (field, value) in fields {
            out[field] = value.clone();
        }
    }
    out
}

/// An id of the form that every server takes: Mistral's wants exactly 9 letters or digits.
fn id(call_id: &str) -> String {
    match call_id.strip_prefix("call_").and_then(|number| number.parse::<u32>().ok()) {
        Some(number) => format!("call{number:05}"),
        None => call_id.to_owned(),
    }
}

/// What this provider wants back of the model's reasoning, by field.
fn reasoning_fields(reasoning: &[Part], provider: &str) -> Map<String, Value> {
    let mut fields: Map<String, Value> = Map::new();
    for part in reasoning {
        let Part::Reasoning { text, provider_metadata } = part else { continue };
        let Some(own) = own_fields(provider_metadata.as_ref(), provider) else { continue };
        if let (Some(name), Some(text)) = (own.get("text_field").and_then(Value::as_str), text) {
            let before = fields.get(name).and_then(Value::as_str).unwrap_or_default();
            fields.insert(name.to_owned(), Value::from(format!("{before}{text}")));
        }
        if let Some(details) = own.get("reasoning_details") {
            fields.insert("reasoning_details".to_owned(), details.clone());
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::spec::ModelSettings;

    const SERVER: Settings = Settings { output_limit_field: "max_tokens", has_stream_usage: true };

    fn request(messages: Value) -> Request {
        Request {
            instructions: None,
            messages: serde_json::from_value(messages).expect("messages"),
            tools: Vec::new(),
            settings: ModelSettings::default(),
            output_schema: None,
        }
    }

    #[test]
    fn rule_20_what_was_not_set_is_not_sent() {
        let asked = request(json!([{"role": "user", "content": "hi"}]));
        let expected = json!({
            "model": "m",
            "stream": true,
            "stream_options": {"include_usage": true},
            "messages": [{"role": "user", "content": "hi"}],
        });
        assert_eq!(body(&asked, "stub", SERVER, "m"), expected);
    }

    #[test]
    fn everything_that_was_set_is_sent() {
        let mut asked = request(json!([{"role": "user", "content": [
            {"type": "text", "text": "look"}, {"type": "image", "media_type": "image/png", "data": "AA=="},
        ]}]));
        asked.instructions = Some("be brief".to_owned());
        asked.tools = vec![ToolOffer {
            name: "t".to_owned(),
            description: None,
            parameters: json!({"type": "object"}),
        }];
        asked.settings = serde_json::from_value(json!({
            "temperature": 0.5, "top_p": 1.0, "stop": ["x"], "max_output_tokens": 9,
            "tool_choice": {"name": "t"}, "reasoning_effort": "low", "extra": {"seed": 1},
        }))
        .expect("settings");
        asked.output_schema = Some(json!({"type": "object"}));
        let sent = body(&asked, "stub", SERVER, "m");
        assert_eq!(sent["messages"][0], json!({"role": "system", "content": "be brief"}));
        assert_eq!(
            sent["messages"][1]["content"][1]["image_url"]["url"],
            "data:image/png;base64,AA=="
        );
        assert_eq!(
            sent["tools"][0]["function"],
            json!({"name": "t", "parameters": {"type": "object"}})
        );
        assert_eq!(sent["tool_choice"], json!({"type": "function", "function": {"name": "t"}}));
        assert_eq!((&sent["max_tokens"], &sent["seed"]), (&json!(9), &json!(1)));
        assert_eq!(sent["response_format"]["json_schema"]["schema"], json!({"type": "object"}));
    }

    #[test]
    fn rules_9_11_and_21_a_history_is_written_as_every_server_takes_it() {
        let own = json!({"provider": "stub", "fields": {"extra_content": {"s": 1}}});
        let foreign = json!({"provider": "other", "fields": {"extra_content": {"s": 2}}});
        let thought = json!({"provider": "stub", "fields": {"text_field": "reasoning_content"}});
        let asked = request(json!([
            {"role": "user", "content": "hi"},
            {"role": "assistant", "reasoning": [
                {"type": "reasoning", "text": "hm", "provider_metadata": thought},
            ], "tool_calls": [
                {"call_id": "call_1", "tool_name": "t", "arguments": {"a": 1}, "provider_metadata": own},
                {"call_id": "call_2", "tool_name": "t", "arguments": "{\"a\":", "provider_metadata": foreign},
            ]},
            {"role": "tool", "call_id": "call_1", "content": ""},
            {"role": "tool", "call_id": "call_2", "content": "bad", "is_error": true},
        ]));
        let sent = body(&asked, "stub", SERVER, "m");
        let assistant = &sent["messages"][1];
        assert_eq!(assistant["content"], "");
        assert_eq!(assistant["reasoning_content"], "hm");
        assert_eq!(assistant["tool_calls"][0]["id"], "call00001", "as the answer says it");
        assert_eq!(assistant["tool_calls"][0]["extra_content"], json!({"s": 1}));
        assert_eq!(assistant["tool_calls"][0]["function"]["arguments"], "{\"a\":1}");
        assert_eq!(assistant["tool_calls"][1].get("extra_content"), None);
        assert_eq!(
            assistant["tool_calls"][1]["function"]["arguments"],
            "{\"invalid_json\":\"{\\\"a\\\":\"}"
        );
        let answer = json!({"role": "tool", "tool_call_id": "call00001", "content": ""});
        assert_eq!(sent["messages"][2], answer);
    }
}
