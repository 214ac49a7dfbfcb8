//! What was asked for: the agent, its input and the limits, agreed once and never changed.
//!
//! A spec is parsed at the edge ([`Spec::parse`]) and trusted everywhere else. Its serialised form
//! is itself a valid body for `POST /runs`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::catalog::{Builtin, Catalog};
use super::event::{Effect, Executor};
use super::message::{Content, Message};
use super::{limits, template};

mod change;
mod check;
mod form;
mod read;
mod tools;

pub use change::Change;

/// One thing that is wrong with a request, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON pointer into the body.
    pub pointer: String,
    /// What is wrong, and what would be right.
    pub detail: String,
    /// The code that clients branch on.
    pub code: Code,
}

/// What kind of mistake it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the codes of the API")]
pub enum Code {
    InvalidRequest,
    UnknownModel,
    UnknownAgent,
    UnknownPrice,
    SecretNotAllowed,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pointer, self.detail)
    }
}

/// A run as it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Who runs.
    pub agent: Agent,
    /// What it is asked; follows the history.
    pub input: Content,
    /// The conversation before.
    #[serde(default)]
    pub history: Vec<Message>,
    /// What instructions and tools may read.
    #[serde(default)]
    pub variables: Map<String, Value>,
    /// Limits and labels.
    #[serde(default)]
    pub config: Config,
}

/// An agent, whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// What it is told: a template over the run's variables.
    #[serde(default)]
    pub instructions: Option<String>,
    /// The model and its fallbacks, `provider/name` each; filled in when the spec is parsed.
    #[serde(default)]
    pub model: Models,
    /// Temperature and the like.
    #[serde(default)]
    pub model_settings: ModelSettings,
    /// What it may call.
    #[serde(default)]
    pub tools: Vec<Tool>,
    /// The JSON Schema that its answer must fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
}

/// A model, or a model and its fallbacks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Models(pub Vec<String>);

impl Serialize for Models {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [only] => serializer.serialize_str(only),
            several => serializer.collect_seq(several),
        }
    }
}

impl<'de> Deserialize<'de> for Models {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = || D::Error::custom("must be `provider/name`, or a list of such names");
        match Option::<Value>::deserialize(deserializer)? {
            None => Ok(Models::default()),
            Some(Value::String(one)) => Ok(Models(vec![one])),
            Some(Value::Array(several)) => several
                .into_iter()
                .map(|name| name.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect::<Result<_, _>>()
                .map(Models),
            Some(_) => Err(wrong()),
        }
    }
}

/// What is passed to the model beside the messages. What is not set is not sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names are the providers'")]
pub struct ModelSettings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// `auto`, `none`, `required`, or `{"name": TOOL}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
    /// Passed to the provider as it is.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
}

/// A tool that the agent may call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// How it runs.
    #[serde(rename = "type")]
    pub kind: ToolKind,
    /// 1–64 of `[A-Za-z0-9_-]`.
    pub name: String,
    /// What it is for; a built-in tool has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON Schema of its arguments; a built-in tool has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
    /// What it does to the world; a built-in tool has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// Seconds that one call may take, all its tries together.
    #[serde(default = "default_tool_timeout")]
    pub timeout: f64,
    /// Where a tool over HTTP is: `http` or `https`. No other tool has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What is sent along to a tool over HTTP; values may name secrets, as `${secret:NAME}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// How a tool runs. `client`, `mcp` and `agent` are refused by name until they are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolKind {
    /// In this process.
    Builtin,
    /// Somewhere else: it is sent a POST.
    Http,
}

impl ToolKind {
    /// Who runs it, as the log says it.
    pub fn executor(self) -> Executor {
        match self {
            ToolKind::Builtin | ToolKind::Http => Executor::Server,
        }
    }
}

impl Tool {
    /// The built-in tool that it is, if it is one.
    pub fn builtin<'a>(&self, catalog: &'a Catalog) -> Option<&'a Builtin> {
        match self.kind {
            ToolKind::Builtin => catalog.builtin(&self.name),
            ToolKind::Http => None,
        }
    }

    /// What it does to the world; where nobody says, the same key twice is taken to do the same as
    /// once.
    pub fn effect(&self, catalog: &Catalog) -> Effect {
        let own = self.builtin(catalog).map(|builtin| builtin.effect);
        self.effect.or(own).unwrap_or(Effect::Idempotent)
    }
}

fn default_tool_timeout() -> f64 {
    30.0
}

/// Limits and labels of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// An id chosen by the client. It names the run and is no part of what is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// How many turns the run may take.
    pub max_turns: u32,
    /// Seconds from the first start.
    pub max_time: f64,
    /// Seconds of one turn.
    pub timeout_per_turn: f64,
    /// Whether a tool's error ends the run.
    pub stop_on_tool_error: bool,
    /// Whether the log has `log` events.
    pub verbose: bool,
    /// Whether spans are recorded.
    pub trace_enabled: bool,
    /// Labels.
    pub metadata: Map<String, Value>,
    /// Tokens in all, void attempts included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_total_tokens: Option<u64>,
    /// Money in all, void attempts included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost_usd: Option<f64>,
    /// Tool calls in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tool_calls: Option<u32>,
    /// What happens at a limit that is no time limit.
    pub on_limit: OnLimit,
}

/// What happens when turns, tokens, money or tool calls are used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLimit {
    /// The run fails; what there is of a result is kept.
    #[default]
    Fail,
    /// One last turn without tools; the run completes with the limit as its stop reason.
    Finalize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            run_id: None,
            max_turns: 10,
            max_time: 300.0,
            timeout_per_turn: 60.0,
            stop_on_tool_error: false,
            verbose: false,
            trace_enabled: true,
            metadata: Map::new(),
            max_total_tokens: None,
            max_cost_usd: None,
            max_tool_calls: None,
            on_limit: OnLimit::Fail,
        }
    }
}

impl Spec {
    /// Parses and checks a request's body against what this installation offers. The agent's model
    /// and its tools' descriptions are filled in; `config.run_id` stays for the caller to take.
    ///
    /// # Errors
    /// Everything that is wrong with it, at least one violation.
    pub fn parse(body: &Value, catalog: &Catalog) -> Result<Spec, Vec<Violation>> {
        let (parts, mut found) = read::read(body);
        check::rules(&parts, catalog, &mut found);
        let read::Parts { agent, input, history, variables, config } = parts;
        match (agent, input, history, variables, config) {
            (Some(mut agent), Some(input), Some(history), Some(variables), Some(config))
                if found.is_empty() =>
            {
                if agent.model.0.is_empty() {
                    agent.model.0.push(catalog.default_model.clone());
                }
                Ok(Spec { agent, input, history, variables, config })
            }
            _ => Err(found),
        }
    }

    /// The messages before the model's first: the history, then the input, which counts once where
    /// the history already ends with the same words of the user.
    pub fn opening(&self) -> Vec<Message> {
        let mut messages = self.history.clone();
        let doubled = match messages.last() {
            Some(Message::User { content }) => content.is_same(&self.input),
            Some(Message::Assistant { .. } | Message::Tool { .. }) | None => false,
        };
        if !doubled {
            messages.push(Message::User { content: self.input.clone() });
        }
        messages
    }

    /// The instructions with the variables put in; where they can't be rendered they stay as
    /// they are written.
    pub fn instructions(&self, variables: &Map<String, Value>) -> Option<String> {
        let text = self.agent.instructions.as_ref()?;
        Some(template::render(text, variables).unwrap_or_else(|_unrendered| text.clone()))
    }

    /// The model that is asked first.
    pub fn model(&self) -> &str {
        self.agent.model.0.first().map_or("", String::as_str)
    }

    /// The tool of this name.
    pub fn tool(&self, name: &str) -> Option<&Tool> {
        self.agent.tools.iter().find(|tool| tool.name == name)
    }
}

/// The first characters of a text, white space as single spaces.
pub fn preview(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        if out.len() > limits::PREVIEW_CHARS * 4 {
            break;
        }
    }
    // PostgreSQL takes no NUL in a text.
    let shown = out.chars().map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c });
    shown.take(limits::PREVIEW_CHARS).collect()
}

#[cfg(test)]
mod tests;
