//! What the stub says in Anthropic's dialect.

use serde_json::{Value, json};

use crate::stub::Do;

/// Whether a user's message carries results of tools.
pub fn is_result(message: &Value) -> bool {
    message["content"].as_array().is_some_and(|blocks| blocks[0]["type"] == "tool_result")
}

/// The head of every answer: 10 tokens in, 4 of them from the cache and 1 written to it.
pub fn start() -> String {
    let usage = json!({"input_tokens": 5, "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 1, "output_tokens": 1});
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "content": [],
        "model": "stub-claude", "stop_reason": null, "usage": usage});
    event(&json!({"type": "message_start", "message": message}))
}

/// What a step says in one write, where it says anything of its own in this dialect.
pub fn events(step: &Do, index: usize) -> Option<String> {
    match step {
        Do::Say(text) => {
            let delta = json!({"type": "text_delta", "text": text});
            Some(block(index, &json!({"type": "text", "text": ""}), &[delta]))
        }
        Do::Think(text) => {
            let deltas = [
                json!({"type": "thinking_delta", "thinking": text}),
                json!({"type": "signature_delta", "signature": format!("signed {text}")}),
            ];
            Some(block(index, &json!({"type": "thinking", "thinking": ""}), &deltas))
        }
        Do::Call(name, arguments) => {
            let arguments = arguments.to_string();
            let (head, tail) = arguments.split_at(arguments.len() / 2);
            let piece = |text: &str| json!({"type": "input_json_delta", "partial_json": text});
            let id = format!("toolu_{index}");
            let call = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
            Some(block(index, &call, &[piece(""), piece(head), piece(tail)]))
        }
        Do::Finish(reason) => {
            let delta = json!({"stop_reason": reason, "stop_sequence": null});
            let end = json!({"type": "message_delta", "delta": delta,
                "usage": {"output_tokens": 5}});
            Some(event(&end) + &event(&json!({"type": "message_stop"})))
        }
        Do::Words(..) => panic!("not said in this dialect"),
        Do::Raw(_) | Do::Bytes(_) | Do::Wait(_) | Do::Hang | Do::Cut | Do::Refuse(..) => None,
    }
}

fn block(index: usize, block: &Value, deltas: &[Value]) -> String {
    let start = json!({"type": "content_block_start", "index": index, "content_block": block});
    let mut text = event(&start);
    for delta in deltas {
        text += &event(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
    }
    text + &event(&json!({"type": "content_block_stop", "index": index}))
}

fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap())
}
