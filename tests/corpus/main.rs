//! Answers of servers, kept and made up: what each becomes, and what holds for all of them.
#![expect(unreachable_pub, reason = "nothing imports a test binary")]

mod hostile;
mod properties;
#[path = "../torture/scale.rs"]
mod scale;
mod tools;

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use runledger::model::Delta;
use runledger::model::replay::{Replayed, Spoken};
use serde_json::{Value, json};

/// Cases of each property unless `RUNLEDGER_FUZZ_CASES` says otherwise: enough to notice, and few
/// enough to wait for.
const CASES_DEFAULT: u32 = 256;

fn cases() -> ProptestConfig {
    let asked = std::env::var("RUNLEDGER_FUZZ_CASES").ok();
    let cases = asked.map_or(CASES_DEFAULT, |cases| cases.parse().expect("a number of cases"));
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// What an answer came to, in a line: `stop "text" [thought] f({"a":1})`, `cut "half"`,
/// `provider_error 400 "half"`.
fn in_words(replayed: &Replayed) -> String {
    let (mut text, mut thought) = (String::new(), String::new());
    for delta in &replayed.deltas {
        match delta {
            Delta::Text(said) => text.push_str(said),
            Delta::Reasoning { text, .. } => thought.push_str(text),
        }
    }
    let name = |word: &dyn erased::Word| word.name();
    let mut words = vec![match &replayed.ended {
        Ok(reply) => name(&reply.finish_reason),
        Err(failure) => match failure.status {
            Some(status) => format!("{} {status}", name(&failure.reason)),
            None => name(&failure.reason),
        },
    }];
    words.extend((!text.is_empty()).then(|| format!("{text:?}")));
    words.extend((!thought.is_empty()).then(|| format!("[{thought}]")));
    if let Ok(reply) = &replayed.ended {
        words.extend(
            reply.calls.iter().map(|one| format!("{}({})", one.tool_name, one.arguments_raw)),
        );
        let usage = [reply.usage.input_tokens, reply.usage.output_tokens];
        words.extend(usage.iter().any(Option::is_some).then(|| {
            let [input, output] =
                usage.map(|one| one.map_or("?".to_owned(), |one| one.to_string()));
            format!("{input}+{output}")
        }));
    }
    words.join(" ")
}

/// Our words as the log has them.
mod erased {
    pub trait Word {
        fn name(&self) -> String;
    }

    impl<T: serde::Serialize> Word for T {
        fn name(&self) -> String {
            let value = serde_json::to_value(self).expect("it is a word");
            value.as_str().expect("it is a word").to_owned()
        }
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/streams")
}

fn spoken(name: &str) -> Spoken {
    if name.starts_with("chat-") { Spoken::ChatCompletions } else { Spoken::Messages }
}

#[test]
fn every_kept_answer_becomes_what_it_always_became() {
    let expected = fs::read_to_string(folder().join("expected.txt")).expect("it is there");
    let mut names: Vec<String> = fs::read_dir(folder())
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be read").file_name().into_string().expect("ASCII"))
        .filter(|name| name.ends_with(".sse"))
        .collect();
    names.sort();
    assert!(names.len() > 20, "only {} answers are kept", names.len());
    let became: Vec<String> = names
        .iter()
        .map(|name| {
            let body = fs::read(folder().join(name)).expect("it can be read");
            properties::events(&body);
            // Each is hostile to the other dialect.
            for other in [Spoken::ChatCompletions, Spoken::Messages] {
                properties::answer(other, &body);
            }
            let became = properties::answer(spoken(name), &body);
            format!("{}: {}", name.trim_end_matches(".sse"), in_words(&became))
        })
        .collect();
    assert_eq!(became.join("\n"), expected.trim_end(), "\n{}\n", became.join("\n"));
}

/// Names and words that mean something to a dialect.
const WORDS: [&str; 62] = [
    "choices",
    "delta",
    "message",
    "content",
    "role",
    "index",
    "finish_reason",
    "stop",
    "length",
    "tool_calls",
    "function_call",
    "content_filter",
    "abort",
    "id",
    "function",
    "name",
    "arguments",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "thinking",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "prompt_tokens_details",
    "cached_tokens",
    "error",
    "code",
    "http_status_code",
    "status",
    "429",
    "400",
    "type",
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
    "ping",
    "content_block",
    "text",
    "tool_use",
    "redacted_thinking",
    "data",
    "text_delta",
    "input_json_delta",
    "thinking_delta",
    "signature_delta",
    "signature",
    "partial_json",
    "input",
    "stop_reason",
    "end_turn",
    "max_tokens",
    "refusal",
    "model",
    "input_tokens",
    "output_tokens",
    "x_groq",
    "{\"a\":1}",
    "",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => proptest::sample::select(WORDS.to_vec()).prop_map(str::to_owned),
        1 => ".{0,8}",
    ]
}

/// JSON of a dialect's words, in places where they belong and where they don't.
fn hostile_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => (0_u64..3).prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        4 => word().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            1 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => proptest::collection::vec((word(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// An event that a server might send, with something hostile in its places.
fn likely_event() -> impl Strategy<Value = Value> {
    let (one, two) = (hostile_json(), hostile_json());
    (0_usize..12, 0_u64..3, word(), one, two).prop_map(|(form, index, word, one, two)| match form {
        0 => json!({"choices": [{"index": index, "delta": one, "finish_reason": two}]}),
        1 => json!({"choices": [{"index": 0, "delta": {"content": word}}]}),
        2 => json!({"choices": [{"index": 0, "delta": {}, "finish_reason": word}], "usage": one}),
        3 => json!({"choices": [{"delta": {"tool_calls": [{"index": index, "id": word,
            "function": {"name": one, "arguments": two}}]}}]}),
        4 => json!({"choices": [], "usage": one, "error": two}),
        5 => json!({"type": "message_start", "message": one}),
        6 => json!({"type": "content_block_start", "index": index,
            "content_block": {"type": word, "name": one, "input": two}}),
        7 => json!({"type": "content_block_delta", "index": index, "delta": {"type": word,
            "text": one, "partial_json": two}}),
        8 => json!({"type": "content_block_delta", "index": index, "delta": one}),
        9 => json!({"type": "message_delta", "delta": {"stop_reason": word}, "usage": one}),
        10 => json!({"type": "message_stop"}),
        _ => json!({"type": word, "error": one, "message": two}),
    })
}

/// Pieces of a stream: events, comments, ends, and bytes of any kind.
fn hostile_body() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => likely_event().prop_map(|event| format!("data: {event}\n\n").into_bytes()),
        2 => hostile_json().prop_map(|event| format!("data: {event}\n\n").into_bytes()),
        1 => (word(), likely_event())
            .prop_map(|(name, event)| format!("event: {name}\r\ndata:{event}\r\n\r\n").into_bytes()),
        1 => proptest::sample::select(vec!["data: [DONE]\n\n", ":\n\n", "data\n\n", "\u{feff}",
            "data: {\"error\": \"say \"no\"\"}\n\n", "retry: 1\n\n", "\r", "\n", "event: error\n"])
            .prop_map(|text| text.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ];
    let pieces = proptest::collection::vec(piece, 0..12);
    let flips = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (pieces, flips).prop_map(|(pieces, flips)| {
        let mut body = pieces.concat();
        for (place, byte) in flips {
            if !body.is_empty() {
                let place = place.index(body.len());
                body[place] = byte;
            }
        }
        body
    })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn no_bytes_break_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        properties::events(&bytes);
    }

    #[test]
    fn no_stream_breaks_the_decoder(body in hostile_body()) {
        properties::events(&body);
    }

    #[test]
    fn no_stream_breaks_chat_completions(body in hostile_body()) {
        properties::answer(Spoken::ChatCompletions, &body);
    }

    #[test]
    fn no_stream_breaks_messages(body in hostile_body()) {
        properties::answer(Spoken::Messages, &body);
    }
}

#[test]
fn an_endless_answer_is_refused_within_its_bound() {
    let chat = json!({"choices": [{"index": 0, "delta": {"content": "x".repeat(1000)}}]});
    let messages = json!({"type": "content_block_delta", "index": 0,
        "delta": {"type": "text_delta", "text": "x".repeat(1000)}});
    let calls = json!({"choices": [{"delta": {"tool_calls": [{"id": null, "function":
        {"name": "f", "arguments": "{}"}}]}}]});
    let blocks = json!({"type": "content_block_start", "index": 0,
        "content_block": {"type": "tool_use", "name": "f", "input": {"a": 1}}});
    let id = "x".repeat(100_000);
    for (spoken, body) in [
        (
            Spoken::ChatCompletions,
            json!({"id": id, "model": id, "choices": [{"finish_reason": "stop",
            "delta": {"tool_calls": [{"id": id, "function": {"name": "f"}}]}}]}),
        ),
        (
            Spoken::Messages,
            json!({"type": "message", "id": id, "model": id,
            "content": [{"type": "tool_use", "id": id, "name": "f"}], "stop_reason": "tool_use"}),
        ),
    ] {
        let body = format!("data: {body}\n\n");
        assert!(properties::answer(spoken, body.as_bytes()).ended.is_ok(), "long ids are cut");
    }
    for (spoken, event) in [
        (Spoken::ChatCompletions, chat),
        (Spoken::Messages, messages),
        (Spoken::ChatCompletions, calls),
        (Spoken::Messages, blocks),
    ] {
        let body = format!("data: {event}\n\n").repeat(3000);
        let ended = properties::answer(spoken, body.as_bytes()).ended;
        assert!(ended.expect_err("it never ends").message.contains("larger than"), "{event}");
    }
}
