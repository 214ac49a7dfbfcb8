//! What a history and an input may hold, and how they follow on each other.

use serde_json::{Value, json};

use super::{accepts, body, catalog, check, check_body, with};
use crate::run::message::{Message, Part};
use crate::run::spec::Spec;

fn history(messages: Value) -> Value {
    with("/history", messages)
}

#[test]
fn messages_have_three_roles() {
    for role in ["system", "developer"] {
        let asked = history(json!([{"role": role, "content": "Be nice"}]));
        check_body(&asked, "/history/0/role", &["user, assistant or tool", "agent.instructions"]);
    }
    let asked = history(json!([{"role": "human", "content": "x"}]));
    check_body(&asked, "/history/0/role", &["user, assistant or tool", "\"human\""]);
    check_body(&history(json!([{"content": "x"}])), "/history/0/role", &["got null"]);
    check_body(&history(json!(["x"])), "/history/0", &["a message", "\"x\""]);
    check_body(&history(json!([{"role": "user"}])), "/history/0/content", &["is required"]);
    let asked = history(json!([{"role": "user", "content": 3}]));
    check_body(&asked, "/history/0/content", &["a string or a list of parts", "got 3"]);
}

#[test]
fn parts_are_text_images_and_a_models_reasoning() {
    let input = |part: Value| with("/input", json!([part]));
    for good in [
        json!({"type": "text", "text": "x"}),
        json!({"type": "image", "url": "https://x.example/a.png"}),
        json!({"type": "image", "media_type": "image/png", "data": "AAAA"}),
    ] {
        assert!(Spec::parse(&input(good), &catalog()).is_ok());
    }
    for half in [
        json!({"type": "image"}),
        json!({"type": "image", "media_type": "image/png"}),
        json!({"type": "image", "url": "https://x.example/a.png", "data": "AAAA"}),
    ] {
        check_body(&input(half), "/input/0", &["`url`", "`media_type` and `data`"]);
    }
    check_body(&input(json!({"type": "video"})), "/input/0/type", &["text, image", "\"video\""]);
    check_body(&input(json!({"text": "x"})), "/input/0/type", &["text, image", "got null"]);
    check_body(&input(json!("x")), "/input/0", &["a part", "\"x\""]);
    check_body(&input(json!({"type": "text"})), "/input/0/text", &["is required: a string"]);
    check_body(&input(json!({"type": "text", "text": 1})), "/input/0/text", &["a string", "got 1"]);
    let reasoning = json!({"type": "reasoning", "text": "hm", "provider_metadata": {"s": [1]}});
    check_body(&input(reasoning.clone()), "/input/0", &["assistant"]);
    let asked = history(json!([
        {"role": "assistant", "content": [reasoning], "reasoning": [reasoning]}
    ]));
    let spec = Spec::parse(&asked, &catalog()).expect("a model reasons");
    let Message::Assistant { reasoning, .. } = &spec.history[0] else { panic!("an assistant") };
    assert!(matches!(&reasoning[0], Part::Reasoning { text: Some(text), .. } if text == "hm"));
    let text = json!({"type": "text", "text": "x"});
    let asked = history(json!([{"role": "assistant", "content": "x", "reasoning": [text]}]));
    check_body(&asked, "/history/0/reasoning/0/type", &["must be reasoning"]);
}

#[test]
fn every_tool_call_of_a_history_is_answered_once_before_anyone_else_speaks() {
    let call = |id: &str| json!({"call_id": id, "tool_name": "t", "arguments": {}});
    let asks = |ids: &[&str]| {
        let calls: Vec<Value> = ids.iter().map(|id| call(id)).collect();
        json!({"role": "assistant", "tool_calls": calls})
    };
    let answers = |id: &str| json!({"role": "tool", "call_id": id, "content": "x"});
    let user = json!({"role": "user", "content": "x"});
    let good = json!([
        user,
        asks(&["a", "b"]),
        answers("b"),
        answers("a"),
        asks(&["c"]),
        answers("c"),
        user
    ]);
    assert!(Spec::parse(&history(good), &catalog()).is_ok());
    for (messages, pointer, words) in [
        (json!([asks(&["a"])]), "/history", &["ends before", "\"a\""][..]),
        (json!([asks(&["a", "b"]), answers("a"), user]), "/history/2", &["before", "\"b\""]),
        (json!([answers("a")]), "/history/0/call_id", &["no open tool call", "\"a\""]),
        (
            json!([asks(&["a"]), answers("a"), answers("a")]),
            "/history/2/call_id",
            &["no open tool call"],
        ),
        (
            json!([asks(&["a"]), answers("a"), asks(&["a"]), answers("a")]),
            "/history/2/tool_calls/0/call_id",
            &["another tool call"],
        ),
    ] {
        check_body(&history(messages), pointer, words);
    }
}

#[test]
fn a_tool_calls_arguments_are_an_object_or_text() {
    let asked = |arguments: Value| {
        history(json!([
            {"role": "assistant", "tool_calls":
                [{"call_id": "a", "tool_name": "t", "arguments": arguments}]},
            {"role": "tool", "call_id": "a", "content": "x", "is_error": true},
        ]))
    };
    for good in [json!({"a": 1}), json!("{broken")] {
        assert!(Spec::parse(&asked(good), &catalog()).is_ok());
    }
    let place = "/history/0/tool_calls/0/arguments";
    check_body(&asked(json!([1])), place, &["an object", "a list"]);
    check_body(&asked(json!(null)), place, &["is required", "an object"]);
}

#[test]
fn the_serialised_spec_is_itself_a_valid_body() {
    let asked = json!({
        "agent": {
            "name": "A", "instructions": "Help {{user}}", "model": ["openai/x", "openai/y"],
            "model_settings": {"temperature": 0.25, "stop": ["."], "tool_choice": "auto",
                               "extra": {"seed": 7}},
            "tools": [{"type": "builtin", "name": "calculator", "timeout": 2.5}],
        },
        "input": [{"type": "text", "text": "Hi"},
                  {"type": "image", "url": "https://x.example/a.png"}],
        "history": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", "reasoning": [{"type": "reasoning", "text": "c"}],
             "tool_calls": [{"call_id": "1", "tool_name": "t", "arguments": "{",
                             "provider_metadata": {"sig": "x"}}]},
            {"role": "tool", "call_id": "1", "content": [{"type": "text", "text": "d"}],
             "is_error": true},
        ],
        "variables": {"user": "Ann"},
        "config": {"run_id": "order-17", "max_turns": 3, "max_time": 1.5, "verbose": true,
                   "metadata": {"k": "v"}, "max_total_tokens": 9, "max_tool_calls": 0,
                   "on_limit": "finalize"},
    });
    for asked in [asked, body()] {
        let spec = Spec::parse(&asked, &catalog()).expect("it is valid");
        let stored = serde_json::to_value(&spec).expect("plain data");
        assert_eq!(Spec::parse(&stored, &catalog()), Ok(spec.clone()));
        let text = serde_json::to_string(&spec).expect("plain data");
        assert_eq!(serde_json::from_str::<Spec>(&text).expect("it is a spec"), spec);
    }
}

#[test]
fn an_input_that_repeats_the_histories_last_words_counts_once() {
    let text = |text: &str| json!({"type": "text", "text": text});
    let image = json!({"type": "image", "url": "https://x.example/a.png"});
    for (last, input, counts_once) in [
        (json!("Hi"), json!("Hi"), true),
        (json!([text("Hi")]), json!("Hi"), true),
        (json!("Hi"), json!([text("H"), text("i")]), true),
        (json!([text("Hi"), image]), json!([text("Hi"), image]), true),
        (json!("Hi"), json!("Hi "), false),
        (json!("hi"), json!("Hi"), false),
        // Whoever drops the one or the other would lose the picture.
        (json!([text("Hi"), image]), json!("Hi"), false),
        (json!("Hi"), json!([text("Hi"), image]), false),
    ] {
        let mut asked = history(json!([{"role": "user", "content": last}]));
        asked["input"] = input.clone();
        let spec = Spec::parse(&asked, &catalog()).expect("it is valid");
        assert_eq!(spec.opening().len() == 1, counts_once, "{last} and {input}");
    }
    let spoken = history(json!([{"role": "assistant", "content": "Hi"}]));
    let spec = Spec::parse(&spoken, &catalog()).expect("it is valid");
    assert_eq!(spec.opening().len(), 2, "only the user's own words are doubled");
}

#[test]
fn a_history_has_10_000_messages() {
    let messages = |count: usize| -> Value {
        (0..count).map(|_| json!({"role": "user", "content": "a"})).collect()
    };
    accepts("/history", messages(10_000));
    check("/history", messages(10_001), &["10000 messages", "got 10001"]);
}
