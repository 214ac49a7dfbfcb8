//! What must hold of the logs when everything has ended.

use std::collections::{BTreeMap, BTreeSet};

use runledger::run::event::{Effect, kind_of};
use runledger::run::{Body, Event, RunId, State};
use runledger::store::StoredEvent;

use crate::world::{Ledger, World};

/// How many starts of turns and tools a log has.
pub(crate) fn starts(log: &[StoredEvent]) -> usize {
    let starts = [kind_of("turn.started"), kind_of("tool.started")];
    log.iter().filter(|event| starts.contains(&Some(event.kind))).count()
}

/// Everything that is wrong.
pub(crate) fn check(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    let ledger = world.ledger();
    for (client, runs) in &ledger.accepted {
        if runs.len() > 1 {
            found.push(format!("client {client} was told of {runs:?} for one intent"));
        }
    }
    let mut made: BTreeMap<u64, u64> = BTreeMap::new();
    for run in world.database.runs() {
        let Some(client) = ledger.asked.get(&run) else {
            found.push(format!("nobody asked for {run}"));
            continue;
        };
        *made.entry(*client).or_default() += 1;
        let log = world.database.log(run);
        let mut of_run = Checked { run, client: *client, found: Vec::new() };
        of_run.check(world, &ledger, &log);
        found.append(&mut of_run.found);
    }
    for (client, times) in made {
        if times > 1 {
            found.push(format!("client {client} has {times} runs for one intent"));
        }
    }
    for run in ledger.accepted.values().flatten() {
        if world.database.row(*run).is_none() {
            found.push(format!("{run} was accepted and is not there"));
        }
    }
    for ((run, _), seen) in &ledger.reads {
        let log = world.database.log(*run);
        if !log.starts_with(seen) {
            found.push(format!("{run}: a reader saw what is not in the log"));
        }
    }
    found
}

struct Checked {
    run: RunId,
    client: u64,
    found: Vec<String>,
}

impl Checked {
    fn refuse(&mut self, words: &str) {
        self.found.push(format!("{}: {words}", self.run));
    }

    fn check(&mut self, world: &World, ledger: &Ledger, log: &[StoredEvent]) {
        let events: Vec<Event> =
            log.iter().map(|event| serde_json::from_str(&event.data).unwrap()).collect();
        for (place, event) in (1..).zip(&events) {
            if event.seq.0 != place || log[event.seq.0 as usize - 1].seq != event.seq {
                self.refuse(&format!("event {} stands at place {place}", event.seq));
                return;
            }
        }
        if events.windows(2).any(|pair| pair[0].at > pair[1].at) {
            self.refuse("time goes back");
        }
        let ends = events.iter().filter(|event| event.body.is_terminal()).count();
        if ends != 1 || !events.last().is_some_and(|last| last.body.is_terminal()) {
            self.refuse(&format!("{ends} ends, or one that is not the last event"));
        }
        if let Some(Body::RunFailed { result, .. }) = events.last().map(|last| &last.body)
            && result.error.as_ref().is_some_and(|error| error.code == "internal")
        {
            self.refuse("the store refused its data");
        }
        self.turns(ledger, &events);
        self.tools(ledger, &events);
        self.inbox(ledger, &events, log);
        self.row(world, &events);
    }

    fn turns(&mut self, ledger: &Ledger, events: &[Event]) {
        let mut started: BTreeMap<u64, u64> = BTreeMap::new();
        let mut done = 0;
        for event in events {
            match event.body {
                Body::TurnStarted { .. } if u64::from(event.turn) <= done => {
                    self.refuse(&format!("turn {} starts after its end", event.turn));
                }
                Body::TurnStarted { .. } => *started.entry(event.turn.into()).or_default() += 1,
                Body::TurnCompleted { .. } if u64::from(event.turn) <= done => {
                    self.refuse(&format!("turn {} ends twice", event.turn));
                }
                Body::TurnCompleted { .. } => done = event.turn.into(),
                _ => {}
            }
        }
        for ((_, turn), calls) in ledger.model_calls.range((self.client, 0)..(self.client + 1, 0)) {
            let starts = started.get(turn).copied().unwrap_or(0);
            if *calls > starts {
                self.refuse(&format!("turn {turn}: {calls} calls of {starts} starts"));
            }
        }
    }

    fn tools(&mut self, ledger: &Ledger, events: &[Event]) {
        let mut open: BTreeMap<&str, u64> = BTreeMap::new();
        let mut closed = BTreeSet::new();
        for event in events {
            match &event.body {
                Body::ToolCall { call_id, .. } if open.insert(&call_id.0, 0).is_some() => {
                    self.refuse(&format!("{call_id} is asked for twice"));
                }
                Body::ToolStarted { call_id, .. } => match open.get_mut(call_id.0.as_str()) {
                    Some(starts) if !closed.contains(&call_id.0) => *starts += 1,
                    Some(_) | None => self.refuse(&format!("{call_id} starts and is not open")),
                },
                Body::ToolResult { call_id, .. } => {
                    let is_known = open.contains_key(call_id.0.as_str());
                    if !is_known || !closed.insert(call_id.0.clone()) {
                        self.refuse(&format!("{call_id} has a result and is not open"));
                    }
                }
                _ => {}
            }
        }
        for (call, starts) in open {
            if !closed.contains(call) {
                self.refuse(&format!("{call} has no result"));
            }
            let Some(calls) = ledger.tool_calls.get(call) else { continue };
            if calls.times > starts || (calls.effect == Effect::Once && calls.times > 1) {
                let times = calls.times;
                self.refuse(&format!("{call}: {times} calls of {starts} starts"));
            }
        }
    }

    fn inbox(&mut self, ledger: &Ledger, events: &[Event], log: &[StoredEvent]) {
        if let Some(by_then) = ledger.cancels.get(&self.run) {
            let now = starts(log);
            if now != *by_then {
                self.refuse(&format!("{now} starts, {by_then} when its cancel was accepted"));
            }
            let is_cancel = |event: &&Event| matches!(event.body, Body::CancelRequested { .. });
            let told = events.iter().filter(is_cancel).count();
            if told != 1 {
                self.refuse(&format!("an accepted cancel stands {told} times in the log"));
            }
        }
        let mine = self.run;
        for (run, mark) in ledger.changes.iter().filter(|(run, _)| *run == mine) {
            let says = |event: &&Event| match &event.body {
                Body::RunUpdated { metadata: Some(labels), .. } => labels["mark"] == mark.as_str(),
                _ => false,
            };
            let told = events.iter().filter(says).count();
            if told != 1 {
                self.refuse(&format!(
                    "the accepted {mark} stands {told} times in the log of {run}"
                ));
            }
        }
    }

    fn row(&mut self, world: &World, events: &[Event]) {
        let mut state = State::default();
        for event in events {
            state.apply(event);
        }
        let row = world.database.row(self.run).expect("it was listed");
        if (state.status, state.last_seq) != (row.status, row.last_seq) {
            self.refuse("the row is not what the log says");
        }
        let remains = world.database.remains(self.run).expect("it was listed");
        if remains.owner.is_some() || remains.is_queued || remains.inbox_rows > 0 {
            self.refuse(&format!("it has ended, and there is still {remains:?}"));
        }
    }
}
