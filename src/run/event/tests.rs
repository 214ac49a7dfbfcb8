//! Whatever an event holds, it is read again as it was written, by this release and by later ones.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Any text at all: control characters, NUL, quotes, characters outside the basic plane.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        vec(any::<char>(), 0..8).prop_map(String::from_iter),
        vec(prop::sample::select(vec!['\0', '"', '\\', '\n', '\u{1b}', '\u{2028}', '😀']), 0..8)
            .prop_map(String::from_iter),
    ]
}

fn json_value() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        finite().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            btree_map(text(), inner, 0..3).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
    .boxed()
}

/// What `Option<Value>` can hold: a null is read as nothing.
fn opaque() -> impl Strategy<Value = Option<Value>> {
    option::of(json_value().prop_filter("null is nothing", |value| !value.is_null()))
}

fn object() -> impl Strategy<Value = Map<String, Value>> {
    btree_map(text(), json_value(), 0..3).prop_map(|map| map.into_iter().collect())
}

fn finite() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("JSON has no others", |number| number.is_finite())
}

fn usage() -> BoxedStrategy<Usage> {
    (vec(option::of(any::<u64>()), 6), option::of(finite()), option::of(any::<bool>()))
        .prop_map(|(tokens, cost_usd, estimated)| Usage {
            input_tokens: tokens[0],
            cached_input_tokens: tokens[1],
            cache_write_input_tokens: tokens[2],
            output_tokens: tokens[3],
            reasoning_tokens: tokens[4],
            total_tokens: tokens[5],
            cost_usd,
            estimated,
        })
        .boxed()
}

fn parts() -> impl Strategy<Value = Vec<OutputPart>> {
    let said = (any::<u32>(), text()).prop_map(|(item, text)| OutputPart::Text { item, text });
    let thought =
        (any::<u32>(), option::of(text()), opaque()).prop_map(|(item, text, provider_metadata)| {
            OutputPart::Reasoning { item, text, provider_metadata }
        });
    vec(prop_oneof![said, thought], 0..3)
}

fn result() -> BoxedStrategy<RunResult> {
    let error = (text(), text(), any::<bool>(), json_value()).prop_map(
        |(code, message, retryable, details)| RunError { code, message, retryable, details },
    );
    (option::of(text()), opaque(), text(), option::of(error), usage(), finite(), object())
        .prop_map(|(final_output, output, stop_reason, error, usage, elapsed_time, variables)| {
            RunResult {
                final_output,
                output,
                stop_reason,
                error,
                usage,
                turn_count: 3,
                elapsed_time,
                variables,
            }
        })
        .boxed()
}

fn run_events() -> BoxedStrategy<Body> {
    let queued = (text(), text(), option::of(text()), json_value(), option::of(any::<bool>()))
        .prop_map(|(run_id, by, optional, input, truncated)| Body::RunQueued {
            format: FORMAT,
            run_id,
            uuid: String::new(),
            agent: AgentRef { name: optional.clone(), version: optional.as_ref().map(|_| 3) },
            model: "demo/a".to_owned(),
            by,
            parent_run_id: optional.clone(),
            continued_from: optional.clone(),
            input,
            truncated,
            traceparent: optional,
        });
    let reasons = [StartReason::New, StartReason::Drain, StartReason::Crash, StartReason::Inbox];
    let started = (text(), prop::sample::select(reasons.to_vec()), any::<u32>(), finite())
        .prop_map(|(node, reason, crashes, elapsed)| Body::RunStarted {
            node,
            reason,
            crashes,
            elapsed,
            turn_elapsed: elapsed,
            waited: 0.0,
        });
    prop_oneof![
        queued,
        started,
        (text(), option::of(text())).prop_map(|(by, reason)| Body::CancelRequested { by, reason }),
        (text(), text()).prop_map(|(text, by)| Body::Input { content: Content::Text(text), by }),
        (text(), json_value()).prop_map(|(message, data)| Body::Log {
            level: "info".to_owned(),
            message,
            data
        }),
        object().prop_map(|values| Body::VariablesSet { values }),
        (text(), result()).prop_map(|(run_id, result)| Body::RunCompleted { run_id, result }),
        (text(), result()).prop_map(|(run_id, result)| Body::RunFailed { run_id, result }),
        (text(), result()).prop_map(|(run_id, result)| Body::RunCancelled { run_id, result }),
    ]
    .boxed()
}

fn turn_events() -> BoxedStrategy<Body> {
    let finished = [FinishReason::Stop, FinishReason::ToolCalls, FinishReason::Other];
    let completed = (prop::sample::select(finished.to_vec()), parts(), usage(), opaque(), finite())
        .prop_map(|(finish_reason, parts, usage, provider_metadata, elapsed_time)| {
            Body::TurnCompleted {
                finish_reason,
                parts,
                usage,
                model: "a".to_owned(),
                provider_request_id: provider_metadata.as_ref().map(Value::to_string),
                provider_metadata,
                elapsed_time,
                first_output_time: Some(elapsed_time),
            }
        });
    let aborts = [AbortReason::RateLimited, AbortReason::Crash, AbortReason::Cancelled];
    let aborted = (
        prop::sample::select(aborts.to_vec()),
        option::of(any::<u16>()),
        option::of(text()),
        any::<u64>(),
        option::of(finite()),
        option::of(usage()),
    )
        .prop_map(|(reason, provider_status, message, seq, time, usage)| Body::TurnAborted {
            reason,
            provider_status,
            message,
            discard_from_seq: Seq(seq),
            last_item: 7,
            retry_in: time,
            elapsed_time: time,
            usage,
        });
    prop_oneof![
        (text(), text())
            .prop_map(|(model, request_sha256)| Body::TurnStarted { model, request_sha256 }),
        (any::<u32>(), text()).prop_map(|(item, content)| Body::Text { item, content }),
        (any::<u32>(), text(), opaque()).prop_map(|(item, content, provider_metadata)| {
            Body::Reasoning { item, content, provider_metadata }
        }),
        completed,
        aborted,
    ]
    .boxed()
}

fn tool_events() -> BoxedStrategy<Body> {
    let called = (any::<u32>(), text(), json_value(), text(), opaque()).prop_map(
        |(item, tool_name, arguments, arguments_raw, provider_metadata)| Body::ToolCall {
            item,
            call_id: CallId(tool_name.clone()),
            provider_call_id: provider_metadata.as_ref().map(Value::to_string),
            tool_name,
            arguments,
            arguments_raw,
            executor: Executor::Server,
            effect: Effect::Once,
            provider_metadata,
        },
    );
    let started = (any::<u32>(), text(), option::of(finite())).prop_map(|(item, id, time)| {
        let failed_before = time.map(|elapsed_time| FailedTry {
            http_status: None,
            message: id.clone(),
            elapsed_time,
        });
        let call_id = CallId(id);
        Body::ToolStarted { item, call_id, try_number: 2, failed_before, child_run_id: None }
    });
    let returned = (any::<u32>(), text(), json_value(), option::of(any::<u16>()), finite())
        .prop_map(|(item, id, result, http_status, elapsed_time)| Body::ToolResult {
            item,
            call_id: CallId(id.clone()),
            tool_name: id,
            result,
            is_error: true,
            outcome: Outcome::Timeout,
            try_number: 1,
            http_status,
            truncated: http_status.map(|_| true),
            elapsed_time,
        });
    prop_oneof![called, started, returned].boxed()
}

fn body() -> BoxedStrategy<Body> {
    prop_oneof![run_events(), turn_events(), tool_events()].boxed()
}

fn stored(draft: &Draft) -> String {
    format!(r#"{{"seq":7,"at":"2026-11-22T10:00:00.123Z",{}"#, draft.to_text())
}

/// The names of an object's fields in the order of its text.
fn names_in_order(text: &str) -> Vec<String> {
    struct Names;
    impl<'de> serde::de::Visitor<'de> for Names {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Vec<String>, A::Error> {
            let mut names = Vec::new();
            while let Some((name, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                names.push(name);
            }
            Ok(names)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    serde::Deserializer::deserialize_map(&mut reader, Names).expect("it is an object")
}

/// Enough to meet every kind of body with every kind of text; the suite stays quick.
fn cases() -> ProptestConfig {
    ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_stored_text_is_read_as_the_same_event(
        body in body(), turn in any::<u32>(), attempt in any::<u32>(),
    ) {
        let draft = Draft { turn, attempt, body };
        let text = stored(&draft);
        let event: Event = serde_json::from_str(&text).expect("it can be read");
        let Draft { turn, attempt, body } = draft.clone();
        let at = "2026-11-22T10:00:00.123Z".to_owned();
        prop_assert_eq!(&event, &Event { seq: Seq(7), at, turn, attempt, body });
        // A stream sends it as one line of data.
        prop_assert!(!text.contains(['\n', '\r', '\0']));
        let again = Draft { turn, attempt, body: event.body };
        prop_assert_eq!(stored(&again), text);
    }

    #[test]
    fn the_fields_stand_in_the_promised_order(body in body()) {
        let text = stored(&Draft { turn: 1, attempt: 1, body: body.clone() });
        let names = names_in_order(&text);
        prop_assert_eq!(&names[..5], ["seq", "at", "type", "turn", "attempt"]);
        if let Some(place) = names.iter().position(|name| name == "item") {
            prop_assert_eq!(place, 5);
        }
        let whole: Value = serde_json::from_str(&text).expect("it is JSON");
        prop_assert_eq!(&whole["type"], body.name());
    }

    #[test]
    fn fields_of_later_releases_are_passed_over(body in body(), more in json_value()) {
        let draft = Draft { turn: 1, attempt: 1, body };
        let text = stored(&draft);
        let mut whole: Map<String, Value> = serde_json::from_str(&text).expect("it is an object");
        whole.insert("a_later_field".to_owned(), more);
        let event: Event = serde_json::from_value(Value::Object(whole)).expect("it can be read");
        prop_assert_eq!(event.body, draft.body);
    }

    #[test]
    fn sums_of_usage_are_numbers_that_json_has(usages in vec(usage(), 0..5)) {
        let mut sum = Usage::default();
        for one in &usages {
            sum.add(one);
        }
        prop_assert!(sum.cost_usd.is_none_or(f64::is_finite));
        let known = usages.iter().filter_map(|one| one.output_tokens);
        let expected = known.reduce(u64::saturating_add);
        prop_assert_eq!(sum.output_tokens, expected);
    }
}

#[test]
fn later_fields_inside_a_part_a_usage_or_a_result_are_passed_over_too() {
    let text = json!({"seq": 1, "at": "", "type": "turn.completed", "turn": 1, "attempt": 1,
        "finish_reason": "stop", "model": "a", "elapsed_time": 1,
        "parts": [{"item": 1, "type": "text", "text": "x", "annotations": []}],
        "usage": {"input_tokens": 1, "audio_tokens": 5}});
    let event: Event = serde_json::from_value(text).expect("it can be read");
    let Body::TurnCompleted { parts, usage, .. } = event.body else { panic!("a turn ended") };
    assert_eq!(parts, [OutputPart::Text { item: 1, text: "x".to_owned() }]);
    assert_eq!(usage, Usage { input_tokens: Some(1), ..Usage::default() });
    let text = json!({"seq": 1, "at": "", "type": "run.failed", "turn": 1, "attempt": 1,
        "run_id": "r", "result": {"final_output": null, "output": null, "stop_reason": "x",
        "error": {"code": "x", "message": "m", "retryable": false, "details": null, "later": 1},
        "usage": {}, "turn_count": 0, "elapsed_time": 0, "variables": {}, "later": [1]}});
    let event: Event = serde_json::from_value(text).expect("it can be read");
    assert!(event.body.is_terminal());
}

#[test]
fn a_type_of_a_later_release_is_not_taken_for_something_else() {
    // What it means for the run can't be known: a node that does not know must not drive it.
    let text = r#"{"seq":1,"at":"","type":"run.forked","turn":0,"attempt":1}"#;
    assert!(serde_json::from_str::<Event>(text).is_err());
}

#[test]
fn an_aborted_turn_without_a_last_item_can_be_read() {
    let text = r#"{"seq":5,"at":"","type":"turn.aborted","turn":1,"attempt":1,"reason":"cut",
        "discard_from_seq":3}"#;
    let event: Event = serde_json::from_str(text).expect("it can be read");
    assert!(matches!(event.body, Body::TurnAborted { last_item: 0, retry_in: None, .. }));
}

#[test]
fn stored_numbers_of_types_never_change() {
    let numbers: Vec<Option<u8>> = KINDS.iter().map(|name| kind_of(name)).collect();
    assert_eq!(numbers, (0..18).map(Some).collect::<Vec<_>>());
    assert_eq!(kind_of("run.forked"), None);
    let terminal: Vec<&str> =
        KINDS.into_iter().filter(|name| kind_of(name).is_some_and(is_terminal)).collect();
    assert_eq!(terminal, ["run.completed", "run.failed", "run.cancelled"]);
    // The store's statements name these by number.
    let named = ["turn.started", "text", "reasoning"].map(kind_of);
    assert_eq!(named, [Some(2), Some(3), Some(4)]);
}
