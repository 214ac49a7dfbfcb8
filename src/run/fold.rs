//! The fold: takes the events of a log into a run's state, one by one. It cannot fail.

use std::time::Duration;

use serde_json::{Map, Value};

use super::event::{AbortReason, Body, Draft, Event, Outcome, OutputPart, RunResult};
use super::id::CallId;
use super::raise::Raise;
use super::state::{Call, CallAnswer, FailedAttempt, OpenAttempt, Refused, State, Status, Turn};

impl State {
    /// The state after a whole log, or any prefix of one.
    pub fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> State {
        let mut state = State::default();
        for event in events {
            state.apply(event);
        }
        state
    }

    /// Takes in a draft as the event that it will be, but for its time.
    pub fn apply_draft(&mut self, draft: &Draft) {
        let Draft { turn, attempt, body } = draft.clone();
        let (seq, at) = (self.last_seq.next(), self.last_at.clone());
        self.apply(&Event { seq, at, turn, attempt, body });
    }

    /// Takes one more event in. It cannot fail: what is stored is so, and a log that folded
    /// yesterday must fold today.
    pub fn apply(&mut self, event: &Event) {
        self.last_seq = event.seq;
        self.last_at.clone_from(&event.at);
        self.turn = self.turn.max(event.turn);
        self.attempt = event.attempt;
        match &event.body {
            Body::RunQueued { traceparent, .. } => self.traceparent.clone_from(traceparent),
            Body::Input { .. } | Body::Log { .. } => {}
            Body::RunStarted { crashes, waited, .. } => {
                self.status = Status::Running;
                self.crashes = *crashes;
                let waited = Duration::try_from_secs_f64(*waited).unwrap_or_default();
                self.waited = self.waited.saturating_add(waited);
                self.started_at.get_or_insert_with(|| event.at.clone());
            }
            Body::TurnStarted { model, .. } => self.begin_attempt(event, model),
            Body::Text { item, content } => {
                self.use_item(*item);
                if let Some(open) = &mut self.open {
                    open.text.push_str(content);
                }
                self.count_output(content);
            }
            Body::Reasoning { item, content, .. } => {
                self.use_item(*item);
                self.count_output(content);
            }
            Body::ToolCall { item, .. } => {
                self.use_item(*item);
                if let (Some(open), Some(call)) = (&mut self.open, Call::proposed(&event.body)) {
                    open.calls.push(call);
                }
            }
            Body::TurnCompleted { .. } => self.complete_turn(event),
            Body::TurnAborted { .. } => self.abort_attempt(&event.body),
            Body::ToolStarted { call_id, try_number, .. } => {
                if let Some(call) = self.call_mut(call_id) {
                    call.tries = *try_number;
                }
            }
            Body::ToolResult { .. } => self.answer_call(&event.body),
            Body::VariablesSet { values } => self.variables.extend(values.clone()),
            Body::RunUpdated { metadata, limits, .. } => {
                self.update(metadata.as_ref(), limits.as_ref())
            }
            Body::CancelRequested { by, .. } => self.cancelled_by = Some(by.clone()),
            Body::RunCompleted { result, .. } => self.end(Status::Completed, result, &event.at),
            Body::RunFailed { result, .. } => self.end(Status::Failed, result, &event.at),
            Body::RunCancelled { result, .. } => self.end(Status::Cancelled, result, &event.at),
        }
    }

    fn update(&mut self, metadata: Option<&Map<String, Value>>, limits: Option<&Raise>) {
        if let Some(limits) = limits {
            self.raised.add(limits);
        }
        if let Some(metadata) = metadata {
            self.metadata = Some(metadata.clone());
        }
    }

    fn use_item(&mut self, item: u32) {
        self.last_item = self.last_item.max(item);
    }

    fn count_output(&mut self, content: &str) {
        if let Some(open) = &mut self.open {
            let bytes = u64::try_from(content.len()).unwrap_or(u64::MAX);
            open.output_bytes = open.output_bytes.saturating_add(bytes);
        }
    }

    fn begin_attempt(&mut self, event: &Event, model: &str) {
        if event.attempt == 1 {
            self.failures.clear();
        }
        self.partial = None;
        self.retry_in = None;
        self.open = Some(OpenAttempt {
            started: event.seq,
            model: model.to_owned(),
            used_before: self.used(),
            text: String::new(),
            output_bytes: 0,
            calls: Vec::new(),
        });
    }

    fn complete_turn(&mut self, event: &Event) {
        let Body::TurnCompleted { finish_reason, parts, usage, model, provider_metadata, .. } =
            &event.body
        else {
            return;
        };
        let (used_before, calls) =
            self.open.take().map(|open| (open.used_before, open.calls)).unwrap_or_default();
        // Whoever reads no deltas knows of the turn's items from here.
        self.use_item(parts.iter().map(OutputPart::item).max().unwrap_or_default());
        self.usage.add(usage);
        self.crashes = 0;
        self.failures.clear();
        self.turns.push(Turn {
            number: event.turn,
            parts: parts.clone(),
            calls,
            finish_reason: *finish_reason,
            finish_reason_raw: provider_metadata
                .as_ref()
                .and_then(|opaque| opaque.get("finish_reason"))
                .and_then(Value::as_str)
                .map(str::to_owned),
            model: model.clone(),
            used_before,
        });
    }

    fn abort_attempt(&mut self, body: &Body) {
        let Body::TurnAborted {
            reason, provider_status, message, last_item, retry_in, usage, ..
        } = body
        else {
            return;
        };
        self.use_item(*last_item);
        if let Some(usage) = usage {
            self.usage.add(usage);
        }
        self.retry_in = *retry_in;
        let Some(open) = self.open.take() else { return };
        match reason {
            AbortReason::Limit | AbortReason::Cancelled => {
                self.partial = (!open.text.is_empty()).then_some(open.text);
            }
            AbortReason::Crash | AbortReason::Drain => {}
            AbortReason::RateLimited
            | AbortReason::Overloaded
            | AbortReason::ProviderError
            | AbortReason::Connection
            | AbortReason::Stalled
            | AbortReason::Cut => self.failures.push(FailedAttempt {
                model: open.model,
                reason: *reason,
                provider_status: *provider_status,
                message: message.clone().unwrap_or_default(),
                is_left: *retry_in == Some(0.0),
            }),
        }
    }

    fn answer_call(&mut self, body: &Body) {
        let Body::ToolResult {
            call_id, result, is_error, outcome, try_number, elapsed_time, ..
        } = body
        else {
            return;
        };
        if let Some(call) = self.call_mut(call_id) {
            call.answer = Some(CallAnswer {
                result: result.clone(),
                is_error: *is_error,
                outcome: *outcome,
                try_number: *try_number,
                elapsed_time: *elapsed_time,
            });
        }
        if *outcome == Outcome::Cancelled && *try_number == 0 {
            let (turn, used, raised) = (self.turn, self.used(), self.raised);
            self.refused = Some(Refused { turn, used, raised });
        }
    }

    fn end(&mut self, status: Status, result: &RunResult, at: &str) {
        self.status = status;
        self.result = Some(result.clone());
        self.finished_at = Some(at.to_owned());
    }

    fn call_mut(&mut self, id: &CallId) -> Option<&mut Call> {
        self.turns.iter_mut().rev().flat_map(|turn| &mut turn.calls).find(|one| one.call_id == *id)
    }
}

impl Call {
    /// The call that a `tool_call` event proposes.
    fn proposed(body: &Body) -> Option<Call> {
        let Body::ToolCall {
            item,
            call_id,
            provider_call_id,
            tool_name,
            arguments,
            arguments_raw,
            executor,
            effect,
            provider_metadata,
        } = body
        else {
            return None;
        };
        Some(Call {
            item: *item,
            call_id: call_id.clone(),
            provider_call_id: provider_call_id.clone(),
            tool_name: tool_name.clone(),
            arguments: arguments.clone(),
            arguments_raw: arguments_raw.clone(),
            executor: *executor,
            effect: *effect,
            provider_metadata: provider_metadata.clone(),
            tries: 0,
            answer: None,
        })
    }
}

#[cfg(test)]
mod tests;
