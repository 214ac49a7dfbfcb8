//! The conversation that a run has become, in the form in which a next run takes it.

use serde_json::Value;

use super::event::OutputPart;
use super::message::{Content, Message, Part, ToolCall};
use super::plain;
use super::spec::Spec;
use super::state::{Call, State, Turn};

impl State {
    /// The conversation as the next run would receive it: valid input, tools included. Void output
    /// is no part of it, nor are calls that have no answer yet.
    pub fn history(&self, spec: &Spec) -> Vec<Message> {
        let mut messages = spec.opening();
        for turn in &self.turns {
            turn.append_to(&mut messages);
        }
        messages
    }
}

impl Turn {
    fn append_to(&self, messages: &mut Vec<Message>) {
        let answered = || self.calls.iter().filter_map(|call| Some((call, call.answer.as_ref()?)));
        let text = self.text().map(|text| Content::Text(plain::without_nul(text)));
        let tool_calls: Vec<ToolCall> = answered().map(|(call, _)| call.in_history()).collect();
        if text.is_none() && tool_calls.is_empty() {
            return;
        }
        let reasoning = self.parts.iter().filter_map(reasoning).collect();
        messages.push(Message::Assistant { content: text, tool_calls, reasoning });
        messages.extend(answered().map(|(call, answer)| Message::Tool {
            call_id: call.call_id.0.clone(),
            content: Content::Text(plain::without_nul(answer.text())),
            is_error: answer.is_error,
        }));
    }
}

impl Call {
    fn in_history(&self) -> ToolCall {
        let arguments = if plain::is_plain(&self.arguments) {
            self.arguments.clone()
        } else {
            Value::String(self.arguments_raw.clone())
        };
        ToolCall {
            call_id: self.call_id.0.clone(),
            tool_name: plain::without_nul(self.tool_name.clone()),
            arguments: plain::value_without_nul(arguments),
            provider_metadata: opaque(self.provider_metadata.as_ref()),
        }
    }
}

fn reasoning(part: &OutputPart) -> Option<Part> {
    match part {
        OutputPart::Text { .. } => None,
        OutputPart::Reasoning { text, provider_metadata, .. } => Some(Part::Reasoning {
            text: text.clone().map(plain::without_nul),
            provider_metadata: opaque(provider_metadata.as_ref()),
        }),
    }
}

/// Opaque data goes back as it was or not at all.
fn opaque(metadata: Option<&Value>) -> Option<Value> {
    metadata
        .filter(|value| {
            plain::is_plain(value) && plain::value_without_nul((*value).clone()) == **value
        })
        .cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::run::event::{FinishReason, Outcome};
    use crate::run::limits;
    use crate::run::notation::{catalog, log, spec};

    /// The history in short: `user Hi | assistant x +2 | tool y`.
    fn history_of(story: &str) -> String {
        let history = log(story).state.history(&spec(&json!({})));
        let told: Vec<String> = history
            .iter()
            .map(|message| match message {
                Message::User { content } => format!("user {}", content.text()),
                Message::Tool { content, .. } => format!("tool {}", content.text()),
                Message::Assistant { content, tool_calls, .. } => {
                    let text = content.as_ref().map_or(String::new(), |content| content.text());
                    let calls = match tool_calls.len() {
                        0 => String::new(),
                        some => format!(" +{some}"),
                    };
                    format!("assistant {text}{calls}")
                }
            })
            .collect();
        told.join(" | ")
    }

    #[test]
    fn void_attempts_leave_no_trace_in_the_history() {
        let crashed = "started; asked; said Hel; died 1; broke crash in 0";
        assert_eq!(history_of(crashed), "user Hi");
        assert_eq!(
            history_of(&format!("{crashed}; answered 1 Hello")),
            "user Hi | assistant Hello"
        );
        let drained = "started; asked; thought x; said Hel; drained; broke drain in 0";
        assert_eq!(history_of(drained), "user Hi");
        // The partial output of a cancelled run is its `final_output`, and void for the history.
        let cancelled = "started; asked; said Hel; cancelled; broke cancelled";
        assert_eq!(history_of(cancelled), "user Hi");
        assert_eq!(log(cancelled).state.final_output().as_deref(), Some("Hel"));
    }

    #[test]
    fn a_history_has_the_calls_that_have_answers() {
        let story = "started; called 1 a b; returned b 7";
        assert_eq!(history_of(story), "user Hi | assistant  +1 | tool 7");
        let story = "started; called 1 a b; returned b 7; returned a 5";
        assert_eq!(history_of(story), "user Hi | assistant  +2 | tool 5 | tool 7");
    }

    #[test]
    fn opaque_data_goes_back_as_it_was_or_not_at_all() {
        let deep = (0..limits::NESTED_DEPTH).fold(json!(1), |inner, _| json!([inner]));
        for (metadata, goes_back) in [
            (json!({"signature": "c2ln", "parts": [[1, null]]}), true),
            (json!({"signature": "a\0b"}), false),
            (deep, false),
        ] {
            let mut log = log("started; asked; thought hm; said x; ended stop");
            let turn = &mut log.state.turns[0];
            let OutputPart::Reasoning { provider_metadata, .. } = &mut turn.parts[0] else {
                panic!("it began with a thought")
            };
            *provider_metadata = Some(metadata.clone());
            let history = log.state.history(&spec(&json!({})));
            let Message::Assistant { reasoning, .. } = &history[1] else { panic!("it spoke") };
            let Part::Reasoning { provider_metadata, text } = &reasoning[0] else {
                panic!("it reasoned")
            };
            assert_eq!(provider_metadata, &goes_back.then_some(metadata));
            assert_eq!(text.as_deref(), Some("hm"));
        }
    }

    #[test]
    fn reasoning_alone_is_no_message() {
        assert_eq!(history_of("started; asked; thought hm; ended stop"), "user Hi");
    }

    #[test]
    fn what_a_model_said_is_valid_input_for_the_next_run_whatever_it_said() {
        let nested = (0..100).fold(json!(1), |inner, _| json!({ "a": inner }));
        let mut log = log("started; asked; said NUL \0 NUL");
        log.called_with("a", nested.clone(), &nested.to_string());
        log.called_with("b\0", json!({"x\0": "\0"}), r#"{"x\u0000":"\u0000"}"#);
        log.called_with("c", json!("{\0"), "{\0");
        log.ended(FinishReason::ToolCalls);
        for tool in ["a", "b\0", "c"] {
            log.result(tool, "NUL \0", Outcome::Ok);
        }
        let mut spec = spec(&json!({}));
        spec.history = log.state.history(&spec);
        let again = serde_json::to_value(&spec).expect("plain data");
        let again = Spec::parse(&again, &catalog()).expect("it is valid");
        let Message::Assistant { content, tool_calls, .. } = &again.history[1] else {
            panic!("the model has spoken")
        };
        let said = content.as_ref().map(Content::text);
        assert_eq!(said.as_deref(), Some("NUL \u{fffd} NUL"));
        assert_eq!(
            tool_calls[0].arguments,
            json!(nested.to_string()),
            "too deep: as it was written"
        );
        assert_eq!(tool_calls[1].arguments, json!({"x\u{fffd}": "\u{fffd}"}));
    }
}
