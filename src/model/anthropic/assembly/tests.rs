//! The shapes that real servers send, each by the server that sends it.

use super::*;
use crate::model::Remedy;

/// The output in order, `said` and `[thought]`, the opaque data behind it, and how it ended.
fn assemble(events: &[Value]) -> (String, Vec<Value>, Result<Reply, Failure>) {
    let mut assembly = Assembly::new("stub");
    let (mut said, mut opaque) = (String::new(), Vec::new());
    for event in events {
        match assembly.take(None, event) {
            Ok(deltas) => {
                for delta in deltas {
                    match delta {
                        Delta::Text(text) => said.push_str(&text),
                        Delta::Reasoning { text, provider_metadata } => {
                            if !text.is_empty() {
                                said.push_str(&format!("[{text}]"));
                            }
                            opaque.extend(provider_metadata);
                        }
                    }
                }
            }
            Err(failure) => return (said, opaque, Err(failure)),
        }
    }
    (said, opaque, assembly.end(None))
}

fn start() -> Value {
    json!({"type": "message_start", "message": {"id": "msg_1", "model": "claude", "content": [],
        "usage": {"input_tokens": 3, "cache_read_input_tokens": 5,
            "cache_creation_input_tokens": 7, "output_tokens": 1}}})
}

fn begin(index: u64, block: Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn piece(index: u64, delta: Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}

fn say(index: u64, text: &str) -> Value {
    piece(index, json!({"type": "text_delta", "text": text}))
}

fn close(index: u64) -> Value {
    json!({"type": "content_block_stop", "index": index})
}

fn reason(stop_reason: &str) -> Value {
    json!({"type": "message_delta", "delta": {"stop_reason": stop_reason, "stop_sequence": null},
        "usage": {"output_tokens": 11}})
}

fn stop() -> Value {
    json!({"type": "message_stop"})
}

fn call(index: u64, id: &str, name: &str, pieces: &[&str]) -> Vec<Value> {
    let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
    let delta =
        |text: &&str| piece(index, json!({"type": "input_json_delta", "partial_json": text}));
    let pieces = pieces.iter().map(delta);
    [begin(index, block)].into_iter().chain(pieces).chain([close(index)]).collect()
}

/// Name and arguments of every call.
fn calls(events: &[Value]) -> Vec<(String, String)> {
    let reply = assemble(events).2.expect("a reply");
    reply.calls.into_iter().map(|call| (call.tool_name, call.arguments_raw)).collect()
}

fn pair(name: &str, arguments: &str) -> (String, String) {
    (name.to_owned(), arguments.to_owned())
}

#[test]
fn rule_13_anthropic_input_stands_at_the_start_and_output_at_the_end() {
    let text = json!({"type": "text", "text": ""});
    let (said, _, reply) = assemble(&[
        start(),
        begin(0, text),
        json!({"type": "ping"}),
        say(0, "Hel"),
        say(0, "lo"),
        close(0),
        reason("end_turn"),
        stop(),
    ]);
    let reply = reply.expect("a reply");
    assert_eq!((said.as_str(), reply.finish_reason), ("Hello", FinishReason::Stop));
    let usage = Usage {
        input_tokens: Some(15),
        cached_input_tokens: Some(5),
        cache_write_input_tokens: Some(7),
        output_tokens: Some(11),
        total_tokens: Some(26),
        ..Usage::default()
    };
    assert_eq!(reply.usage, usage, "input is all input, the cache's included");
    let ids = (reply.model.as_str(), reply.provider_request_id.as_deref());
    assert_eq!(ids, ("claude", Some("msg_1")));
}

#[test]
fn rule_13_litellm_zeros_at_the_start_and_llama_server_without_its_cache() {
    let zeros = json!({"type": "message_start", "message":
        {"usage": {"input_tokens": 0, "output_tokens": 0}}});
    let delta = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"},
        "usage": {"input_tokens": 9, "output_tokens": 4}});
    let usage = assemble(&[zeros, delta, stop()]).2.expect("a reply").usage;
    assert_eq!((usage.input_tokens, usage.output_tokens), (Some(9), Some(4)));
    let llama = json!({"type": "message_start", "message":
        {"usage": {"input_tokens": 2, "cache_read_input_tokens": 30, "output_tokens": 0}}});
    let usage = assemble(&[llama, reason("end_turn"), stop()]).2.expect("a reply").usage;
    assert_eq!((usage.input_tokens, usage.cached_input_tokens), (Some(32), Some(30)));
    let nothing = assemble(&[reason("end_turn"), stop()]).2.expect("lives without").usage;
    assert_eq!((nothing.input_tokens, nothing.total_tokens), (None, None));
}

#[test]
fn rule_11_thinking_ends_with_its_signature_and_redacted_thinking_is_kept() {
    let (said, opaque, reply) = assemble(&[
        start(),
        begin(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
        piece(0, json!({"type": "thinking_delta", "thinking": "hm"})),
        piece(0, json!({"type": "signature_delta", "signature": "c2ln"})),
        close(0),
        begin(1, json!({"type": "redacted_thinking", "data": "b3Bh"})),
        close(1),
        begin(2, json!({"type": "text", "text": "so"})),
        close(2),
        reason("end_turn"),
        stop(),
    ]);
    assert_eq!(said, "[hm]so");
    let own = |fields: Value| json!({"provider": "stub", "fields": fields});
    let expected = [own(json!({"signature": "c2ln"})), own(json!({"redacted_thinking": "b3Bh"}))];
    assert_eq!(opaque, expected);
    assert!(reply.is_ok());
    // vLLM's thinking has no signature: it is shown, and never goes back.
    let thought = piece(0, json!({"type": "thinking_delta", "thinking": "hm"}));
    let (said, opaque, _) = assemble(&[thought, say(1, "so"), reason("end_turn"), stop()]);
    assert_eq!((said.as_str(), opaque.len()), ("[hm]so", 0));
}

#[test]
fn rule_12_an_answer_may_be_empty_or_reasoning_or_calls_alone() {
    assert!(assemble(&[start(), reason("end_turn"), stop()]).2.is_ok());
    let thought = piece(0, json!({"type": "thinking_delta", "thinking": "hm"}));
    let (said, _, reply) = assemble(&[thought, reason("end_turn"), stop()]);
    assert_eq!((said.as_str(), reply.is_ok()), ("[hm]", true));
    let only_calls = [call(0, "a", "f", &["{}"]), vec![reason("tool_use"), stop()]].concat();
    assert_eq!(calls(&only_calls), [pair("f", "{}")]);
}

#[test]
fn rules_7_and_8_calls_are_put_together_by_their_block() {
    let two = [
        vec![start()],
        call(0, "toolu_1", "f", &["", "{\"x\"", ":1}"]),
        call(1, "toolu_2", "g", &[]),
    ]
    .concat();
    for natural in ["tool_use", "end_turn", "stop_sequence"] {
        let events = [two.clone(), vec![reason(natural), stop()]].concat();
        assert_eq!(calls(&events), [pair("f", "{\"x\":1}"), pair("g", "{}")], "{natural}");
    }
    let reply = assemble(&[two, vec![reason("tool_use"), stop()]].concat()).2.expect("a reply");
    assert_eq!(reply.calls[0].provider_call_id.as_deref(), Some("toolu_1"));
    let broken = [call(0, "a", "f", &["{\"x\":"]), vec![reason("tool_use"), stop()]].concat();
    assert_eq!(calls(&broken), [pair("f", "{\"x\":")], "told to the model, not an error here");
}

#[test]
fn rule_22_blocks_overlap_and_input_may_stand_in_the_start_and_stops_may_be_missing() {
    let whole = json!({"type": "tool_use", "id": "x", "name": "f", "input": {"a": 1}});
    let bare = json!({"type": "tool_use", "id": "y", "name": "g"});
    let (said, _, reply) = assemble(&[
        start(),
        begin(0, json!({"type": "text", "text": ""})),
        say(0, "I "),
        begin(1, whole),
        begin(2, bare),
        piece(2, json!({"type": "input_json_delta", "partial_json": "{\"b\":"})),
        say(0, "ask."),
        piece(2, json!({"type": "input_json_delta", "partial_json": "2}"})),
        close(0),
        close(1),
        reason("tool_use"),
        stop(),
    ]);
    let calls = reply.expect("a reply").calls;
    let told: Vec<(&str, &str)> =
        calls.iter().map(|call| (call.tool_name.as_str(), call.arguments_raw.as_str())).collect();
    assert_eq!((said.as_str(), told), ("I ask.", vec![("f", "{\"a\":1}"), ("g", "{\"b\":2}")]));
    // A thought that another block overtakes keeps its signature.
    let (said, opaque, _) = assemble(&[
        begin(0, json!({"type": "thinking", "thinking": "hm"})),
        piece(0, json!({"type": "signature_delta", "signature": "s"})),
        begin(1, json!({"type": "text", "text": "so"})),
        close(0),
        close(1),
        reason("end_turn"),
        stop(),
    ]);
    assert_eq!((said.as_str(), opaque.len()), ("[hm]so", 1));
}

#[test]
fn rule_22_unknown_events_blocks_and_pieces_are_ignored() {
    let (said, _, reply) = assemble(&[
        start(),
        json!({"type": "news", "index": 0}),
        json!({"no": "type"}),
        json!([1]),
        json!(null),
        begin(0, json!({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}})),
        piece(0, json!({"type": "input_json_delta", "partial_json": "{"})),
        begin(1, json!({"type": "text", "text": ""})),
        piece(1, json!({"type": "citations_delta", "citation": {}})),
        say(1, "yes"),
        reason("end_turn"),
        stop(),
    ]);
    let reply = reply.expect("a reply");
    assert_eq!(
        (said.as_str(), reply.finish_reason, reply.calls.len()),
        ("yes", FinishReason::Stop, 0)
    );
}

#[test]
fn rules_1_and_3_only_a_known_reason_and_message_stop_make_a_reply() {
    for events in [vec![], vec![start(), say(0, "half")], vec![start(), reason("end_turn")]] {
        let failure = assemble(&events).2.expect_err("no message_stop");
        assert_eq!((failure.reason, failure.remedy), (AbortReason::Cut, Remedy::Retry));
    }
    let failure = assemble(&[start(), say(0, "x"), stop()]).2.expect_err("no reason");
    assert_eq!((failure.reason, failure.remedy), (AbortReason::Cut, Remedy::Retry));
    assert_eq!(
        failure.usage.and_then(|usage| usage.input_tokens),
        Some(15),
        "it is told all the same"
    );
}

#[test]
fn rules_6_and_7_a_message_that_broke_off_runs_no_calls() {
    let of = |raw: &str| {
        let events = [call(0, "a", "f", &["{\"x"]), vec![reason(raw), stop()]].concat();
        assemble(&events).2
    };
    for (raw, finish_reason) in [
        ("max_tokens", FinishReason::Length),
        ("refusal", FinishReason::ContentFilter),
        ("pause_turn", FinishReason::Other),
        ("something_new", FinishReason::Other),
    ] {
        let reply = of(raw).expect("a reply");
        assert_eq!((reply.finish_reason, reply.calls.len()), (finish_reason, 0), "{raw}");
        assert_eq!(reply.finish_reason_raw, raw);
    }
    for raw in ["abort", "error"] {
        assert_eq!(of(raw).expect_err(raw).remedy, Remedy::Retry, "{raw}");
    }
    let failure = of("model_context_window_exceeded").expect_err("too long");
    assert_eq!(failure.remedy, Remedy::ContextOverflow);
}

#[test]
fn rules_4_and_5_an_error_counts_by_its_status_or_its_type_wrapped_or_not() {
    for (kind, remedy, status) in [
        ("overloaded_error", Remedy::Retry, Some(529)),
        ("rate_limit_error", Remedy::Retry, Some(429)),
        ("api_error", Remedy::Retry, Some(500)),
        ("internal_error", Remedy::Retry, None),
        ("invalid_request_error", Remedy::Final, Some(400)),
        ("authentication_error", Remedy::Fallback, Some(401)),
        ("not_found_error", Remedy::Fallback, Some(404)),
    ] {
        let error = json!({"type": kind, "message": "m"});
        let event = json!({"type": "error", "error": error});
        let failure = assemble(&[start(), say(0, "x"), event]).2.expect_err(kind);
        assert_eq!((failure.remedy, failure.status), (remedy, status), "{kind}");
    }
    // llama-server has no wrapper; LiteLLM no `event:` and a status as text.
    let mut assembly = Assembly::new("stub");
    let bare = json!({"code": 500, "message": "m", "type": "server_error"});
    let failure = assembly.take(Some("error"), &bare).expect_err("an error");
    assert_eq!((failure.status, failure.message.as_str()), (Some(500), "m"));
    let late = json!({"error": {"message": "m", "type": null, "code": "429"}});
    assert_eq!(assemble(&[late]).2.expect_err("an error").status, Some(429));
    let text = json!({"error": "only words"});
    assert_eq!(assemble(&[text]).2.expect_err("an error").message, "only words");
}

#[test]
fn rule_2_the_first_reason_counts_and_what_follows_the_end_takes_nothing_back() {
    let error = json!({"type": "error", "error": {"type": "api_error", "message": "m"}});
    let events =
        [say(0, "x"), reason("end_turn"), reason("max_tokens"), stop(), error, say(0, "y")];
    let (said, _, reply) = assemble(&events);
    assert_eq!((said.as_str(), reply.expect("whole").finish_reason), ("x", FinishReason::Stop));
}

#[test]
fn rule_14_a_whole_answer_that_was_not_streamed_is_taken() {
    let message = json!({"type": "message", "id": "msg_1", "model": "claude", "role": "assistant",
        "content": [{"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "yes"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}],
        "stop_reason": "tool_use", "usage": {"input_tokens": 2, "output_tokens": 3}});
    let (said, opaque, reply) = assemble(&[message]);
    let reply = reply.expect("a reply");
    assert_eq!((said.as_str(), opaque.len(), reply.calls.len()), ("[hm]yes", 1, 1));
    assert_eq!(reply.usage.total_tokens, Some(5));
}

#[test]
fn a_reply_without_end_is_refused() {
    let piece = say(0, &"x".repeat(100_000));
    let failure = assemble(&vec![piece; 6]).2.expect_err("too large");
    assert_eq!(failure.remedy, Remedy::Final);
    let blocks: Vec<Value> =
        (0..2000).map(|index| begin(index, json!({"type": "tool_use"}))).collect();
    assert_eq!(assemble(&blocks).2.expect_err("too many").remedy, Remedy::Final);
}
