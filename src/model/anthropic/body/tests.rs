//! Requests in the dialect, by the rules that real servers hold them to.

use super::*;
use crate::run::spec::ModelSettings;

fn request(messages: Value, settings: Value) -> Request {
    Request {
        instructions: None,
        messages: serde_json::from_value(messages).expect("messages"),
        tools: Vec::new(),
        settings: serde_json::from_value::<ModelSettings>(settings).expect("settings"),
        output_schema: None,
    }
}

fn sent(messages: Value, settings: Value) -> Value {
    body(&request(messages, settings), "stub", "m")
}

fn hi() -> Value {
    json!([{"role": "user", "content": "hi"}])
}

fn offer(name: &str) -> ToolOffer {
    let (name, parameters) = (name.to_owned(), json!({"type": "object"}));
    ToolOffer { name, description: None, parameters }
}

#[test]
fn rule_20_what_was_not_set_is_not_sent_but_for_max_tokens() {
    let expected = json!({
        "model": "m", "stream": true, "max_tokens": MAX_TOKENS_DEFAULT,
        "messages": [{"role": "user", "content": "hi"}],
    });
    assert_eq!(sent(hi(), json!({"tool_choice": "auto"})), expected, "no choice without tools");
}

#[test]
fn everything_that_was_set_is_sent_and_extra_goes_before_ours() {
    let mut asked = request(
        hi(),
        json!({"temperature": 0.5, "top_p": 1.0, "stop": ["x"], "max_output_tokens": 9,
            "tool_choice": {"name": "t"}, "extra": {"top_k": 4, "top_p": 0.5, "model": "no"}}),
    );
    asked.instructions = Some("be brief".to_owned());
    asked.tools = vec![ToolOffer { description: Some("d".to_owned()), ..offer("t") }];
    let expected = json!({
        "model": "m", "stream": true, "max_tokens": 9, "system": "be brief",
        "temperature": 0.5, "top_p": 0.5, "top_k": 4, "stop_sequences": ["x"],
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"name": "t", "description": "d", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "tool", "name": "t"},
    });
    assert_eq!(body(&asked, "stub", "m"), expected);
    for (choice, mapped) in [("auto", "auto"), ("none", "none"), ("required", "any")] {
        assert_eq!(tool_choice(&json!(choice)), json!({"type": mapped}));
    }
}

#[test]
fn pictures_go_by_address_or_by_their_bytes() {
    let parts = json!([
        {"type": "text", "text": "look"},
        {"type": "image", "url": "https://x/y.png"},
        {"type": "image", "url": "data:image/gif;base64,R0=="},
        {"type": "image", "media_type": "image/png", "data": "AA=="},
    ]);
    let sent = sent(json!([{"role": "user", "content": parts}]), json!({}));
    let expected = json!([
        {"type": "text", "text": "look"},
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": "R0=="}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
    ]);
    assert_eq!(sent["messages"][0]["content"], expected);
}

/// A turn that thought, spoke and called twice, and both answers.
fn history(provider: &str) -> Value {
    let signed = json!({"provider": provider, "fields": {"signature": "c2ln"}});
    let redacted = json!({"provider": provider, "fields": {"redacted_thinking": "b3Bh"}});
    json!([
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "I ask.", "reasoning": [
            {"type": "reasoning", "text": "hm", "provider_metadata": signed},
            {"type": "reasoning", "provider_metadata": redacted},
            {"type": "reasoning", "text": "unsigned"},
        ], "tool_calls": [
            {"call_id": "call_1", "tool_name": "t", "arguments": {"a": 1}},
            {"call_id": "call_2", "tool_name": "t", "arguments": "{\"a\":"},
        ]},
        {"role": "tool", "call_id": "call_1", "content": ""},
        {"role": "tool", "call_id": "call_2", "content": "bad", "is_error": true},
    ])
}

#[test]
fn rules_9_11_and_21_a_history_goes_back_with_its_own_thinking_and_results_in_one_message() {
    let sent_back = sent(history("stub"), json!({}));
    let expected = json!([
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "b3Bh"},
            {"type": "text", "text": "I ask."},
            {"type": "tool_use", "id": "call_1", "name": "t", "input": {"a": 1}},
            {"type": "tool_use", "id": "call_2", "name": "t", "input": {"invalid_json": "{\"a\":"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "call_1", "content": ""},
            {"type": "tool_result", "tool_use_id": "call_2", "content": "bad", "is_error": true},
        ]},
    ]);
    assert_eq!(sent_back["messages"], expected);
    let elsewhere = sent(history("other"), json!({}));
    assert_eq!(elsewhere["messages"][1]["content"][0]["type"], "text", "not another's thinking");
}

#[test]
fn rule_21_messages_with_nothing_to_send_are_left_out_and_neighbours_are_one() {
    let asked = json!([
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "b"}]},
    ]);
    let content = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let expected = json!([{"role": "user", "content": content}]);
    assert_eq!(sent(asked, json!({}))["messages"], expected);
}

#[test]
fn effort_becomes_a_budget_where_the_api_takes_one() {
    let budget = |messages: Value, settings: Value| {
        let sent = sent(messages, settings);
        (sent["thinking"]["budget_tokens"].as_u64(), sent["max_tokens"].as_u64().expect("always"))
    };
    let default = u64::from(MAX_TOKENS_DEFAULT);
    assert_eq!(REASONING_EFFORTS.map(|word| word.to_owned()), BUDGETS.map(|one| one.0.to_owned()));
    for (effort, tokens) in BUDGETS {
        let most = u64::from(tokens);
        let thinks = (most > 0).then_some(most);
        assert_eq!(budget(hi(), json!({"reasoning_effort": effort})), (thinks, default + most));
    }
    let low = |most: u32| json!({"reasoning_effort": "low", "max_output_tokens": most});
    assert_eq!(budget(hi(), low(3000)), (Some(1500), 3000), "half of the limit at most");
    assert_eq!(budget(hi(), low(2000)), (None, 2000), "too little to think");
    let forced = json!({"reasoning_effort": "low", "tool_choice": "required"});
    assert_eq!(budget(hi(), forced).0, None, "a forced tool can't be thought about");
    let effort = json!({"reasoning_effort": "low"});
    assert_eq!(budget(history("stub"), effort.clone()).0, Some(2048));
    assert_eq!(budget(history("other"), effort).0, None, "the calls came without own thinking");
}
