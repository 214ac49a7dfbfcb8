//! What people, models and tools say to each other: the messages of a conversation.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One message of a conversation. There is no `system` role: that is the agent's `instructions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase", deny_unknown_fields)]
pub enum Message {
    /// What a person (or whoever uses the agent) said.
    User {
        /// Text, or parts.
        content: Content,
    },
    /// What the model said.
    Assistant {
        /// Text, or parts (reasoning among them); absent or null when it only called tools.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<Content>,
        /// The tools it asked for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<ToolCall>,
        /// Its visible reasoning, in parts of kind `reasoning`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reasoning: Vec<Part>,
    },
    /// What a tool answered.
    Tool {
        /// The call that is answered.
        call_id: String,
        /// Text, or parts.
        content: Content,
        /// Whether the answer says what went wrong.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
}

/// The content of a message: plain text, or a list of parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts, in order.
    Parts(Vec<Part>),
}

impl Content {
    /// Whether it says exactly the same: the same text, however it is cut into parts, or (where
    /// there is more than text) the same parts.
    pub fn is_same(&self, other: &Content) -> bool {
        self == other
            || (self.is_text_only() && other.is_text_only() && self.text() == other.text())
    }

    fn is_text_only(&self) -> bool {
        match self {
            Content::Text(_) => true,
            Content::Parts(parts) => parts.iter().all(|part| matches!(part, Part::Text { .. })),
        }
    }

    /// All its text, parts joined without anything between them.
    pub fn text(&self) -> String {
        match self {
            Content::Text(text) => text.clone(),
            Content::Parts(parts) => parts
                .iter()
                .filter_map(|part| match part {
                    Part::Text { text } => Some(text.as_str()),
                    Part::Image { .. } | Part::Reasoning { .. } => None,
                })
                .collect(),
        }
    }
}

/// One part of a message's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Part {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// A picture: by `url`, or by `media_type` and base-64 `data`.
    Image {
        /// Where the provider may fetch it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        url: Option<String>,
        /// Its media type, such as `image/png`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        media_type: Option<String>,
        /// Its bytes, base 64.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<String>,
    },
    /// What the model let us see of its reasoning.
    Reasoning {
        /// The visible text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// What the provider wants back as it was; it goes to that provider only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider_metadata: Option<Value>,
    },
}

/// A tool that the model asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// Which call this is, within the conversation.
    pub call_id: String,
    /// The tool's name.
    pub tool_name: String,
    /// An object; a string where the model's arguments were no JSON object.
    pub arguments: Value,
    /// What the provider wants back with the call, as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_metadata: Option<Value>,
}
