//! How we run a tool: check the arguments, call it, bound its answer.

mod builtin;
mod calculator;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::run::event::Outcome;
use crate::run::spec::ToolKind;
use crate::run::{Tool, catalog, limits};

/// How many mismatches of arguments a model is told at once: it mends them in one go, and a
/// malicious schema can't fill the log.
const MISMATCHES_MAX: usize = 5;

/// How a tool call ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What goes to the model: JSON, or a text.
    pub result: Value,
    /// Whether `result` says what went wrong.
    pub is_error: bool,
    /// How it ended, for the log.
    pub outcome: Outcome,
    /// The status, of tools over HTTP.
    pub http_status: Option<u16>,
    /// `Some(true)` where `result` had to be cut.
    pub truncated: Option<bool>,
}

impl Answer {
    fn ok(result: Value) -> Answer {
        let mut text = match &result {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let is_cut = text.len() > limits::TOOL_RESULT_BYTES;
        text.truncate(text.floor_char_boundary(limits::TOOL_RESULT_BYTES));
        Answer {
            result: if is_cut { Value::String(text) } else { result },
            is_error: false,
            outcome: Outcome::Ok,
            http_status: None,
            truncated: is_cut.then_some(true),
        }
    }

    /// A failure, in words for the model.
    pub fn failed(words: String, outcome: Outcome) -> Answer {
        let result = Value::String(words);
        Answer { result, is_error: true, outcome, http_status: None, truncated: None }
    }
}

/// The tools of this installation. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Toolbox {
    builtins: Arc<[catalog::Builtin]>,
}

impl Default for Toolbox {
    fn default() -> Toolbox {
        Toolbox::new()
    }
}

impl Toolbox {
    /// The built-in tools.
    pub fn new() -> Toolbox {
        Toolbox { builtins: builtin::all().into() }
    }

    /// What specs may name.
    pub fn builtins(&self) -> Vec<catalog::Builtin> {
        self.builtins.to_vec()
    }

    /// Checks arguments against the tool's schema.
    ///
    /// # Errors
    /// What does not fit and where, in words for the model.
    pub fn check(&self, tool: &Tool, arguments: &Value) -> Result<(), String> {
        let Some(schema) = self.schema(tool) else { return Ok(()) };
        let validator = jsonschema::validator_for(schema)
            .map_err(|error| format!("the tool's own schema is wrong: {error}"))?;
        let found: Vec<String> = validator
            .iter_errors(arguments)
            .take(MISMATCHES_MAX)
            .map(|error| match error.instance_path().to_string() {
                place if place.is_empty() => error.to_string(),
                place => format!("{place}: {error}"),
            })
            .collect();
        if found.is_empty() {
            return Ok(());
        }
        Err(format!("the arguments do not fit the tool's schema: {}", found.join("; ")))
    }

    /// Calls a tool with arguments that have been checked. Never longer than the tool's timeout.
    ///
    /// # Cancel safety
    /// Dropping it ends the call.
    pub async fn call(&self, tool: &Tool, arguments: &Value) -> Answer {
        let call = async {
            match tool.kind {
                ToolKind::Builtin => builtin::call(&tool.name, arguments).await,
            }
        };
        match tokio::time::timeout(Duration::from_secs_f64(tool.timeout), call).await {
            Ok(Ok(result)) => Answer::ok(result),
            Ok(Err(words)) => Answer::failed(words, Outcome::Error),
            Err(_elapsed) => {
                let words = format!("the tool did not answer within {} s", tool.timeout);
                Answer::failed(words, Outcome::Timeout)
            }
        }
    }

    fn schema<'a>(&'a self, tool: &'a Tool) -> Option<&'a Value> {
        match tool.kind {
            ToolKind::Builtin => self
                .builtins
                .iter()
                .find(|builtin| builtin.name == tool.name)
                .map(|builtin| &builtin.parameters),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tool(name: &str) -> Tool {
        serde_json::from_value(json!({"type": "builtin", "name": name})).expect("a tool")
    }

    #[test]
    fn arguments_that_do_not_fit_are_named_with_their_place() {
        let tools = Toolbox::new();
        let calculator = tool("calculator");
        assert_eq!(tools.check(&calculator, &json!({"expression": "1+1"})), Ok(()));
        let wrong = tools.check(&calculator, &json!({"expression": 3})).expect_err("a number");
        assert!(wrong.contains("/expression"), "{wrong}");
        let absent = tools.check(&calculator, &json!({})).expect_err("nothing");
        assert!(absent.contains("expression"), "{absent}");
        let more = tools.check(&calculator, &json!({"expression": "1", "x": 1}));
        assert!(more.expect_err("a surplus field").contains('x'));
    }

    #[tokio::test]
    async fn a_built_in_tool_answers_or_says_what_was_wrong() {
        let tools = Toolbox::new();
        let answer = tools.call(&tool("calculator"), &json!({"expression": "6*7"})).await;
        assert_eq!((answer.result, answer.is_error), (json!(42), false));
        let answer = tools.call(&tool("calculator"), &json!({"expression": "1/0"})).await;
        assert_eq!((answer.outcome, answer.is_error), (Outcome::Error, true));
    }

    #[test]
    fn a_long_result_is_cut_at_a_character() {
        let answer = Answer::ok(Value::String("é".repeat(limits::TOOL_RESULT_BYTES)));
        assert_eq!(answer.truncated, Some(true));
        assert!(
            answer.result.as_str().is_some_and(|text| text.len() < limits::TOOL_RESULT_BYTES + 1)
        );
    }
}
