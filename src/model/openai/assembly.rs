//! Puts a reply together from the chunks of a stream, as real servers send them. Pure.

use std::mem;

use serde_json::{Map, Value, json};

use crate::model::reading::{Assemble, is_said, name, text};
use crate::model::{Delta, Failure, ProposedCall, REPLY_BYTES_MAX, Reply, failure};
use crate::run::event::{AbortReason, FinishReason, Usage};

/// The most calls of one reply that are kept; a run takes fewer.
const CALLS_MAX: usize = 512;

/// A reply, so far.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    provider: String,
    calls: Vec<Building>,
    finish: Option<(FinishReason, String)>,
    usage: Usage,
    model: String,
    chunk_id: Option<String>,
    size: usize,
    /// The field in which reasoning comes, while a stretch of it is open.
    reasoning_field: Option<&'static str>,
    reasoning_details: Vec<Value>,
}

/// A call, so far.
#[derive(Debug, Default)]
struct Building {
    index: Option<u64>,
    id: Option<String>,
    name: Option<String>,
    arguments: String,
    fields: Map<String, Value>,
}

impl Assembly {
    pub(super) fn new(provider: &str) -> Assembly {
        Assembly { provider: provider.to_owned(), ..Assembly::default() }
    }
}

impl Assemble for Assembly {
    /// The terminal reason; the usage may follow it.
    fn is_whole(&self) -> bool {
        self.finish.is_some()
    }

    /// Only `[DONE]`, or the end of the body, is behind the usage.
    fn is_over(&self) -> bool {
        false
    }

    /// Takes one chunk in (or, with `message` for `delta`, a whole answer).
    fn take(&mut self, _name: Option<&str>, chunk: &Value) -> Result<Vec<Delta>, Failure> {
        let mut deltas = Vec::new();
        if let Some(error) = chunk.get("error").filter(|error| is_said(error)) {
            return if self.is_whole() { Ok(deltas) } else { Err(failure::in_stream(error)) };
        }
        self.take_usage(chunk);
        if self.model.is_empty() {
            self.model = name(chunk.get("model")).unwrap_or_default();
        }
        self.chunk_id = self.chunk_id.take().or_else(|| name(chunk.get("id")));
        let choices = chunk.get("choices").and_then(Value::as_array).into_iter().flatten();
        for choice in
            choices.filter(|one| one.get("index").and_then(Value::as_u64).unwrap_or(0) == 0)
        {
            if self.is_whole() {
                break;
            }
            let message = ["delta", "message"].iter().find_map(|name| choice.get(name));
            if let Some(message) = message {
                self.take_reasoning(message, &mut deltas);
                self.take_text(message, &mut deltas);
                self.take_calls(message);
            }
            if self.size > REPLY_BYTES_MAX || self.calls.len() > CALLS_MAX {
                return Err(failure::too_large());
            }
            if let Some(raw) = name(choice.get("finish_reason")) {
                self.finish(raw, &mut deltas)?;
            }
        }
        Ok(deltas)
    }

    fn end(self, request_id: Option<String>) -> Result<Reply, Failure> {
        let Some((finish_reason, finish_reason_raw)) = self.finish else {
            let words = "the stream ended before the provider had ended the message";
            let usage = (self.usage != Usage::default()).then_some(self.usage);
            return Err(Failure { usage, ..failure::transport(AbortReason::Cut, words) });
        };
        let calls = if finish_reason == FinishReason::ToolCalls {
            let provider = &self.provider;
            self.calls.into_iter().map(|call| call.proposed(provider)).collect()
        } else {
            Vec::new()
        };
        Ok(Reply {
            finish_reason,
            finish_reason_raw,
            calls,
            usage: self.usage,
            model: self.model,
            provider_request_id: request_id.or(self.chunk_id),
        })
    }

    fn usage(&self) -> Option<Usage> {
        (self.usage != Usage::default()).then(|| self.usage.clone())
    }
}

impl Assembly {
    fn finish(&mut self, raw: String, deltas: &mut Vec<Delta>) -> Result<(), Failure> {
        if let Some(failure) = failure::of_finish_reason(&raw) {
            return Err(failure);
        }
        let reason = match raw.as_str() {
            "stop" | "tool_calls" | "function_call" | "stop_sequence" | "eos_token" => {
                if self.calls.is_empty() { FinishReason::Stop } else { FinishReason::ToolCalls }
            }
            "length" => FinishReason::Length,
            "content_filter" => FinishReason::ContentFilter,
            _ => FinishReason::Other,
        };
        self.end_reasoning(deltas);
        if !self.reasoning_details.is_empty() {
            let details = mem::take(&mut self.reasoning_details);
            deltas.push(self.opaque(json!({ "reasoning_details": details })));
        }
        self.finish = Some((reason, raw));
        Ok(())
    }

    fn take_text(&mut self, message: &Value, deltas: &mut Vec<Delta>) {
        let said = match message.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => parts
                .iter()
                .filter(|part| part.get("type").and_then(Value::as_str) != Some("thinking"))
                .filter_map(|part| part.get("text").and_then(Value::as_str))
                .collect(),
            Some(_) | None => String::new(),
        };
        let said = if said.is_empty() {
            message.get("refusal").and_then(Value::as_str).unwrap_or_default().to_owned()
        } else {
            said
        };
        if !said.is_empty() {
            self.end_reasoning(deltas);
            self.size += said.len();
            deltas.push(Delta::Text(said));
        }
    }

    fn take_reasoning(&mut self, message: &Value, deltas: &mut Vec<Delta>) {
        if let Some(Value::Array(details)) = message.get("reasoning_details") {
            self.size += details.iter().map(|one| one.to_string().len()).sum::<usize>();
            self.reasoning_details.extend(details.iter().cloned());
        }
        let named = ["reasoning", "reasoning_content"]
            .into_iter()
            .find_map(|field| Some((field, text(message.get(field))?)));
        let Some((field, thought)) = named.or_else(|| Some(("thinking", thinking(message)?)))
        else {
            return;
        };
        self.size += thought.len();
        self.reasoning_field = Some(field);
        deltas.push(Delta::Reasoning { text: thought, provider_metadata: None });
    }

    /// A stretch of reasoning ends: it is told where its text came from, so that it can go back.
    fn end_reasoning(&mut self, deltas: &mut Vec<Delta>) {
        if let Some(field) = self.reasoning_field.take().filter(|field| *field != "thinking") {
            deltas.push(self.opaque(json!({ "text_field": field })));
        }
    }

    fn opaque(&self, fields: Value) -> Delta {
        let metadata = json!({"provider": self.provider, "fields": fields});
        Delta::Reasoning { text: String::new(), provider_metadata: Some(metadata) }
    }

    fn take_calls(&mut self, message: &Value) {
        let pieces = message.get("tool_calls").and_then(Value::as_array);
        for piece in pieces.into_iter().flatten().filter_map(Value::as_object) {
            let index = piece.get("index").and_then(Value::as_u64);
            let id = name(piece.get("id"));
            let function = piece.get("function");
            let name = text(function.and_then(|one| one.get("name")));
            let arguments = match function.and_then(|function| function.get("arguments")) {
                Some(Value::String(text)) => text.clone(),
                Some(object @ Value::Object(_)) => object.to_string(),
                Some(_) | None => String::new(),
            };
            self.size += arguments.len() + name.as_ref().map_or(0, String::len);
            let place = self.place_of(index, id.as_deref(), name.as_deref(), &arguments);
            let call = &mut self.calls[place];
            call.id = id.or(call.id.take());
            call.name = name.or(call.name.take());
            call.arguments.push_str(&arguments);
            let known = ["index", "id", "type", "function"];
            for (field, value) in piece.iter().filter(|(field, _)| !known.contains(&field.as_str()))
            {
                self.size += value.to_string().len();
                call.fields.insert(field.clone(), value.clone());
            }
        }
    }

    /// Which call a piece belongs to; a new one where it belongs to none.
    fn place_of(
        &mut self,
        index: Option<u64>,
        id: Option<&str>,
        name: Option<&str>,
        arguments: &str,
    ) -> usize {
        let same_index = |call: &Building| match index {
            Some(_) => call.index == index,
            None => true,
        };
        let found = self.calls.iter().rposition(same_index);
        if let Some(place) = found {
            let call = &self.calls[place];
            let other_id = matches!((&call.id, id), (Some(known), Some(new)) if known != new);
            // Looked at last, and only where they end like an object: there are many pieces.
            let is_whole = || {
                call.arguments.trim_end().ends_with('}')
                    && serde_json::from_str::<Map<String, Value>>(&call.arguments).is_ok()
            };
            let other_name = matches!((&call.name, name), (Some(known), Some(new)) if known != new);
            let begins_anew =
                name.is_some() && (other_name || !arguments.trim().is_empty()) && is_whole();
            if !other_id && !begins_anew {
                return place;
            }
        }
        self.calls.push(Building { index, ..Building::default() });
        self.calls.len() - 1
    }

    /// The last figures that are known and not 0, each by itself: chunks are never added up.
    fn take_usage(&mut self, chunk: &Value) {
        let usage = [chunk.get("usage"), chunk.pointer("/x_groq/usage")]
            .into_iter()
            .flatten()
            .find(|usage| usage.is_object());
        let Some(usage) = usage else { return };
        let last = |known: &mut Option<u64>, pointers: &[&str]| {
            let said = pointers.iter().find_map(|place| usage.pointer(place)?.as_u64());
            match said {
                Some(0) => *known = known.or(Some(0)),
                Some(tokens) => *known = Some(tokens),
                None => {}
            }
        };
        last(&mut self.usage.input_tokens, &["/prompt_tokens", "/input_tokens"]);
        last(&mut self.usage.output_tokens, &["/completion_tokens", "/output_tokens"]);
        last(&mut self.usage.cached_input_tokens, &["/prompt_tokens_details/cached_tokens"]);
        last(&mut self.usage.reasoning_tokens, &["/completion_tokens_details/reasoning_tokens"]);
        last(&mut self.usage.total_tokens, &["/total_tokens"]);
        if let (Some(input), Some(output)) = (self.usage.input_tokens, self.usage.output_tokens) {
            self.usage.total_tokens = Some(input.saturating_add(output));
        }
    }
}

impl Building {
    fn proposed(self, provider: &str) -> ProposedCall {
        let has_fields = !self.fields.is_empty();
        ProposedCall {
            provider_call_id: self.id,
            tool_name: self.name.unwrap_or_default(),
            arguments_raw: self.arguments,
            provider_metadata: has_fields
                .then(|| json!({"provider": provider, "fields": self.fields})),
        }
    }
}

/// The reasoning of a content that is a list of parts.
fn thinking(message: &Value) -> Option<String> {
    let parts = message.get("content")?.as_array()?;
    let mut thought = String::new();
    for part in parts {
        match part.get("thinking") {
            Some(Value::String(text)) => thought.push_str(text),
            Some(Value::Array(inner)) => {
                thought.extend(inner.iter().filter_map(|one| one.get("text")?.as_str()));
            }
            Some(_) | None => {}
        }
    }
    (!thought.is_empty()).then_some(thought)
}

#[cfg(test)]
mod tests;
