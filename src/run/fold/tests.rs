//! What the fold makes of single events; whole logs are in `decide` and `properties`.

use serde_json::Map;

use super::*;
use crate::run::event::{FinishReason, Usage};
use crate::run::id::Seq;
use crate::run::notation::log;

fn event(body: Body) -> Event {
    Event { seq: Seq(1), at: String::new(), turn: 1, attempt: 1, body }
}

#[test]
fn a_turns_parts_tell_which_items_are_used() {
    let parts = vec![OutputPart::Text { item: 7, text: "x".to_owned() }];
    let completed = event(Body::TurnCompleted {
        finish_reason: FinishReason::ToolCalls,
        parts,
        usage: Usage::default(),
        model: "a".to_owned(),
        provider_request_id: None,
        provider_metadata: None,
        elapsed_time: 0.0,
        first_output_time: None,
    });
    assert_eq!(State::fold([&completed]).last_item, 7);
}

#[test]
fn what_a_tool_sets_covers_what_the_spec_has() {
    let values = Map::from_iter([("user".to_owned(), Value::from("Bob"))]);
    let state = State::fold([&event(Body::VariablesSet { values })]);
    let mut spec = crate::run::notation::spec(&serde_json::json!({}));
    spec.variables = Map::from_iter([
        ("user".to_owned(), Value::from("Ann")),
        ("order".to_owned(), Value::from(17)),
    ]);
    let variables = Value::from(state.variables(&spec));
    assert_eq!(variables, serde_json::json!({"user": "Bob", "order": 17}));
}

#[test]
fn events_that_belong_to_nothing_are_passed_over() {
    // No release writes such a log; a fold that meets one all the same must not fail.
    let mut state = log("started").state;
    for body in [
        Body::Text { item: 1, content: "x".to_owned() },
        Body::ToolStarted {
            item: 1,
            call_id: CallId("nobody".to_owned()),
            try_number: 1,
            failed_before: None,
            child_run_id: None,
        },
    ] {
        state.apply(&event(body));
    }
    assert_eq!((state.calls_started(), state.open), (0, None));
}

#[test]
fn statuses_have_names() {
    for name in ["QUEUED", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"] {
        let status = Status::parse(name).expect("it is a status");
        assert_eq!(status.name(), name);
        assert_eq!(serde_json::to_value(status).expect("a word"), name);
    }
    assert_eq!(Status::parse("queued"), None);
}

#[test]
fn a_new_attempt_has_nothing_of_the_one_before() {
    let failed = log("started; asked; said x; broke overloaded 529 in 2").state;
    assert_eq!((failed.retry_in, failed.failures.len()), (Some(2.0), 1));
    let again = log("started; asked; said x; broke overloaded 529 in 2; asked").state;
    assert_eq!((again.retry_in, again.failures.len()), (None, 1));
    assert_eq!(again.open.map(|open| open.text), Some(String::new()));
    let cut = log("started; asked; said x; broke limit").state;
    assert_eq!(cut.partial.as_deref(), Some("x"));
    assert_eq!(log("started; asked; said x; broke limit; asked").state.partial, None);
}
