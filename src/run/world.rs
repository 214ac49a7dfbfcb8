//! A random world around a run: it does what a driver does, and everything that can happen to one
//! happens, by a tape of numbers.

use serde_json::{Value, json};

use super::decide::decide;
use super::ending::{closing, finish};
use super::event::{AbortReason, Body, Event, FinishReason, Outcome, StartReason, Usage};
use super::limits;
use super::notation::{Log, catalog, effect_of};
use super::plain;
use super::raise::Raise;
use super::retry::{Retry, retry_in};
use super::state::{FailedAttempt, State};
use super::{Clock, Seq, Spec, Step};

/// What models and tools say: harmless, long characters, control characters, NUL.
const WORDS: [&str; 6] = ["Hello ", "ß", "😀", "\0", "\u{7f}\u{1b}[0m", "\"\\\n"];

/// Arguments that models write.
const ARGUMENTS: [&str; 6] =
    ["", "{}", r#"{"a":"\u0000"}"#, "[1]", "{broken", r#"{"n":[1.5,null,"ß"]}"#];

/// Tools by what they do to the world; those that begin with `u` are unknown.
const TOOLS: [&str; 4] = ["a", "r", "o", "u"];

/// Why an attempt ended that is the model's fault, with the provider's status.
const FAILURES: [(AbortReason, Option<u16>); 7] = [
    (AbortReason::RateLimited, Some(429)),
    (AbortReason::Overloaded, Some(529)),
    (AbortReason::ProviderError, Some(401)),
    (AbortReason::ProviderError, Some(400)),
    (AbortReason::Connection, None),
    (AbortReason::Stalled, None),
    (AbortReason::Cut, None),
];

/// A run and what happens to it.
pub(super) struct World {
    pub(super) spec: Spec,
    pub(super) log: Log,
    tape: std::vec::IntoIter<u8>,
}

impl World {
    /// Plays the tape to its end, or to the run's.
    pub(super) fn play(tape: Vec<u8>) -> World {
        let mut tape = tape.into_iter();
        let spec = spec(&mut tape);
        let mut world = World { spec, log: Log::new(), tape };
        if world.roll(20) > 0 {
            world.log.started(StartReason::New, 0);
        }
        while world.tape.len() > 0 && world.step() {}
        world
    }

    /// A number below `sides`, the lower the more often; 0 when the tape has ended.
    fn roll(&mut self, sides: u8) -> u8 {
        self.tape.next().map_or(0, |number| number % sides)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let place = usize::from(self.roll(u8::try_from(from.len()).expect("they are few")));
        from[place]
    }

    /// Something befalls the run, or it gets on by a step; false once it has ended.
    fn step(&mut self) -> bool {
        match self.roll(24) {
            23 => self.take_over(StartReason::Crash),
            22 => self.take_over(StartReason::Drain),
            21 if self.roll(3) == 0 => self.cancel(),
            20 if self.roll(4) == 0 => self.log.clock.elapsed *= 1000,
            _ => {}
        }
        self.log.clock.elapsed += std::time::Duration::from_millis(100);
        self.log.clock.turn_elapsed += std::time::Duration::from_millis(100);
        match decide(&self.spec, &self.log.state, &self.log.clock) {
            Step::Stop => return false,
            Step::AbandonAttempt => self.abandon(AbortReason::Crash),
            Step::CallModel { model, turn, attempt, .. } => {
                self.log.asked(&model);
                assert_eq!((self.log.state.turn, self.log.state.attempt), (turn, attempt));
                if attempt == 1 {
                    self.log.clock.turn_elapsed = std::time::Duration::ZERO;
                }
                self.listen(&model);
            }
            Step::CallTools(calls) => self.call_tools(&calls),
            Step::RefuseCalls(calls) => {
                let state = &self.log.state;
                let open = state.open_calls().filter(|call| calls.contains(&call.call_id));
                let bodies: Vec<Body> = open.map(closing).collect();
                bodies.into_iter().for_each(|body| self.log.here(body));
            }
            Step::Finish(ending) => {
                let Log { state, clock, .. } = &self.log;
                let drafts = finish(&self.spec, state, "r", &ending, clock, None);
                self.log.append(drafts);
            }
        }
        true
    }

    /// Another node goes on from what is stored.
    fn take_over(&mut self, reason: StartReason) {
        self.log.state = State::fold(without_old_deltas(&self.log.events));
        if self.log.state.status.is_terminal() {
            return;
        }
        let crashes = self.log.state.crashes + u32::from(reason == StartReason::Crash);
        self.log.started(reason, crashes);
        let is_drain = reason == StartReason::Drain;
        self.abandon(if is_drain { AbortReason::Drain } else { AbortReason::Crash });
    }

    fn abandon(&mut self, reason: AbortReason) {
        if self.log.state.open.is_some() {
            self.abort(reason, None, Some(0.0), None);
        }
    }

    fn abort(
        &mut self,
        reason: AbortReason,
        provider_status: Option<u16>,
        retry_in: Option<f64>,
        usage: Option<Usage>,
    ) {
        let open = self.log.state.open.as_ref().expect("an attempt is open");
        let body = Body::TurnAborted {
            reason,
            provider_status,
            message: None,
            discard_from_seq: open.started,
            last_item: self.log.state.last_item,
            retry_in,
            elapsed_time: None,
            usage,
        };
        self.log.here(body);
    }

    fn cancel(&mut self) {
        if self.log.state.cancelled_by.is_none() && !self.log.state.status.is_terminal() {
            self.log.here(Body::CancelRequested { by: "local".to_owned(), reason: None });
        }
    }

    /// More of something, or of nothing that was limited.
    fn raise(&mut self) {
        let now = self.log.state.limits(&self.spec);
        let mut limits = Raise::default();
        match self.roll(4) {
            0 => limits.max_turns = Some(now.max_turns + 1),
            1 => limits.max_total_tokens = now.max_total_tokens.map(|most| most + 50),
            2 => limits.max_tool_calls = now.max_tool_calls.map(|most| most + 1),
            _ => limits.max_turns = Some(1),
        }
        self.log.raised(limits);
    }

    /// What comes of a call of the model.
    fn listen(&mut self, model: &str) {
        loop {
            match self.roll(16) {
                0..=5 => {
                    let text = self.pick(&WORDS);
                    self.log.said(text);
                }
                6 | 7 => {
                    let text = self.pick(&WORDS);
                    self.log.thought(text);
                }
                8 => {
                    let reason = self.pick(&[StartReason::Crash, StartReason::Drain]);
                    return self.take_over(reason);
                }
                9 => return self.fail(model),
                10 if self.roll(6) == 0 => return self.cancel(),
                12 if self.roll(3) == 0 => self.raise(),
                11 if self.roll(3) == 0 => {
                    self.log.clock.turn_elapsed *= 1000;
                    return;
                }
                _ => return self.reply(),
            }
            if self.tape.len() == 0 {
                return;
            }
        }
    }

    fn fail(&mut self, model: &str) {
        let (reason, status) = self.pick(&FAILURES);
        let failed = FailedAttempt {
            model: model.to_owned(),
            reason,
            provider_status: status,
            message: String::new(),
            is_left: false,
        };
        let retry = Retry { same_model: status != Some(401), retry_after: None, jitter: 0.5 };
        let wait = (status != Some(400))
            .then(|| retry_in(&self.spec, &self.log.state, &failed, &retry, &self.log.clock))
            .flatten();
        let usage = self.usage();
        self.abort(reason, status, wait.map(|wait| wait.as_secs_f64()), usage);
    }

    fn usage(&mut self) -> Option<Usage> {
        let tokens = self.pick(&[None, Some(10), Some(40), Some(u64::MAX)]);
        let input_tokens = self.pick(&[None, Some(7)]);
        tokens.map(|_| Usage { input_tokens, total_tokens: tokens, ..Usage::default() })
    }

    fn reply(&mut self) {
        // An answer without calls ends the run: it comes seldom.
        let calls = self.roll(8).div_ceil(2);
        for _call in 0..calls {
            let tool = format!("{}{}", self.pick(&TOOLS), self.log.state.last_item);
            let raw = self.pick(&ARGUMENTS);
            self.log.called_with(&tool, plain::arguments(raw), raw);
        }
        let good = if calls > 0 { FinishReason::ToolCalls } else { FinishReason::Stop };
        let odd = [FinishReason::Length, FinishReason::ContentFilter, FinishReason::Other];
        let finish_reason = if self.roll(24) == 23 { self.pick(&odd) } else { good };
        let tokens = self.roll(50).into();
        self.log.used(tokens);
        self.log.ended(finish_reason);
    }

    /// Answers for what can't run, starts the others, and takes results in as they come.
    fn call_tools(&mut self, calls: &[super::CallId]) {
        let open = self.log.state.open_calls().filter(|call| calls.contains(&call.call_id));
        let names: Vec<String> = open.map(|call| call.tool_name.clone()).collect();
        let (unknown, known): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| name.starts_with('u'));
        unknown.iter().for_each(|name| self.log.unstarted(name, Outcome::Error));
        let mut running: Vec<String> = known.into_iter().take(limits::TOOLS_AT_ONCE).collect();
        running.iter().for_each(|name| self.log.began(name));
        while !running.is_empty() && self.tape.len() > 0 {
            match self.roll(16) {
                15 => return self.take_over(StartReason::Crash),
                14 if self.roll(4) == 0 => return self.cancel(),
                12 => {
                    self.raise();
                    continue;
                }
                13 => {
                    let place = usize::from(self.roll(8)) % running.len();
                    self.log.began_again(&running[place]);
                    continue;
                }
                _ => {}
            }
            let place = usize::from(self.roll(8)) % running.len();
            let name = running.remove(place);
            if self.roll(5) == 4 {
                let values = json!({"set": self.pick(&WORDS)});
                let values = values.as_object().expect("it is one").clone();
                self.log.here(Body::VariablesSet { values });
            }
            let text = self.pick(&WORDS);
            let outcome = self.pick(&[Outcome::Ok, Outcome::Ok, Outcome::Error, Outcome::Timeout]);
            self.log.result(&name, text, outcome);
        }
    }

    /// Goes on with a model that always wants a tool and tools that always answer; true if the run
    /// ends within so many steps.
    pub(super) fn ends_with_a_greedy_model(mut self, steps: u32) -> bool {
        for _step in 0..steps {
            match decide(&self.spec, &self.log.state, &self.log.clock) {
                Step::Stop => return true,
                Step::CallModel { model, .. } => {
                    self.log.asked(&model);
                    self.log.called("a");
                    self.log.ended(FinishReason::ToolCalls);
                }
                Step::CallTools(calls) => self.call_tools_well(&calls),
                Step::AbandonAttempt => self.abandon(AbortReason::Crash),
                Step::RefuseCalls(_) | Step::Finish(_) => {
                    self.step();
                }
            }
        }
        false
    }

    fn call_tools_well(&mut self, calls: &[super::CallId]) {
        let open = self.log.state.open_calls().filter(|call| calls.contains(&call.call_id));
        let names: Vec<String> = open.map(|call| call.tool_name.clone()).collect();
        for name in names {
            assert!(
                effect_of(&name) != super::event::Effect::Once || {
                    let call = self.log.state.open_calls().find(|call| call.tool_name == name);
                    call.is_some_and(|call| call.tries == 0)
                }
            );
            self.log.result(&name, "fine", Outcome::Ok);
        }
    }
}

/// What a take-over reads: no deltas but those of the last attempt.
pub(super) fn without_old_deltas(events: &[Event]) -> Vec<&Event> {
    let is_start = |event: &&Event| matches!(event.body, Body::TurnStarted { .. });
    let last = events.iter().rfind(is_start).map_or(Seq(0), |event| event.seq);
    let is_delta = |event: &Event| matches!(event.body, Body::Text { .. } | Body::Reasoning { .. });
    events.iter().filter(|event| !is_delta(event) || event.seq > last).collect()
}

fn spec(tape: &mut impl Iterator<Item = u8>) -> Spec {
    let mut roll = |sides: u8| tape.next().unwrap_or(0) % sides;
    let mut config = json!({
        "max_turns": 1 + roll(8),
        "stop_on_tool_error": roll(5) == 4,
        "on_limit": if roll(2) == 0 { "finalize" } else { "fail" },
    });
    if roll(3) == 0 {
        config["max_total_tokens"] = json!(1 + u32::from(roll(250)) * 2);
    }
    if roll(3) == 0 {
        config["max_tool_calls"] = json!(roll(8));
    }
    let history = match roll(3) {
        0 => json!([]),
        1 => json!([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]),
        _ => json!([
            {"role": "assistant", "tool_calls":
                [{"call_id": "call_1", "tool_name": "t", "arguments": "{"}]},
            {"role": "tool", "call_id": "call_1", "content": "x", "is_error": true},
        ]),
    };
    let body = json!({
        "agent": {"name": "A", "model": ["demo/a", "demo/b"]},
        "input": "Hi",
        "history": history,
        "variables": {"set": Value::Null},
        "config": config,
    });
    Spec::parse(&body, &catalog()).expect("the world's spec is valid")
}

/// Long before any limit of time, and long after.
pub(super) fn clocks() -> [Clock; 2] {
    let late = std::time::Duration::from_secs(100_000);
    [Clock::default(), Clock { elapsed: late, turn_elapsed: late }]
}
