//! The shapes that real servers send, each by the server that sends it.

use super::*;
use crate::model::Remedy;

fn assemble(chunks: &[Value]) -> (String, String, Result<Reply, Failure>) {
    let mut assembly = Assembly::new("stub");
    let (mut said, mut thought) = (String::new(), String::new());
    for chunk in chunks {
        match assembly.take(None, chunk) {
            Ok(deltas) => {
                for delta in deltas {
                    match delta {
                        Delta::Text(text) => said.push_str(&text),
                        Delta::Reasoning { text, .. } => thought.push_str(&text),
                    }
                }
            }
            Err(failure) => return (said, thought, Err(failure)),
        }
    }
    (said, thought, assembly.end(None))
}

fn delta(delta: Value) -> Value {
    json!({"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta}]})
}

fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

fn piece(piece: Value) -> Value {
    delta(json!({"content": null, "tool_calls": [piece]}))
}

/// Name and arguments of every call.
fn calls(chunks: &[Value]) -> Vec<(String, String)> {
    let reply = assemble(chunks).2.expect("a reply");
    reply.calls.into_iter().map(|call| (call.tool_name, call.arguments_raw)).collect()
}

fn pair(name: &str, arguments: &str) -> (String, String) {
    (name.to_owned(), arguments.to_owned())
}

#[test]
fn rule_13_openai_usage_in_a_last_chunk_without_choices() {
    let (said, _, reply) = assemble(&[
        delta(json!({"role": "assistant", "content": ""})),
        delta(json!({"content": "Hel"})),
        delta(json!({"content": "lo"})),
        finish("stop"),
        json!({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2,
            "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 0}}}),
    ]);
    let reply = reply.expect("a reply");
    assert_eq!((said.as_str(), reply.finish_reason), ("Hello", FinishReason::Stop));
    let usage = reply.usage;
    assert_eq!(
        (usage.input_tokens, usage.output_tokens, usage.total_tokens),
        (Some(5), Some(2), Some(7))
    );
    assert_eq!((usage.cached_input_tokens, usage.reasoning_tokens), (Some(3), Some(0)));
    assert_eq!((reply.model.as_str(), reply.provider_request_id.as_deref()), ("m", Some("c1")));
}

#[test]
fn rule_13_localai_zeros_until_the_last_and_litellm_usage_beside_a_choice() {
    let zeros = json!({"choices": [{"index": 0, "delta": {"content": "x"}}],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0}});
    let last = json!({"choices": [{"index": 0, "delta": {}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4}});
    let (said, _, reply) = assemble(&[zeros.clone(), finish("stop"), last, zeros]);
    let usage = reply.expect("a reply").usage;
    assert_eq!(
        (usage.input_tokens, usage.output_tokens, usage.total_tokens),
        (Some(9), Some(4), Some(13))
    );
    assert_eq!(said, "x", "what comes after the terminal reason is no output");
}

#[test]
fn rule_10_azure_begins_with_a_chunk_without_choices_and_mistral_sends_parts() {
    let (said, thought, reply) = assemble(&[
        json!({"choices": [], "id": "", "model": "", "prompt_filter_results": []}),
        delta(
            json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
        ),
        delta(json!({"content": [{"type": "text", "text": "yes"}]})),
        finish("stop"),
    ]);
    assert_eq!((said.as_str(), thought.as_str()), ("yes", "hm"));
    assert_eq!(reply.expect("a reply").model, "m");
}

#[test]
fn rule_11_reasoning_has_two_names_and_is_taken_once() {
    for field in ["reasoning", "reasoning_content"] {
        let (said, thought, reply) = assemble(&[
            delta(json!({field: "think"})),
            delta(json!({"content": "", field: "ing"})),
            delta(json!({"content": "so"})),
            finish("stop"),
        ]);
        assert_eq!((said.as_str(), thought.as_str()), ("so", "thinking"), "{field}");
        assert!(reply.is_ok());
    }
    let both = delta(json!({"reasoning": "a", "reasoning_content": "a"}));
    assert_eq!(assemble(&[both, finish("stop")]).1, "a");
}

#[test]
fn rule_12_an_empty_answer_and_one_of_reasoning_only_are_answers() {
    let empty = assemble(&[delta(json!({"role": "assistant"})), finish("stop")]);
    assert!(empty.0.is_empty() && empty.2.is_ok());
    let thought = assemble(&[delta(json!({"reasoning": "hm"})), finish("stop")]);
    assert_eq!((thought.1.as_str(), thought.2.is_ok()), ("hm", true));
}

#[test]
fn rule_8_calls_are_put_together_however_they_come() {
    let openai = [
        piece(
            json!({"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}),
        ),
        piece(json!({"index": 0, "function": {"arguments": "{\"x\""}})),
        piece(json!({"index": 1, "id": "b", "function": {"name": "g"}})),
        piece(json!({"index": 0, "function": {"arguments": ":1}"}})),
        piece(json!({"index": 1, "function": {"arguments": "{}"}})),
        finish("tool_calls"),
    ];
    assert_eq!(calls(&openai), [pair("f", "{\"x\":1}"), pair("g", "{}")]);
    let ollama = [
        piece(json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}})),
        piece(json!({"index": 0, "id": "b", "function": {"name": "f", "arguments": "{}"}})),
        finish("tool_calls"),
    ];
    assert_eq!(calls(&ollama), [pair("f", "{}"), pair("f", "{}")]);
    let llama_cpp = [
        piece(json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{\"x\""}})),
        piece(json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": ":1}"}})),
        piece(json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}})),
        finish("tool_calls"),
    ];
    assert_eq!(calls(&llama_cpp), [pair("f", "{\"x\":1}")], "id and name are set, not appended");
    let tgi = [
        piece(json!({"index": 0, "id": "0", "function": {"name": "f", "arguments": "{\"x\":"}})),
        piece(json!({"index": 0, "id": "0", "function": {"arguments": "1}"}})),
        piece(json!({"index": 0, "id": "0", "function": {"name": "f", "arguments": "{\"x\":2}"}})),
        finish("stop"),
    ];
    assert_eq!(calls(&tgi), [pair("f", "{\"x\":1}"), pair("f", "{\"x\":2}")]);
    let gemini = [
        piece(json!({"id": "a", "function": {"name": "f", "arguments": "{\"x\""}})),
        piece(json!({"function": {"arguments": ":1}"}})),
        piece(json!({"id": "b", "function": {"name": "g", "arguments": "{}"}})),
        finish("stop"),
    ];
    assert_eq!(calls(&gemini), [pair("f", "{\"x\":1}"), pair("g", "{}")]);
}

#[test]
fn rule_11_opaque_fields_of_a_call_are_kept_also_when_they_come_alone() {
    let reply = assemble(&[
        piece(json!({"index": 0, "id": "a", "function": {"name": "f"}})),
        piece(json!({"index": 0, "extra_content": {"google": {"thought_signature": "s"}}})),
        finish("stop"),
    ]);
    let call = reply.2.expect("a reply").calls.remove(0);
    assert_eq!(
        call.provider_metadata,
        Some(json!({"provider": "stub",
            "fields": {"extra_content": {"google": {"thought_signature": "s"}}}}))
    );
    assert_eq!(call.arguments_raw, "", "no arguments are none");
}

#[test]
fn rules_6_and_7_a_cut_message_runs_no_calls() {
    for reason in ["length", "content_filter", "something_new"] {
        let reply = assemble(&[
            piece(json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{\"x"}})),
            finish(reason),
        ]);
        let reply = reply.2.expect("a reply");
        assert!(reply.calls.is_empty(), "{reason}");
        assert_eq!(reply.finish_reason_raw, reason);
    }
}

#[test]
fn rules_1_3_and_6_without_a_terminal_reason_it_is_a_cut_and_may_be_tried_again() {
    for chunks in [vec![], vec![delta(json!({"content": "half"}))]] {
        let failure = assemble(&chunks).2.expect_err("no end");
        assert_eq!((failure.reason, failure.remedy), (AbortReason::Cut, Remedy::Retry));
    }
    for reason in ["abort", "error", "insufficient_system_resource"] {
        let failure = assemble(&[finish(reason)]).2.expect_err(reason);
        assert_eq!(failure.remedy, Remedy::Retry, "{reason}");
    }
    let failure = assemble(&[finish("model_length")]).2.expect_err("too long");
    assert_eq!(failure.remedy, Remedy::ContextOverflow);
}

#[test]
fn rules_2_and_4_an_error_in_the_stream_counts_before_the_end_and_not_after() {
    let error = json!({"error": {"message": "bad schema", "code": 400}});
    let failure = assemble(&[delta(json!({"content": "x"})), error.clone()]).2.expect_err("400");
    assert_eq!((failure.remedy, failure.status), (Remedy::Final, Some(400)));
    let (_, _, reply) = assemble(&[finish("stop"), error, finish("length")]);
    assert_eq!(reply.expect("whole").finish_reason, FinishReason::Stop, "the first reason counts");
}

#[test]
fn rule_10_other_choices_nulls_and_whole_answers_are_taken() {
    let (said, _, reply) = assemble(&[
        json!({"choices": [{"index": 1, "delta": {"content": "no"}},
            {"index": 0, "delta": {"content": "yes"}}], "error": null, "usage": null}),
        json!({"choices": [{"delta": null, "finish_reason": null}]}),
        json!({"choices": null}),
        json!({"choices": [{"message": {"content": "!"}, "finish_reason": "stop"}]}),
    ]);
    assert_eq!((said.as_str(), reply.is_ok()), ("yes!", true));
}

#[test]
fn a_reply_without_end_is_refused() {
    let chunk = delta(json!({"content": "x".repeat(100_000)}));
    let failure = assemble(&vec![chunk; 6]).2.expect_err("too large");
    assert_eq!(failure.remedy, Remedy::Final);
}

#[test]
fn rule_7_calls_run_whatever_the_natural_reason_says() {
    for reason in ["stop", "tool_calls", "function_call"] {
        let call = json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{\"a\": 1, \"b\":"}});
        let told = calls(&[piece(call), finish(reason)]);
        assert_eq!(told, [pair("f", "{\"a\": 1, \"b\":")], "{reason}: broken arguments are told");
    }
}

#[test]
fn rule_4_errors_are_objects_or_texts_and_come_with_choices_or_without() {
    for (event, status) in [
        (json!({"error": "not escaped"}), None),
        (json!({"error": {"message": "m", "http_status_code": 422}}), Some(422)),
        (json!({"error": {"code": 502, "message": "m"}, "choices": []}), Some(502)),
        (
            json!({"error": {"code": 502, "message": "m"},
            "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}),
            Some(502),
        ),
    ] {
        let failure = assemble(&[event]).2.expect_err("an error");
        assert_eq!(failure.status, status);
    }
}
