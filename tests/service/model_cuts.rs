//! An answer of a model that breaks off, at every byte: it is void, and the run goes on from nothing of it.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::bulk;
use crate::client::{Client, of, spec};
use crate::recovery::violations;
use crate::scale::scaled;
use crate::service::{Service, Setup};
use crate::stub::Call;
use crate::wire_stub::{HEAD, Wire, WireStub, chunk, stream_of};

/// Bytes of the answer that is cut.
const BYTES: usize = 4096;

/// Runs that are created together, and how many such rounds are under way at once: few enough that each
/// ends in its time on a loaded machine.
const ROUND: usize = 32;
const ROUNDS: usize = 4;

/// The model's reasoning, and the arguments of its call.
const THOUGHT: &str = "What is six times seven? Ask the calculator — it’s safer.";
const ARGUMENTS: &str = r#"{"expression": "6*7"}"#;

/// What an answer says when it is whole.
#[derive(Clone, Debug)]
pub struct Whole {
    pub text: String,
    pub body: Vec<u8>,
    /// From so many bytes on the provider may have said its own end, and from so many it has.
    pub end: (usize, usize),
}

impl Whole {
    /// OpenAI's dialect.
    pub fn chat() -> Whole {
        Whole::filled(|text| {
            let delta = |delta: Value| {
                let choice = json!({"index": 0, "delta": delta, "finish_reason": null});
                event("", &json!({"id": "c", "model": "m", "choices": [choice]}))
            };
            let call = |piece: Value| delta(json!({"tool_calls": [piece]}));
            let mut events = vec![delta(json!({"role": "assistant", "content": null}))];
            let thoughts = pieces(THOUGHT).map(|one| delta(json!({"reasoning_content": one})));
            events.extend(thoughts);
            events.extend(pieces(text).map(|one| delta(json!({"content": one}))));
            let head = json!({"name": "calculator", "arguments": ""});
            events.push(call(json!({"index": 0, "id": "call_1", "type": "function",
                "function": head})));
            let arguments = pieces(ARGUMENTS)
                .map(|one| call(json!({"index": 0, "function": {"arguments": one}})));
            events.extend(arguments);
            let end = json!({"index": 0, "delta": {}, "finish_reason": "tool_calls"});
            let end = event("", &json!({"choices": [end]}));
            let usage = json!({"prompt_tokens": 10, "completion_tokens": 5});
            let usage = event("", &json!({"choices": [], "usage": usage}));
            (events.concat(), end, usage + "data: [DONE]\n\n")
        })
    }

    /// Anthropic's dialect.
    pub fn messages() -> Whole {
        Whole::filled(|text| {
            let say = |data: Value| event(data["type"].as_str().unwrap(), &data);
            let block = |index: usize, block: Value, deltas: Vec<Value>| {
                let mut said = say(json!({"type": "content_block_start", "index": index,
                    "content_block": block}));
                for delta in deltas {
                    said += &say(json!({"type": "content_block_delta", "index": index,
                        "delta": delta}));
                }
                said + &say(json!({"type": "content_block_stop", "index": index}))
            };
            let thoughts = pieces(THOUGHT)
                .map(|one| json!({"type": "thinking_delta", "thinking": one}))
                .chain([json!({"type": "signature_delta", "signature": "signed"})]);
            let texts = pieces(text).map(|one| json!({"type": "text_delta", "text": one}));
            let arguments = pieces(ARGUMENTS)
                .map(|one| json!({"type": "input_json_delta", "partial_json": one}));
            let call = json!({"type": "tool_use", "id": "toolu_1", "name": "calculator",
                "input": {}});
            let usage = json!({"input_tokens": 10, "output_tokens": 1});
            let before = [
                say(json!({"type": "message_start", "message": {"id": "msg_1", "content": [],
                    "model": "m", "usage": usage}})),
                block(0, json!({"type": "thinking", "thinking": ""}), thoughts.collect()),
                block(1, json!({"type": "text", "text": ""}), texts.collect()),
                block(2, call, arguments.collect()),
                say(json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"},
                    "usage": {"output_tokens": 5}})),
            ];
            (before.concat(), say(json!({"type": "message_stop"})), String::new())
        })
    }

    /// With a comment that makes it [`BYTES`] long; `say` gives what comes before the end, it, and more.
    fn filled(say: impl Fn(&str) -> (String, String, String)) -> Whole {
        let text = "Let’s see: 6 × 7 — «naïve» 👩‍👩‍👧. ".repeat(3);
        let (before, end, behind) = say(&text);
        let length = before.len() + end.len() + behind.len();
        let before = format!(":{}\n\n{before}", "-".repeat(BYTES - length - 3));
        let done = before.len() + end.len();
        // The empty line behind the end may be missing.
        Whole { text, body: (before + &end + &behind).into_bytes(), end: (done - 2, done) }
    }

    /// What is wrong with a log whose first turn should be this answer: violations of a partial turn.
    pub fn partial(&self, log: &[Value]) -> Vec<String> {
        let mut found = Vec::new();
        for done in of(log, "turn.completed").iter().filter(|one| one["turn"] == 1) {
            let said = |kind: &str| -> String {
                let parts = done["parts"].as_array().unwrap().iter();
                parts
                    .filter(|one| one["type"] == kind)
                    .filter_map(|one| one["text"].as_str())
                    .collect()
            };
            if (said("text").as_str(), said("reasoning").as_str()) != (&self.text, THOUGHT) {
                found.push(format!("a part of an answer was committed: {done}"));
            }
            let calls = of(log, "tool_call");
            if calls.len() != 1 || calls[0]["arguments_raw"] != ARGUMENTS {
                found.push(format!("a part of a call was committed: {calls:?}"));
            }
        }
        let count = |kind| of(log, kind).len();
        if count("turn.started") != count("turn.completed") + count("turn.aborted") {
            found.push("an attempt has no end, or two".to_owned());
        }
        found
    }
}

fn event(name: &str, data: &Value) -> String {
    let name = if name.is_empty() { String::new() } else { format!("event: {name}\n") };
    format!("{name}data: {data}\n\n")
}

/// A text in pieces of 16 characters, and a shorter one.
fn pieces(text: &str) -> impl Iterator<Item = String> {
    let letters: Vec<char> = text.chars().collect();
    let pieces: Vec<String> = letters.chunks(16).map(|piece| piece.iter().collect()).collect();
    pieces.into_iter()
}

/// What the service is started with: `chat` and `messages` are the stub in two dialects.
pub fn setup(root: &str, folder: &std::path::Path) -> Setup {
    let file = format!(
        "[providers.chat]\nkind = \"openai\"\nbase_url = \"{root}/v1\"\n\
         [providers.messages]\nkind = \"anthropic\"\nbase_url = \"{root}\"\napi_key_env = \"KEY\"\n"
    );
    Setup::default().env("KEY", "sk-test").file(folder, &file)
}

/// The answer behind the tool's result.
pub fn done(is_chat: bool) -> Vec<u8> {
    let body = if is_chat {
        let say = json!({"choices": [{"index": 0, "delta": {"content": "42."},
            "finish_reason": "stop"}]});
        event("", &say) + "data: [DONE]\n\n"
    } else {
        let message = json!({"type": "message", "id": "m", "model": "m", "stop_reason": "end_turn",
            "content": [{"type": "text", "text": "42."}]});
        event("message", &message)
    };
    stream_of(body.as_bytes())
}

/// A run with what may differ between two of the same answers taken out: ids, times, the input.
pub fn told(run: &Value) -> Value {
    let mut calls = run["tool_calls"].clone();
    for call in calls.as_array_mut().unwrap() {
        call.as_object_mut().unwrap().retain(|name, _| {
            ["tool_name", "arguments", "result", "status"].contains(&name.as_str())
        });
    }
    // Behind the user's words.
    let mut history = run["history"].as_array().unwrap()[1..].to_vec();
    for message in &mut history {
        message.as_object_mut().unwrap().retain(|name, _| name != "call_id");
        for call in message["tool_calls"].as_array_mut().into_iter().flatten() {
            call["call_id"] = Value::Null;
        }
    }
    json!([run["status"], run["final_output"], run["turn_count"], calls, history])
}

pub fn body(dialect: &str, input: &str) -> Value {
    let mut body = spec(&format!("{dialect}/m"), input);
    body["config"] = json!({"timeout_per_turn": 600, "max_time": 900});
    body
}

/// Where, and how, the answer to `cut DIALECT AT` breaks off: in the middle of a chunk, or as if the
/// body were at its end.
fn cut(whole: &Whole, at: usize) -> Vec<Wire> {
    let body = &whole.body[..at];
    if at.is_multiple_of(2) {
        return vec![Wire::Bytes(stream_of(body))];
    }
    let head = format!("{HEAD}{:x}\r\n", BYTES + 1);
    vec![Wire::Bytes([head.as_bytes(), body].concat()), Wire::Close]
}

async fn reference(client: &Client, dialect: &str) -> Value {
    let runs = bulk::create(client, &[body(dialect, &format!("whole {dialect}"))]).await;
    told(&bulk::ended(client, &runs[0]).await)
}

/// Runs whose answers break off at these bytes, with their logs, inputs and places.
async fn cut_all(
    client: &Client,
    dialect: &str,
    places: &[usize],
) -> Vec<(Value, Vec<Value>, String, usize)> {
    let inputs: Vec<String> = places.iter().map(|at| format!("cut {dialect} {at}")).collect();
    let bodies: Vec<Value> = inputs.iter().map(|input| body(dialect, input)).collect();
    let runs = bulk::create(client, &bodies).await;
    let looks = runs.into_iter().zip(inputs).zip(places);
    bulk::all(looks, |((run, input), at)| async move {
        (bulk::ended(client, &run).await, bulk::log(client, &run).await, input, *at)
    })
    .await
}

/// reliability.md, row 12: a cut at every byte.
#[tokio::test]
async fn an_answer_that_is_cut_at_any_byte_leaves_nothing_of_itself() {
    let cuts = scaled(64, BYTES);
    let (chat, messages) = (Whole::chat(), Whole::messages());
    let answers = [chat.clone(), messages.clone()];
    let stub = WireStub::start(move |call: &Call| {
        let words: Vec<&str> = call.input.split(' ').collect();
        let is_chat = words[1] == "chat";
        let whole = &answers[usize::from(!is_chat)];
        match (call.turn, call.attempt, words.get(2)) {
            (1, 1, Some(at)) => cut(whole, at.parse().unwrap()),
            (1, ..) => vec![Wire::Bytes(stream_of(&whole.body))],
            _ => vec![Wire::Bytes(done(is_chat))],
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let data = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let service = Service::in_folder(data, setup(&stub.root(), folder.path())).await;
    let (mut fired, mut ok, mut found, mut before) = (0, 0, Vec::new(), Vec::new());
    for (dialect, whole) in [("chat", &chat), ("messages", &messages)] {
        let expected = reference(&service.client, dialect).await;
        // In short few of the bytes, and all around the end.
        let few = (0..cuts).map(|n| n * BYTES / cuts);
        let places: BTreeSet<usize> =
            few.chain(whole.end.0 - 2..(whole.end.1 + 2).min(BYTES)).collect();
        let places: Vec<usize> = places.into_iter().collect();
        let looked = bulk::each(places.chunks(ROUND), ROUNDS, |some| {
            cut_all(&service.client, dialect, some)
        });
        let looked = looked.concat().await;
        for (run, log, input, at) in looked {
            let mut wrong = whole.partial(&log);
            wrong.extend(violations(&log, &[], &stub.counts(&input)));
            let voids = of(&log, "turn.aborted").len();
            fired += voids;
            ok += usize::from(run["status"] == "COMPLETED");
            let is_void = voids == 1;
            // Before the end it is void, behind it never, and in between as the bytes fell.
            if (at < whole.end.0 && !is_void) || (at >= whole.end.1 && is_void) {
                wrong.push(format!("void: {is_void}"));
            }
            if told(&run) != expected {
                wrong.push(format!("another fold: {} instead of {expected}", told(&run)));
            }
            found.extend(wrong.into_iter().map(|wrong| format!("{input}: {wrong}")));
            before.push(run);
        }
    }
    // What was folded as it came is folded the same from the disk.
    let service = service.kill().await.start().await;
    let again = bulk::all(before.iter().step_by(before.len() / 64), |run| {
        let (client, path) = (&service.client, format!("/runs/{}", bulk::text(&run["run_id"])));
        async move { (bulk::get(client, &path).await, run) }
    });
    for (again, run) in again.await {
        if again != *run {
            found.push(format!("another fold after a restart: {again}"));
        }
    }
    println!("row=12 faults_fired={fired} ops_ok={ok} value={}", found.len());
    assert_eq!(found, Vec::<String>::new());
    assert!(
        fired >= 2 * cuts - 100 && ok == before.len(),
        "{fired} cuts, {ok} of {}",
        before.len()
    );
}

/// The control: a provider that cuts its own answer and calls that its end.
#[tokio::test]
async fn a_partial_turn_that_was_committed_is_found() {
    let whole = Whole::chat();
    let answer = whole.clone();
    let stub = WireStub::start(move |call: &Call| {
        if call.turn > 1 {
            return vec![Wire::Bytes(done(true))];
        }
        let half = String::from_utf8_lossy(&answer.body[..BYTES / 2]);
        let half = &half[..half.rfind("\n\n").unwrap() + 2];
        let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
        let body = format!("{half}data: {end}\n\ndata: [DONE]\n\n");
        vec![Wire::Bytes([HEAD.as_bytes(), &chunk(body.as_bytes()), b"0\r\n\r\n"].concat())]
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let data = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let service = Service::in_folder(data, setup(&stub.root(), folder.path())).await;
    let runs = bulk::create(&service.client, &[body("chat", "half")]).await;
    bulk::ended(&service.client, &runs[0]).await;
    let found = whole.partial(&bulk::log(&service.client, &runs[0]).await);
    println!("row=12 control=true faults_fired=1 value={}", found.len());
    assert!(!found.is_empty(), "the checker sees nothing");
}
