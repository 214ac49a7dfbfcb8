//! What holds for every answer of a server, however hostile. The fuzz targets check the same.

use runledger::model::replay::{Replayed, Spoken, replay};
use runledger::model::sse_decoder::{EVENT_BYTES_MAX, SseDecoder};
use runledger::model::{Delta, REPLY_BYTES_MAX};
use runledger::run::event::FinishReason;
use runledger::run::limits::TOOL_RESULT_BYTES;
use runledger::run::{Body, CallId, Draft, Event};
use runledger::tool;

/// Reads an answer in several ways and checks what must hold for each of them.
pub fn answer(spoken: Spoken, body: &[u8]) -> Replayed {
    let whole = replay(spoken, body, usize::MAX);
    if body.len() < EVENT_BYTES_MAX {
        for read_bytes in [1, 7] {
            assert_eq!(replay(spoken, body, read_bytes), whole, "reads of {read_bytes} bytes");
        }
    }
    let said: usize = whole.deltas.iter().map(size).sum();
    // The last event is taken before its size is looked at.
    assert!(said <= 2 * (REPLY_BYTES_MAX + EVENT_BYTES_MAX), "{said} bytes of output");
    match &whole.ended {
        Ok(reply) => {
            assert!(!reply.finish_reason_raw.is_empty(), "the provider has said that it ended");
            let may_run = reply.finish_reason == FinishReason::ToolCalls;
            assert_eq!(may_run, !reply.calls.is_empty(), "calls are there to be run");
            assert!(reply.calls.len() <= 1024, "{} calls", reply.calls.len());
            let ids = reply.calls.iter().filter_map(|call| call.provider_call_id.as_ref());
            let names = [&reply.model, &reply.finish_reason_raw];
            for name in ids.chain(names).chain(&reply.provider_request_id) {
                assert!(name.chars().count() <= 256, "an id of {} bytes", name.len());
            }
        }
        Err(failure) => {
            assert!(failure.message.chars().count() <= 512, "{}", failure.message);
            assert!(failure.has_begun, "a 200 had come");
        }
    }
    whole
}

fn size(delta: &Delta) -> usize {
    match delta {
        Delta::Text(text) => {
            assert!(!text.is_empty(), "an empty text is none");
            text.len()
        }
        Delta::Reasoning { text, provider_metadata } => {
            text.len() + provider_metadata.as_ref().map_or(0, |opaque| opaque.to_string().len())
        }
    }
}

/// Reads bytes as events, in several ways; what comes out is never more than what went in, but for
/// bytes that are no UTF-8.
pub fn events(bytes: &[u8]) {
    let read = |read_bytes: usize| {
        let mut decoder = SseDecoder::default();
        let mut events = Vec::new();
        for piece in bytes.chunks(read_bytes) {
            match decoder.push(piece) {
                Ok(more) => events.extend(more),
                Err(too_large) => return Err(too_large),
            }
        }
        events.extend(decoder.finish());
        Ok(events)
    };
    let whole = read(bytes.len().max(1));
    if bytes.len() < EVENT_BYTES_MAX {
        let whole = whole.clone().expect("nothing is too large");
        for read_bytes in [1, 2, 13] {
            assert_eq!(read(read_bytes).as_ref(), Ok(&whole), "reads of {read_bytes} bytes");
        }
    }
    let size: usize = whole.unwrap_or_default().iter().map(|event| event.data.len()).sum();
    assert!(size <= 3 * bytes.len(), "{size} bytes of data out of {}", bytes.len());
}

/// What escapes and words of ours may add to what a tool said.
const TOOL_RESULT_MOST: usize = 8 * TOOL_RESULT_BYTES;

/// Reads an answer of a tool over HTTP: it is of bounded size, and its event can be read again.
pub fn tool_result(status: u16, media_type: &str, body: &[u8]) -> tool::Answer {
    let answer = tool::replay(status, media_type, body);
    let event = Body::ToolResult {
        item: 1,
        call_id: CallId("call_1".to_owned()),
        tool_name: "t".to_owned(),
        result: answer.result.clone(),
        is_error: answer.is_error,
        outcome: answer.outcome,
        try_number: 1,
        http_status: answer.http_status,
        truncated: answer.truncated,
        elapsed_time: 0.0,
    };
    let draft = Draft { turn: 1, attempt: 1, body: event };
    let stored = format!(r#"{{"seq":1,"at":"",{}"#, draft.to_text());
    assert!(stored.len() <= TOOL_RESULT_MOST, "{} bytes", stored.len());
    let read: Event = serde_json::from_str(&stored).expect("it can be read again");
    assert_eq!(read.body, draft.body);
    answer
}
