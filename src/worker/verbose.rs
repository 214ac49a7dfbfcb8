//! What a verbose run tells beside its events: one line for people, with figures, for each request
//! to a model, each answer, each failed attempt and each tool.

use serde_json::{Value, json};

use super::driver::Driver;
use crate::run::request::Request;
use crate::run::{Body, Draft};

impl Driver {
    /// The drafts, and behind each that tells of the world its line, where the run is verbose.
    pub(super) fn with_lines(&self, drafts: Vec<Draft>) -> Vec<Draft> {
        if !self.spec.config.verbose {
            return drafts;
        }
        let line = |draft: &Draft| {
            let (level, message, data) = told(&draft.body)?;
            Some(Draft { body: log(level, &message, data), ..draft.clone() })
        };
        drafts
            .into_iter()
            .flat_map(|draft| {
                let line = line(&draft);
                std::iter::once(draft).chain(line)
            })
            .collect()
    }

    /// The line before a model is called, where the run is verbose.
    pub(super) fn request_line(&self, model: &str, request: &Request) -> Option<Body> {
        if !self.spec.config.verbose {
            return None;
        }
        let tools: Vec<&str> = request.tools.iter().map(|tool| tool.name.as_str()).collect();
        let data = json!({
            "model": model,
            "messages": request.messages.len(),
            "instructions_bytes": request.instructions.as_ref().map_or(0, String::len),
            "tools": tools,
            "settings": request.settings,
        });
        Some(log("info", &format!("calling {model}"), data))
    }
}

fn log(level: &str, message: &str, data: Value) -> Body {
    Body::Log { level: level.to_owned(), message: message.to_owned(), data }
}

/// Level, words and figures of what has come of the world.
fn told(body: &Body) -> Option<(&'static str, String, Value)> {
    match body {
        Body::TurnCompleted {
            finish_reason,
            model,
            provider_request_id,
            elapsed_time,
            first_output_time,
            usage,
            ..
        } => Some((
            "info",
            format!("{model} answered in {elapsed_time:.3} s"),
            json!({"model": model, "finish_reason": finish_reason, "usage": usage,
                   "provider_request_id": provider_request_id, "elapsed_time": elapsed_time,
                   "first_output_time": first_output_time}),
        )),
        Body::TurnAborted { reason, provider_status, message, retry_in, elapsed_time, .. } => {
            let next = match retry_in {
                Some(wait) => format!("trying again in {wait:.3} s"),
                None => "not tried again".to_owned(),
            };
            let why = message.as_deref().unwrap_or("the attempt was given up");
            Some((
                "warn",
                format!("{why}; {next}"),
                json!({"reason": reason, "provider_status": provider_status,
                       "retry_in": retry_in, "elapsed_time": elapsed_time}),
            ))
        }
        Body::ToolResult { call_id, tool_name, outcome, try_number, elapsed_time, .. } => Some((
            "info",
            format!("{tool_name} ended in {elapsed_time:.3} s"),
            json!({"call_id": call_id, "tool_name": tool_name, "outcome": outcome,
                   "try": try_number, "elapsed_time": elapsed_time}),
        )),
        // Without the words of the failure: they are the tool's, and stand in the event.
        Body::ToolStarted { call_id, try_number, failed_before: Some(failed), .. } => {
            let how = match failed.http_status {
                Some(status) => format!("with status {status}"),
                None => "without an answer".to_owned(),
            };
            Some((
                "warn",
                format!(
                    "a tool failed {how} in {:.3} s; try {try_number} follows",
                    failed.elapsed_time
                ),
                json!({"call_id": call_id, "try": try_number, "http_status": failed.http_status,
                       "elapsed_time": failed.elapsed_time}),
            ))
        }
        Body::RunQueued { .. }
        | Body::Input { .. }
        | Body::RunStarted { .. }
        | Body::TurnStarted { .. }
        | Body::Text { .. }
        | Body::Reasoning { .. }
        | Body::ToolCall { .. }
        | Body::ToolStarted { .. }
        | Body::VariablesSet { .. }
        | Body::RunUpdated { .. }
        | Body::CancelRequested { .. }
        | Body::Log { .. }
        | Body::RunCompleted { .. }
        | Body::RunFailed { .. }
        | Body::RunCancelled { .. } => None,
    }
}
