//! The models and tools of the simulation: the seed says what they do, and they count.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use runledger::model::{self, Delta, Failure, ProposedCall, Remedy, Reply};
use runledger::run::event::{
    AbortReason, Effect, FailedTry, FinishReason, Outcome, Usage, kind_of,
};
use runledger::run::{CallId, Message, Request, limits};
use runledger::tool::{self, Answer, Invocation, Tried};
use serde_json::{Map, json};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::process::Gate;
use crate::rng::Rng;
use crate::world::{ToolCalls, World};

/// What one process's calls of models and tools come to.
#[derive(Debug)]
pub(crate) struct Play {
    pub(crate) world: Arc<World>,
    pub(crate) gate: Arc<Gate>,
}

impl model::stand_in::Play for Play {
    fn call<'a>(
        &'a self,
        model: &'a str,
        request: &'a Request,
        deltas: mpsc::Sender<Delta>,
    ) -> BoxFuture<'a, Result<Reply, Failure>> {
        Box::pin(async move {
            self.gate.pass().await;
            let (client, turn) = asked(request);
            let nth = self.note_turn(client, turn);
            let mut rng = self.world.rng(&[4, client, turn, nth]);
            let played = self.answer(model, client, turn, &mut rng, deltas).await;
            self.gate.pass().await;
            played
        })
    }
}

impl tool::stand_in::Play for Play {
    fn call<'a>(&'a self, call: &'a Invocation) -> BoxFuture<'a, Tried> {
        Box::pin(async move {
            self.gate.pass().await;
            let nth = self.note_call(call);
            let words: Vec<u64> = call.call_id.0.bytes().map(u64::from).collect();
            let mut rng = self.world.rng(&[&[5, nth], words.as_slice()].concat());
            let tried = self.try_tool(call, &mut rng).await;
            self.gate.pass().await;
            tried
        })
    }
}

/// Who asks, and for which turn.
fn asked(request: &Request) -> (u64, u64) {
    let Some(Message::User { content }) = request.messages.first() else { panic!("no input") };
    let is_turn = |message: &&Message| matches!(message, Message::Assistant { .. });
    let done = request.messages.iter().filter(is_turn).count() as u64;
    (content.text().parse().expect("the input is the client's number"), done + 1)
}

impl Play {
    /// Counts a call of the model; gives how many of this turn came before.
    fn note_turn(&self, client: u64, turn: u64) -> u64 {
        for run in self.world.runs_of(client) {
            let log = self.world.database.log(run);
            let is_done = |kind| Some(kind) == kind_of("turn.completed");
            let done = log.iter().filter(|event| is_done(event.kind)).count() as u64;
            if done >= turn && !self.world.swarm.jumps {
                self.world.violation(format!("turn {turn} of {run} is called after its end"));
            }
        }
        let mut ledger = self.world.ledger();
        let calls = ledger.model_calls.entry((client, turn)).or_default();
        *calls += 1;
        *calls - 1
    }

    async fn answer(
        &self,
        model: &str,
        client: u64,
        turn: u64,
        rng: &mut Rng,
        deltas: mpsc::Sender<Delta>,
    ) -> Result<Reply, Failure> {
        let is_calm = self.world.is_calm();
        sleep(rng.ms(0, 60)).await;
        let fails = rng.percent(self.world.swarm.failures) && !is_calm;
        let how = rng.below(6);
        if fails {
            self.world.count(|counts| counts.calls += 1);
        }
        match how {
            0 if fails => return Err(failure(AbortReason::RateLimited, Remedy::Retry, false, rng)),
            1 if fails => {
                return Err(failure(AbortReason::Overloaded, Remedy::Fallback, false, rng));
            }
            2 if fails => std::future::pending().await,
            _ => {}
        }
        for word in 0..rng.between(1, 4) {
            let pause = if rng.percent(5) && !is_calm { rng.ms(0, 2500) } else { rng.ms(0, 250) };
            sleep(pause).await;
            let delta = match rng.below(5) {
                0 => Delta::Reasoning { text: format!("hm {word} "), provider_metadata: None },
                _ => Delta::Text(format!("word {word} ")),
            };
            if deltas.send(delta).await.is_err() {
                return Err(failure(AbortReason::Cut, Remedy::Retry, true, rng));
            }
        }
        match how {
            3 if fails => return Err(failure(AbortReason::Cut, Remedy::Retry, true, rng)),
            4 if fails => return Err(failure(AbortReason::Connection, Remedy::Retry, true, rng)),
            5 if fails && rng.percent(30) => {
                return Err(failure(AbortReason::ProviderError, Remedy::Final, true, rng));
            }
            _ => {}
        }
        self.world.count(|counts| counts.ok += 1);
        let turns = self.world.rng(&[6, client]).between(1, 5);
        let calls = if turn < turns { proposals(client, turn, rng) } else { Vec::new() };
        Ok(Reply {
            finish_reason: match calls.is_empty() {
                true => FinishReason::Stop,
                false => FinishReason::ToolCalls,
            },
            finish_reason_raw: String::new(),
            calls,
            usage: Usage::default(),
            model: model.to_owned(),
            provider_request_id: None,
        })
    }

    /// Counts a call of a tool; gives how many of the same key came before.
    fn note_call(&self, call: &Invocation) -> u64 {
        let key = &call.call_id;
        if self.has_result(call) && !self.world.swarm.jumps {
            self.world.violation(format!("{key} is called after its result"));
        }
        let mut ledger = self.world.ledger();
        let fresh = ToolCalls { effect: call.effect, arguments: call.arguments.clone(), times: 0 };
        let calls = ledger.tool_calls.entry(key.0.clone()).or_insert(fresh);
        calls.times += 1;
        let (times, is_same) = (calls.times, calls.arguments == call.arguments);
        drop(ledger);
        if call.effect == Effect::Once && times > 1 {
            self.world.violation(format!("{key} has the effect `once` and is called again"));
        }
        if !is_same {
            self.world.violation(format!("{key} is called again for something else"));
        }
        times - 1
    }

    fn has_result(&self, call: &Invocation) -> bool {
        let CallId(key) = &call.call_id;
        let Ok(run) = call.run_id.parse() else { return false };
        let key = format!("\"{key}\"");
        let log = self.world.database.log(run);
        log.iter()
            .any(|event| Some(event.kind) == kind_of("tool_result") && event.data.contains(&key))
    }

    async fn try_tool(&self, call: &Invocation, rng: &mut Rng) -> Tried {
        let is_calm = self.world.is_calm();
        let is_slow = rng.percent(10) && !is_calm;
        sleep(if is_slow { rng.ms(0, 3500) } else { rng.ms(0, 100) }).await;
        let fails = rng.percent(self.world.swarm.failures) && !is_calm;
        if !fails {
            self.world.count(|counts| counts.ok += 1);
            let variables = rng
                .percent(10)
                .then(|| Map::from_iter([("seen".to_owned(), json!(rng.below(100)))]));
            return Tried::Answered(Answer {
                result: json!({"ok": true}),
                is_error: false,
                outcome: Outcome::Ok,
                http_status: Some(200),
                truncated: None,
                variables,
            });
        }
        self.world.count(|counts| counts.calls += 1);
        let may_repeat = call.effect != Effect::Once && call.try_number < limits::TOOL_TRIES;
        match rng.below(3) {
            0 if may_repeat => Tried::Failed {
                wait: rng.ms(10, 800),
                failed: FailedTry {
                    http_status: Some(503),
                    message: "busy".to_owned(),
                    elapsed_time: 0.01,
                },
            },
            1 => std::future::pending().await,
            _ => Tried::Answered(Answer::failed("it broke".to_owned(), Outcome::Error)),
        }
    }
}

fn failure(reason: AbortReason, remedy: Remedy, has_begun: bool, rng: &mut Rng) -> Failure {
    Failure {
        reason,
        remedy,
        status: Some(503),
        message: "the seed says so".to_owned(),
        retry_after: rng.percent(20).then(|| Duration::from_millis(rng.between(100, 1500))),
        usage: None,
        has_begun,
    }
}

fn proposals(client: u64, turn: u64, rng: &mut Rng) -> Vec<ProposedCall> {
    let call = |rng: &mut Rng| ProposedCall {
        provider_call_id: Some("call_0".to_owned()),
        tool_name: rng.pick(&["read", "again", "once", "once", "again", "nowhere"]).to_owned(),
        arguments_raw: format!(r#"{{"of":{client},"turn":{turn},"n":{}}}"#, rng.below(1000)),
        provider_metadata: None,
    };
    (0..rng.between(1, 3)).map(|_| call(rng)).collect()
}
