//! Runs as a client asks for them, and whether they became what they should.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::json;

use super::client::{Answer, Connection};
use crate::rig::script::text;

/// Seconds that a request may wait for its run: the most that the service allows.
const WAIT: u32 = 300;

/// Events in a page of a log.
const PAGE: usize = 1000;

/// What is asked for again and again, and what must come of it.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// The body, cut where the input goes.
    body: Arc<[String; 2]>,
    /// The text with which each run must end.
    pub(crate) text: Arc<str>,
}

impl Ask {
    /// Runs of the stub's model of this name (`rig/script.rs`), whose answer has so many deltas.
    pub(crate) fn new(model: &str, deltas: usize) -> Ask {
        Ask::with_tools(model, deltas, &json!([]))
    }

    /// The same with tools, as in the body of `POST /runs`.
    pub(crate) fn with_tools(model: &str, deltas: usize, tools: &serde_json::Value) -> Ask {
        let agent = json!({"name": "bench", "model": format!("openai/{model}"), "tools": tools});
        // The first waits in a queue while the last is being created.
        let config = json!({"max_turns": 1000, "max_time": 3600, "timeout_per_turn": 3600});
        let head = format!("{{\"agent\":{agent},\"config\":{config},\"input\":\"");
        Ask { body: Arc::new([head, "\"}".to_owned()]), text: text(deltas).into() }
    }

    /// The body of a run with this input, which must be its own among all: by it the stub knows the
    /// run. No character of it may need an escape.
    pub(crate) fn body(&self, input: &str) -> Vec<u8> {
        let [head, tail] = &*self.body;
        [head.as_bytes(), input.as_bytes(), tail.as_bytes()].concat()
    }

    /// Creates a run and waits for its end.
    pub(crate) async fn run(&self, on: &mut Connection, input: &str) -> Result<Run> {
        let answer = on.post(&format!("/runs?wait={WAIT}"), &self.body(input)).await?;
        Run::of(&answer, 201)
    }

    /// Creates a run: as it is when it is answered.
    pub(crate) async fn create(&self, on: &mut Connection, input: &str) -> Result<Run> {
        Run::of(&on.post("/runs", &self.body(input)).await?, 201)
    }

    /// What is wrong with a run that has ended.
    pub(crate) fn wrong(&self, run: &Run) -> Option<String> {
        let Run { run_id, status, .. } = run;
        if status != "COMPLETED" {
            return Some(format!("run {run_id} is {status}: {}", run.error()));
        }
        let said = run.final_output.as_deref().unwrap_or_default();
        (said != &*self.text).then(|| format!("run {run_id} says {said:?}"))
    }
}

/// What the benchmark reads of a run.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Run {
    pub(crate) run_id: String,
    pub(crate) status: String,
    pub(crate) final_output: Option<String>,
    pub(crate) last_seq: u64,
    error: Option<serde_json::Value>,
}

impl Run {
    fn of(answer: &Answer, status: u16) -> Result<Run> {
        let told = || String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(answer.status == status, "a run is answered with {}: {}", answer.status, told());
        serde_json::from_slice(&answer.body).with_context(told)
    }

    fn error(&self) -> String {
        self.error.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    /// Waits for the end of a run.
    pub(crate) async fn ended(on: &mut Connection, run_id: &str) -> Result<Run> {
        let omitted = "omit=history&omit=tool_calls&omit=input&omit=variables&omit=config";
        let path = format!("/runs/{run_id}?wait={WAIT}&{omitted}");
        Run::of(&on.get(&path).await?, 200)
    }
}

/// An event of a log's page.
#[derive(Debug, Deserialize)]
struct Logged {
    seq: u64,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    turn: u64,
    content: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct Page {
    data: Vec<Logged>,
    next_after: u64,
    last_seq: u64,
}

/// What is wrong with the whole log of a run that has ended: its numbers must be 1, 2, 3, …, the last
/// event `run.completed`, and the text of the last turn what the stub has sent.
pub(crate) async fn wrong_log(
    on: &mut Connection,
    run_id: &str,
    text: &str,
) -> Result<Option<String>> {
    let (mut expected, mut last) = (1, String::new());
    let (mut turn, mut said) = (0, String::new());
    let mut after = 0;
    loop {
        let path = format!("/runs/{run_id}/events?limit={PAGE}&after={after}");
        let page: Page = serde_json::from_slice(&on.get(&path).await?.body)?;
        for event in page.data {
            if event.seq != expected {
                let seq = event.seq;
                return Ok(Some(format!("run {run_id}: event {seq} where {expected} should be")));
            }
            expected += 1;
            if event.kind == "text" {
                if event.turn != turn {
                    said.clear();
                    turn = event.turn;
                }
                said.push_str(event.content.as_ref().and_then(|it| it.as_str()).unwrap_or(""));
            }
            last = event.kind;
        }
        after = page.next_after;
        if after >= page.last_seq {
            break;
        }
    }
    if last != "run.completed" {
        return Ok(Some(format!("run {run_id} ends with {last:?}")));
    }
    Ok((said != text).then(|| format!("run {run_id}: the log says {said:?}")))
}
