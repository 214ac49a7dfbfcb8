//! What a model is asked: the request as the core makes it, before any provider's dialect.

use serde::Serialize;
use serde_json::Value;

use super::message::{Message, Part};
use super::spec::ModelSettings;

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
            if let Message::Assistant { tool_calls, reasoning, .. } = message {
                for call in tool_calls {
                    call.provider_metadata = None;
                }
                for part in reasoning {
                    if let Part::Reasoning { provider_metadata, .. } = part {
                        *provider_metadata = None;
                    }
                }
            }
        }
        // serde_json's maps are sorted by key, so going through a value sorts every level.
        serde_json::to_value(&plain).expect("a request is plain data").to_string()
    }
}
