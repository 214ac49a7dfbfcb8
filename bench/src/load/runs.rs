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
#[derive(Clone, Debug, Deserialize)]
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

/// A log, read from its beginning.
#[derive(Debug, Default)]
struct Log {
    seq: u64,
    last: String,
    turn: u64,
    /// The text of the last turn that has said something.
    said: String,
    gap: Option<String>,
}

impl Log {
    fn read(&mut self, event: Logged) {
        if event.seq != self.seq + 1 {
            self.gap = Some(format!("event {} behind event {}", event.seq, self.seq));
        }
        self.seq = event.seq;
        if event.kind == "text" {
            if event.turn != self.turn {
                self.said.clear();
                self.turn = event.turn;
            }
            self.said.push_str(event.content.as_ref().and_then(|it| it.as_str()).unwrap_or(""));
        }
        self.last = event.kind;
    }

    /// What is wrong with it, now that it has been read to its end: its numbers must be 1, 2, 3, …,
    /// the last event `run.completed`, and the text of the last turn this.
    fn wrong(self, text: &str) -> Option<String> {
        if self.gap.is_some() {
            return self.gap;
        }
        if self.last != "run.completed" {
            return Some(format!("the log ends with {:?}", self.last));
        }
        (self.said != text).then(|| format!("the log says {:?}", self.said))
    }
}

/// What is wrong with the whole log of a run that has ended.
pub(crate) async fn wrong_log(
    on: &mut Connection,
    run_id: &str,
    text: &str,
) -> Result<Option<String>> {
    let mut log = Log::default();
    let mut after = 0;
    loop {
        let path = format!("/runs/{run_id}/events?limit={PAGE}&after={after}");
        let page: Page = serde_json::from_slice(&on.get(&path).await?.body)?;
        page.data.into_iter().for_each(|event| log.read(event));
        after = page.next_after;
        if after >= page.last_seq {
            return Ok(log.wrong(text).map(|wrong| format!("run {run_id}: {wrong}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Vec<Logged> {
        let event = |seq, kind: &str, turn, content: Option<&str>| Logged {
            seq,
            kind: kind.to_owned(),
            turn,
            content: content.map(Into::into),
        };
        vec![
            event(1, "run.queued", 0, None),
            event(2, "text", 1, Some("first ")),
            event(3, "text", 2, Some("w1 ")),
            event(4, "text", 2, Some("w2 ")),
            event(5, "run.completed", 2, None),
        ]
    }

    #[track_caller]
    fn check(events: Vec<Logged>, expected: Option<&str>) {
        let mut log = Log::default();
        events.into_iter().for_each(|event| log.read(event));
        assert_eq!(log.wrong("w1 w2 ").as_deref(), expected);
    }

    #[test]
    fn what_is_wrong_with_a_log_is_found() {
        check(events(), None);
        let planted = |plant: fn(&mut Vec<Logged>)| {
            let mut events = events();
            plant(&mut events);
            events
        };
        check(planted(|all| drop(all.remove(1))), Some("event 3 behind event 1"));
        check(planted(|all| all[4].seq = 4), Some("event 4 behind event 4"));
        check(planted(|all| drop(all.pop())), Some("the log ends with \"text\""));
        check(planted(|all| all[3].content = None), Some("the log says \"w1 \""));
        check(planted(|all| all[1].turn = 2), Some("the log says \"first w1 w2 \""));
    }

    #[test]
    fn what_is_wrong_with_a_run_is_found() {
        let ask = Ask::new("d2", 2);
        let run = Run {
            run_id: "r".to_owned(),
            status: "COMPLETED".to_owned(),
            final_output: Some("w1 w2 ".to_owned()),
            last_seq: 5,
            error: None,
        };
        assert_eq!(ask.wrong(&run), None);
        let cut = Run { final_output: Some("w1 ".to_owned()), ..run.clone() };
        assert_eq!(ask.wrong(&cut).as_deref(), Some("run r says \"w1 \""));
        let failed = Run { status: "FAILED".to_owned(), error: Some(json!("why")), ..run };
        assert_eq!(ask.wrong(&failed).as_deref(), Some("run r is FAILED: \"why\""));
    }
}
