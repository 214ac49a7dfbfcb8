//! What answers mean, one by one, and that nothing that a tool sends does harm.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::run::{Body as Event, CallId, Draft};

fn head(status: u16, media_type: &str) -> Head {
    Head { status, media_type: media_type.to_owned(), encoding: None, length: None }
}

fn whole(bytes: impl Into<Vec<u8>>) -> Body {
    Body { bytes: bytes.into(), is_cut: false }
}

fn result_of(media_type: &str, body: &str) -> Value {
    let answer = answer(&head(200, media_type), &whole(body), &[]);
    assert!(!answer.is_error, "{answer:?}");
    assert_eq!((answer.http_status, answer.outcome), (Some(200), Outcome::Ok));
    answer.result
}

#[test]
fn a_result_is_json_where_it_is_said_to_be_and_else_text() {
    assert_eq!(result_of("application/json", r#"{"a":1}"#), json!({"a": 1}));
    assert_eq!(result_of("application/problem+json", "[1]"), json!([1]));
    assert_eq!(result_of("", "7"), json!(7));
    assert_eq!(result_of("", "seven"), json!("seven"));
    assert_eq!(result_of("text/plain", "7"), json!("7"));
    assert_eq!(result_of("application/json", ""), json!(""));
}

#[test]
fn json_that_could_not_be_stored_stays_text() {
    let deep = format!("{}{}", "[".repeat(50), "]".repeat(50));
    let many = format!("[{}{{}}]", "{},".repeat(OBJECTS_MAX));
    let long = format!("[{}0]", "0,".repeat(VALUES_MAX));
    let reserved = r#"{"a":1,"$serde_json::private::RawValue":"x"}"#;
    for body in ["{\"a\":", "1e999", r#""\ud800""#, "NaN", &deep, &many, &long, reserved] {
        assert_eq!(result_of("application/json", body), json!(body));
    }
}

#[test]
fn statuses_mean_what_the_contract_says() {
    for status in [408, 429, 500, 501, 502, 503, 504, 599] {
        assert_eq!(head(status, "").kind(), Kind::Passing, "{status}");
    }
    for status in [400, 401, 403, 404, 409, 410, 422, 600, 999] {
        assert_eq!(head(status, "").kind(), Kind::Error, "{status}");
    }
    let words = |status, media_type| match head(status, media_type).kind() {
        Kind::Useless(words) => words,
        other => panic!("{status} {media_type}: {other:?}"),
    };
    assert!(words(202, "application/json").contains("202"));
    assert!(words(200, "text/event-stream").contains("event stream"));
    assert!(words(307, "").contains("redirects are not followed"));
    let gzip = Head { encoding: Some("gzip".to_owned()), ..head(200, "text/plain") };
    let told = answer(&gzip, &whole([0x1f, 0x8b]), &[]);
    assert!(told.is_error && told.result.to_string().contains("gzip"), "{told:?}");
}

#[test]
fn an_error_is_told_in_the_tools_words() {
    let told = answer(&head(404, "text/html"), &whole("  no order 17\n"), &[]);
    assert_eq!(
        (told.result, told.is_error, told.http_status),
        (json!("no order 17"), true, Some(404))
    );
    let told = answer(&head(400, ""), &whole(""), &[]);
    assert_eq!(told.result, json!("the tool answered 400 without a text"));
    let long = Body { bytes: vec![b'x'; ERROR_BYTES_MAX], is_cut: true };
    assert_eq!(answer(&head(400, ""), &long, &[]).truncated, Some(true));
}

#[test]
fn an_envelope_sets_variables() {
    let told = |body: &str| answer(&head(200, ENVELOPE), &whole(body), &[]);
    let good = told(r#"{"result": {"id": 17}, "variables": {"order": 17, "x\u0000": "a\u0000"}}"#);
    assert_eq!((good.result, good.is_error), (json!({"id": 17}), false));
    let variables = json!({"order": 17, "x\u{fffd}": "a\u{fffd}"});
    assert_eq!(good.variables.map(Value::Object), Some(variables));
    assert_eq!(told(r#"{"result": "x"}"#).variables, None);
    assert_eq!(told("{}").result, Value::Null);
    let deep = format!(r#"{{"variables":{{"a":{}{}}}}}"#, "[".repeat(40), "]".repeat(40));
    for body in ["", "[]", "7", r#"{"variables":[]}"#, r#"{"result":1,"more":2}"#, &deep] {
        let told = told(body);
        assert!(told.is_error && told.variables.is_none(), "{body}: {told:?}");
        assert!(told.result.to_string().contains("tool-result+json"), "{told:?}");
    }
}

#[test]
fn a_secret_that_comes_back_is_hidden_wherever_it_stands() {
    let secrets = ["s3cret-value"];
    let body = r#"{"s3cret-value": ["Bearer s3cret-value"], "b": "s3cret\u002dvalue"}"#;
    let told = answer(&head(200, "application/json"), &whole(body), &secrets);
    assert_eq!(told.result, json!({"***": ["Bearer ***"], "b": "***"}));
    let told = answer(&head(401, ""), &whole("bad key s3cret-value!"), &secrets);
    assert_eq!(told.result, json!("bad key ***!"));
    let body = r#"{"result": "s3cret-value", "variables": {"k": "s3cret-value"}}"#;
    let told = answer(&head(200, ENVELOPE), &whole(body), &secrets);
    assert_eq!(told.variables.map(Value::Object), Some(json!({"k": "***"})));
    let body = r#"{"s3cret-value": 1}"#;
    let told = answer(&head(200, ENVELOPE), &whole(body), &secrets);
    assert!(told.is_error && !format!("{told:?}").contains("s3cret-value"), "{told:?}");
}

/// Bodies that have broken readers before: whatever follows is put in at random.
const HOSTILE: [&str; 14] = [
    "\0",
    "\u{feff}",
    "1e999999999",
    "-0.0",
    "123456789012345678901234567890",
    r#""\u0000""#,
    r#""\udc00\ud800""#,
    r#"{"a":1,"a":2}"#,
    r#"{"$serde_json::private::Number":"1"}"#,
    r#"{"$serde_json::private::RawValue":"["}"#,
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    r#"{"result":{"#,
    r#"{"result":null,"variables":{"a":"#,
    "\u{202e}\u{7f}\u{1b}[2J",
];

fn hostile_body() -> impl Strategy<Value = Vec<u8>> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..200);
    let known = prop::sample::select(&HOSTILE[..]).prop_map(|text| text.as_bytes().to_vec());
    let repeated =
        (prop::sample::select(vec!["[", "{\"a\":", "9", "\\u0000", "é", "{},"]), 0..3000_usize)
            .prop_map(|(piece, times)| piece.repeat(times).into_bytes());
    let part = prop_oneof![bytes, known, repeated];
    proptest::collection::vec(part, 0..5).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No panic, a result of bounded size, and an event that is read again as it was written.
    #[test]
    fn whatever_a_tool_sends_becomes_an_event_that_can_be_read_again(
        body in hostile_body(),
        is_cut in any::<bool>(),
        status in prop_oneof![Just(200), Just(200), 100..600_u16],
        media_type in prop::sample::select(vec!["", "application/json", "text/plain", ENVELOPE, "x"]),
    ) {
        let head = head(status, media_type);
        let mut body = Body { bytes: body, is_cut };
        body.bytes.truncate(head.bytes_max());
        let answer = answer(&head, &body, &["9999"]);
        let size = match &answer.result {
            Value::String(text) => text.len(),
            other => other.to_string().len(),
        };
        prop_assert!(size <= limits::TOOL_RESULT_BYTES.max(3 * ERROR_BYTES_MAX), "{size}");
        let body = Event::ToolResult {
            item: 1,
            call_id: CallId("call_1".to_owned()),
            tool_name: "t".to_owned(),
            result: answer.result,
            is_error: answer.is_error,
            outcome: answer.outcome,
            try_number: 1,
            http_status: answer.http_status,
            truncated: answer.truncated,
            elapsed_time: 0.0,
        };
        let mut bodies = vec![body];
        bodies.extend(answer.variables.map(|values| Event::VariablesSet { values }));
        for body in bodies {
            let text = format!("{{{}", Draft { turn: 1, attempt: 1, body: body.clone() }.to_text());
            prop_assert_eq!(serde_json::from_str::<Event>(&text).expect("it is read again"), body);
        }
    }
}
