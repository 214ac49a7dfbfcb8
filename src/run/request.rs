//! What a model is asked: the request as the core makes it, before any provider's dialect.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::catalog::Catalog;
use super::message::{Content, Message, Part};
use super::spec::{ModelSettings, Spec, Tool};
use super::state::State;

/// A request to a model. Call ids in `messages` are numbered anew by their place (`call_1`,
/// `call_2`, …): short, equal over runs, never repeated in one history.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Request {
    /// The agent's instructions, rendered; the system message of most dialects.
    pub instructions: Option<String>,
    /// The conversation so far. It ends with a user's or a tool's message.
    pub messages: Vec<Message>,
    /// The tools on offer; empty where none may be called.
    pub tools: Vec<ToolOffer>,
    /// Temperature and the like.
    pub settings: ModelSettings,
    /// The JSON Schema that the answer must fit.
    pub output_schema: Option<Value>,
}

/// A tool as a model sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToolOffer {
    /// 1–64 of `[A-Za-z0-9_-]`.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// JSON Schema of its arguments.
    pub parameters: Value,
}

impl Request {
    /// The request as JSON with sorted keys and without opaque provider data: equal texts mean that
    /// the model was asked the same. `request_sha256` is the digest of this.
    pub fn canonical_json(&self) -> String {
        let mut plain = self.clone();
        for message in &mut plain.messages {
            let Message::Assistant { content, tool_calls, reasoning } = message else { continue };
            for call in tool_calls {
                call.provider_metadata = None;
            }
            let inner = match content {
                Some(Content::Parts(parts)) => parts.as_mut_slice(),
                Some(Content::Text(_)) | None => &mut [],
            };
            for part in reasoning.iter_mut().chain(inner) {
                if let Part::Reasoning { provider_metadata, .. } = part {
                    *provider_metadata = None;
                }
            }
        }
        // serde_json's maps are sorted by key, so going through a value sorts every level.
        serde_json::to_value(&plain).expect("a request is plain data").to_string()
    }
}

/// The request of the next model call.
pub fn request(spec: &Spec, state: &State, catalog: &Catalog, with_tools: bool) -> Request {
    let mut messages = state.history(spec);
    renumber(&mut messages);
    let tools = if with_tools { spec.agent.tools.as_slice() } else { &[] };
    let mut settings = spec.agent.model_settings.clone();
    if tools.is_empty() {
        settings.tool_choice = None;
    }
    Request {
        instructions: spec.instructions(&state.variables(spec)),
        messages,
        tools: tools.iter().map(|tool| offer(tool, catalog)).collect(),
        settings,
        output_schema: spec.agent.output_schema.clone(),
    }
}

fn offer(tool: &Tool, catalog: &Catalog) -> ToolOffer {
    let builtin = tool.builtin(catalog);
    let description = || builtin.map(|one| one.description.clone());
    let parameters = || builtin.map(|one| one.parameters.clone());
    ToolOffer {
        name: tool.name.clone(),
        description: tool.description.clone().or_else(description),
        parameters: tool
            .parameters
            .clone()
            .or_else(parameters)
            .unwrap_or_else(|| json!({"type": "object"})),
    }
}

/// Numbers call ids anew by their place: providers refuse ids that are long or come twice.
fn renumber(messages: &mut [Message]) {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut count = 0;
    for message in messages {
        match message {
            Message::Assistant { tool_calls, .. } => {
                for call in tool_calls {
                    count += 1;
                    let name = format!("call_{count}");
                    names.insert(std::mem::replace(&mut call.call_id, name.clone()), name);
                }
            }
            Message::Tool { call_id, .. } => {
                if let Some(name) = names.get(call_id) {
                    call_id.clone_from(name);
                }
            }
            Message::User { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::event::OutputPart;
    use crate::run::notation::{catalog, log, run_id, spec};

    #[test]
    fn call_ids_are_numbered_anew_in_a_request() {
        let log = log("started; called 1 a b; returned b; returned a; called 2 a; failed a");
        let mut spec = spec(&json!({}));
        spec.history = serde_json::from_value(json!([
            {"role": "assistant", "tool_calls":
                [{"call_id": "call_2", "tool_name": "a", "arguments": {}}]},
            {"role": "tool", "call_id": "call_2", "content": "x"},
        ]))
        .expect("messages");
        let mut ids = Vec::new();
        for message in &request(&spec, &log.state, &catalog(), true).messages {
            match message {
                Message::User { .. } => {}
                Message::Assistant { tool_calls, .. } => {
                    ids.extend(tool_calls.iter().map(|call| call.call_id.clone()));
                }
                Message::Tool { call_id, .. } => ids.push(format!("={call_id}")),
            }
        }
        let told = "call_1 =call_1 call_2 call_3 =call_2 =call_3 call_4 =call_4";
        assert_eq!(ids.join(" "), told);
        assert!(log.state.calls().all(|call| call.call_id.0.contains(&run_id().base62())));
    }

    #[test]
    fn equal_requests_have_equal_canonical_json() {
        let story = "started; asked; thought hm; said x; ended stop";
        let spec = spec(&json!({}));
        let plain = request(&spec, &log(story).state, &catalog(), true);
        let mut opaque = log(story);
        for part in &mut opaque.state.turns[0].parts {
            if let OutputPart::Reasoning { provider_metadata, .. } = part {
                *provider_metadata = Some(json!({"signature": "abc"}));
            }
        }
        let opaque = request(&spec, &opaque.state, &catalog(), true);
        assert_ne!(plain, opaque, "the provider gets its own data back");
        assert_eq!(plain.canonical_json(), opaque.canonical_json());
        let other = log("started; asked; thought ah; said x; ended stop");
        let other = request(&spec, &other.state, &catalog(), true);
        assert_ne!(plain.canonical_json(), other.canonical_json());
        assert_ne!(
            plain.canonical_json(),
            request(&spec, &log("").state, &catalog(), true).canonical_json()
        );
    }

    #[test]
    fn opaque_data_inside_a_content_is_no_part_of_the_digest_either() {
        let asked = |signature: &str| {
            let mut spec = spec(&json!({}));
            let reasoning = json!({"type": "reasoning", "text": "hm",
                               "provider_metadata": {"signature": signature}});
            spec.history =
                serde_json::from_value(json!([{"role": "assistant", "content": [reasoning]}]))
                    .expect("messages");
            request(&spec, &log("").state, &catalog(), true).canonical_json()
        };
        assert_eq!(asked("a"), asked("b"));
    }

    #[test]
    fn a_last_turn_is_offered_no_tools() {
        let mut spec = spec(&json!({}));
        spec.agent.tools =
            serde_json::from_value(json!([{"type": "builtin", "name": "calculator"}]))
                .expect("tools");
        spec.agent.model_settings.tool_choice = Some(json!("required"));
        let with = request(&spec, &log("").state, &catalog(), true);
        assert_eq!((with.tools.len(), with.settings.tool_choice), (1, Some(json!("required"))));
        let without = request(&spec, &log("").state, &catalog(), false);
        assert_eq!((without.tools.len(), without.settings.tool_choice), (0, None));
    }
}
