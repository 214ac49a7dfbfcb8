//! A small notation for logs and for what is decided over them, for tests that read like the story
//! they check: `check("started; called 1 a b; returned a", "call b")`.
//!
//! A log is a list of statements with `;` between them, behind a `run.queued` that goes without
//! saying. Tools have one letter: `a` is idempotent, `r…` read and `o…` once, whatever follows.
//!
//! | statement | events |
//! |---|---|
//! | `started`, `drained`, `died N` | `run.started`: a new run, after a drain, after N crashes |
//! | `asked [MODEL]` | `turn.started`: the next attempt or turn, by what came before |
//! | `said TEXT`, `thought TEXT` | `text`, `reasoning` |
//! | `ended REASON` | `turn.completed` of the attempt under way, without calls |
//! | `broke REASON [STATUS] [in SECONDS]` | `turn.aborted`; without `in` it was the last attempt |
//! | `called N a b` | all of turn N, which asks for these tools |
//! | `answered N TEXT` | all of turn N, which only says this |
//! | `began a` | `tool.started` |
//! | `returned a [TEXT]`, `failed a` | `tool_result` (started before it, if it was not) |
//! | `refused a`, `skipped a` | `tool_result` without a start: the model's error, a limit |
//! | `cancelled` | `cancel.requested` |
//! | `raised LIMIT N` | `run.updated`: this limit of the config is N now |
//! | `used N`, `paid USD` | the next `turn.completed` or `turn.aborted` has used, has cost so much |
//! | `run N s`, `turn N s` | no event: so long the run, or the turn, has taken |

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::catalog::Provider;
use super::event::{
    AgentRef, Body, Draft, Effect, Event, Executor, FORMAT, FailedTry, FinishReason, Outcome,
    OutputPart, StartReason, Usage,
};
use super::id::{CallId, RunId};
use super::price::Price;
use super::raise::Raise;
use super::state::{Call, State};
use super::{Catalog, Clock, Spec, Step};

/// The digest that stands in every `turn.started`.
const DIGEST: &str = "0";

/// A log in the making: its events, and the state and the clock behind them.
pub(super) struct Log {
    pub(super) events: Vec<Event>,
    pub(super) state: State,
    pub(super) clock: Clock,
    /// Tokens and money of the next end of an attempt.
    used: Option<u64>,
    paid: Option<f64>,
    /// The text and reasoning of the attempt under way.
    parts: Vec<OutputPart>,
}

/// What these tests run: the models `demo/a` and `demo/b`, and `config` over the defaults.
pub(super) fn spec(config: &Value) -> Spec {
    let body = json!({
        "agent": {"name": "A", "model": ["demo/a", "demo/b"]},
        "input": "Hi",
        "config": config,
    });
    Spec::parse(&body, &catalog()).expect("the tests' spec is valid")
}

pub(super) fn catalog() -> Catalog {
    let price = Price { input: 1.0, cached_input: None, cache_write_input: None, output: 1.0 };
    let prices = ["a", "b"].map(|model| (model.to_owned(), price)).into();
    let demo = Provider { name: "demo".to_owned(), prices, ..Provider::default() };
    Catalog { models: vec!["demo/*".to_owned()], providers: vec![demo], ..Catalog::default() }
}

pub(super) fn run_id() -> RunId {
    RunId(uuid::Uuid::nil())
}

/// Reads a log in the notation.
pub(super) fn log(text: &str) -> Log {
    let mut log = Log::new();
    for statement in text.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        log.statement(statement);
    }
    log
}

impl Log {
    pub(super) fn new() -> Log {
        let mut log = Log {
            events: Vec::new(),
            state: State::default(),
            clock: Clock::default(),
            used: None,
            paid: None,
            parts: Vec::new(),
        };
        log.push(0, 1, queued());
        log
    }

    /// Commits an event.
    pub(super) fn push(&mut self, turn: u32, attempt: u32, body: Body) {
        self.append([Draft { turn, attempt, body }]);
    }

    /// Commits drafts.
    pub(super) fn append(&mut self, drafts: impl IntoIterator<Item = Draft>) {
        for Draft { turn, attempt, body } in drafts {
            let seq = self.state.last_seq.next();
            let at = format!("2026-11-22T10:00:00.{:03}Z", seq.0 % 1000);
            let event = Event { seq, at, turn, attempt, body };
            self.state.apply(&event);
            self.events.push(event);
        }
    }

    /// Commits an event of the turn and attempt under way.
    pub(super) fn here(&mut self, body: Body) {
        self.push(self.state.turn, self.state.attempt.max(1), body);
    }

    pub(super) fn raised(&mut self, limits: Raise) {
        let by = "local".to_owned();
        self.here(Body::RunUpdated { metadata: None, limits: Some(limits), by });
    }

    fn statement(&mut self, statement: &str) {
        let (verb, rest) = statement.split_once(' ').unwrap_or((statement, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        let seconds = || Duration::from_secs_f64(words[0].parse().expect("seconds"));
        match verb {
            "started" => self.started(StartReason::New, 0),
            "drained" => self.started(StartReason::Drain, self.state.crashes),
            "died" => self.started(StartReason::Crash, rest.parse().expect("a number")),
            "asked" => self.asked(words.first().unwrap_or(&"demo/a")),
            "said" => self.said(rest),
            "thought" => self.thought(rest),
            "ended" => self.ended(word(rest)),
            "broke" => self.broke(&words),
            "called" => {
                self.asked("demo/a");
                self.is_turn(words[0]);
                words[1..].iter().for_each(|tool| self.called(tool));
                self.ended(FinishReason::ToolCalls);
            }
            "answered" => {
                let (turn, text) = rest.split_once(' ').expect("a turn and a text");
                self.asked("demo/a");
                self.is_turn(turn);
                self.said(text);
                self.ended(FinishReason::Stop);
            }
            "began" => self.began(rest),
            "returned" => self.result(words[0], rest[words[0].len()..].trim(), Outcome::Ok),
            "failed" => self.result(rest, "it broke", Outcome::Error),
            "refused" => self.unstarted(rest, Outcome::Error),
            "skipped" => self.unstarted(rest, Outcome::Cancelled),
            "cancelled" => {
                self.here(Body::CancelRequested { by: "local".to_owned(), reason: None });
            }
            "raised" => {
                let (limit, most) = rest.split_once(' ').expect("a limit and a number");
                let most: Value = serde_json::from_str(most).expect("a number");
                let limits = Value::Object(Map::from_iter([(limit.to_owned(), most)]));
                let limits = serde_json::from_value(limits).expect("a limit");
                self.raised(limits);
            }
            "used" => self.used(rest.parse().expect("a number")),
            "paid" => self.paid = Some(rest.parse().expect("money")),
            "run" => self.clock.elapsed = seconds(),
            "turn" => self.clock.turn_elapsed = seconds(),
            unknown => panic!("`{unknown}` is no statement"),
        }
    }

    fn is_turn(&self, number: &str) {
        assert_eq!(self.state.turn.to_string(), number, "the story has lost count of its turns");
    }

    pub(super) fn started(&mut self, reason: StartReason, crashes: u32) {
        self.here(Body::RunStarted {
            node: "n".to_owned(),
            reason,
            crashes,
            elapsed: 0.0,
            turn_elapsed: 0.0,
            waited: 0.0,
        });
    }

    pub(super) fn asked(&mut self, model: &str) {
        let turn = self.state.turn_count() + 1;
        let attempt = if self.state.turn == turn { self.state.attempt + 1 } else { 1 };
        self.parts.clear();
        let (model, request_sha256) = (model.to_owned(), DIGEST.to_owned());
        self.push(turn, attempt, Body::TurnStarted { model, request_sha256 });
    }

    pub(super) fn said(&mut self, text: &str) {
        if !matches!(self.parts.last(), Some(OutputPart::Text { .. })) {
            let item = self.state.last_item + 1;
            self.parts.push(OutputPart::Text { item, text: String::new() });
        }
        let Some(OutputPart::Text { item, text: whole }) = self.parts.last_mut() else { return };
        whole.push_str(text);
        let item = *item;
        self.here(Body::Text { item, content: text.to_owned() });
    }

    pub(super) fn thought(&mut self, content: &str) {
        let item = self.state.last_item + 1;
        self.parts.push(OutputPart::Reasoning {
            item,
            text: Some(content.to_owned()),
            provider_metadata: None,
        });
        let content = content.to_owned();
        self.here(Body::Reasoning { item, content, provider_metadata: None });
    }

    pub(super) fn called(&mut self, tool: &str) {
        self.called_with(tool, json!({}), "{}");
    }

    pub(super) fn called_with(&mut self, tool: &str, arguments: Value, raw: &str) {
        let item = self.state.last_item + 1;
        self.here(Body::ToolCall {
            item,
            call_id: CallId::new(run_id(), item),
            provider_call_id: None,
            tool_name: tool.to_owned(),
            arguments,
            arguments_raw: raw.to_owned(),
            executor: Executor::Server,
            effect: effect_of(tool),
            provider_metadata: None,
        });
    }

    pub(super) fn ended(&mut self, finish_reason: FinishReason) {
        let raw = json!({"finish_reason": "odd"});
        let body = Body::TurnCompleted {
            finish_reason,
            parts: std::mem::take(&mut self.parts),
            usage: self.usage().unwrap_or_default(),
            model: "a".to_owned(),
            provider_request_id: None,
            provider_metadata: (finish_reason == FinishReason::Other).then_some(raw),
            elapsed_time: 0.25,
            first_output_time: None,
        };
        self.here(body);
    }

    fn broke(&mut self, words: &[&str]) {
        let number = |word: &&str| word.parse().ok();
        let wait = words.iter().skip_while(|word| **word != "in").nth(1);
        let open = self.state.open.as_ref().expect("an attempt is open");
        let body = Body::TurnAborted {
            reason: word(words[0]),
            provider_status: words.get(1).and_then(number),
            message: Some("it broke".to_owned()),
            discard_from_seq: open.started,
            last_item: self.state.last_item,
            retry_in: wait.map(|seconds| seconds.parse().expect("seconds")),
            elapsed_time: None,
            usage: self.usage(),
        };
        self.parts.clear();
        self.here(body);
    }

    /// The next end of an attempt has used so many tokens.
    pub(super) fn used(&mut self, tokens: u64) {
        self.used = Some(tokens);
    }

    fn usage(&mut self) -> Option<Usage> {
        let (total_tokens, cost_usd) = (self.used.take(), self.paid.take());
        let is_known = total_tokens.is_some() || cost_usd.is_some();
        is_known.then(|| Usage { total_tokens, cost_usd, ..Usage::default() })
    }

    fn call(&self, tool: &str) -> Call {
        let open = self.state.open_calls().find(|call| call.tool_name == tool);
        open.expect("the call is open").clone()
    }

    pub(super) fn began(&mut self, tool: &str) {
        self.tries(tool, None);
    }

    /// The next try at a call whose last one failed.
    pub(super) fn began_again(&mut self, tool: &str) {
        let message = "no connection was made".to_owned();
        self.tries(tool, Some(FailedTry { http_status: None, message, elapsed_time: 0.1 }));
    }

    fn tries(&mut self, tool: &str, failed_before: Option<FailedTry>) {
        let call = self.call(tool);
        self.here(Body::ToolStarted {
            item: call.item,
            call_id: call.call_id,
            try_number: call.tries + 1,
            failed_before,
            child_run_id: None,
        });
    }

    pub(super) fn result(&mut self, tool: &str, text: &str, outcome: Outcome) {
        if self.call(tool).tries == 0 {
            self.began(tool);
        }
        self.unstarted_with(tool, text, outcome);
    }

    pub(super) fn unstarted(&mut self, tool: &str, outcome: Outcome) {
        self.unstarted_with(tool, "not run", outcome);
    }

    fn unstarted_with(&mut self, tool: &str, text: &str, outcome: Outcome) {
        let call = self.call(tool);
        self.here(Body::ToolResult {
            item: call.item,
            call_id: call.call_id,
            tool_name: call.tool_name,
            result: Value::from(text),
            is_error: outcome != Outcome::Ok,
            outcome,
            try_number: call.tries,
            http_status: None,
            truncated: None,
            elapsed_time: 0.5,
        });
    }

    /// A step in words: `ask demo/a 2.1`, `ask demo/b 2.3 in 0.5 s without tools`, `call a b`,
    /// `refuse a`, `abandon`, `complete end_turn`, `fail max_turns`, `cancel`, `stop`.
    pub(super) fn words(&self, step: &Step) -> String {
        match step {
            Step::Stop => "stop".to_owned(),
            Step::AbandonAttempt => "abandon".to_owned(),
            Step::CallModel { model, turn, attempt, wait, with_tools } => {
                let wait = match wait.as_secs_f64() {
                    0.0 => String::new(),
                    seconds => format!(" in {seconds} s"),
                };
                let tools = if *with_tools { "" } else { " without tools" };
                format!("ask {model} {turn}.{attempt}{wait}{tools}")
            }
            Step::CallTools(calls) => format!("call {}", self.tools(calls)),
            Step::RefuseCalls(calls) => format!("refuse {}", self.tools(calls)),
            Step::Finish(ending) => ending_words(ending.status, ending.stop_reason),
        }
    }

    fn tools(&self, calls: &[CallId]) -> String {
        let names: Vec<&str> = calls
            .iter()
            .filter_map(|id| self.state.calls().find(|call| call.call_id == *id))
            .map(|call| call.tool_name.as_str())
            .collect();
        assert_eq!(names.len(), calls.len(), "only committed calls are decided about");
        names.join(" ")
    }
}

fn ending_words(status: super::Status, stop_reason: &str) -> String {
    match status {
        super::Status::Completed => format!("complete {stop_reason}"),
        super::Status::Cancelled => "cancel".to_owned(),
        super::Status::Failed => format!("fail {stop_reason}"),
        super::Status::Queued | super::Status::Running => panic!("that is no ending"),
    }
}

/// Drafts in words: `aborted limit; a unknown; fail max_time`.
pub(super) fn drafts_in_words(drafts: &[Draft]) -> String {
    let words: Vec<String> = drafts
        .iter()
        .map(|draft| match &draft.body {
            Body::TurnAborted { reason, .. } => format!("aborted {}", name_of(reason)),
            Body::ToolResult { tool_name, outcome, .. } => {
                format!("{tool_name} {}", name_of(outcome))
            }
            Body::RunCompleted { result, .. } => format!("complete {}", result.stop_reason),
            Body::RunFailed { result, .. } => format!("fail {}", result.stop_reason),
            Body::RunCancelled { .. } => "cancel".to_owned(),
            other => other.name().to_owned(),
        })
        .collect();
    words.join("; ")
}

fn queued() -> Body {
    Body::RunQueued {
        format: FORMAT,
        run_id: run_id().to_string(),
        uuid: run_id().to_string(),
        agent: AgentRef { name: Some("A".to_owned()), version: None },
        model: "demo/a".to_owned(),
        by: "local".to_owned(),
        parent_run_id: None,
        continued_from: None,
        input: Value::from("Hi"),
        truncated: None,
        traceparent: None,
    }
}

/// By its first letter, `r` reads and `o` may be called once.
pub(super) fn effect_of(tool: &str) -> Effect {
    match tool.as_bytes().first() {
        Some(b'r') => Effect::Read,
        Some(b'o') => Effect::Once,
        _ => Effect::Idempotent,
    }
}

/// One of our words as it stands in the log.
fn word<T: for<'de> serde::Deserialize<'de>>(text: &str) -> T {
    serde_json::from_value(Value::from(text)).unwrap_or_else(|_| panic!("`{text}` is unknown"))
}

fn name_of(word: &impl serde::Serialize) -> String {
    let name = serde_json::to_value(word).expect("it is a word");
    name.as_str().expect("it is a word").to_owned()
}
