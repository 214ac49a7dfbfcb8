//! What holds for every prefix of every log that can come to be.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;

use super::ending::{Ending, finish};
use super::event::{Body, Draft, Effect, Event};
use super::notation::catalog;
use super::state::State;
use super::world::{World, clocks, without_old_deltas};
use super::{CallId, Spec, Step, decide};

/// Enough that each of the world's turns of fate is met many times; the suite stays quick.
const CASES: u32 = 160;

/// The longest tape: a few turns with everything that can happen in them.
const TAPE_MAX: usize = 240;

fn tape() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 8..TAPE_MAX)
}

/// Folds a log event by event, and shows each prefix with its state.
fn each_prefix(events: &[Event], mut show: impl FnMut(&[Event], &State)) {
    let mut state = State::default();
    show(&[], &state);
    for (place, event) in events.iter().enumerate() {
        state.apply(event);
        show(&events[..=place], &state);
    }
}

fn endings() -> [Ending; 3] {
    [
        Ending::completed("end_turn"),
        Ending::cancelled(),
        Ending::failed("max_time", "it took too long".to_owned(), Value::Null),
    ]
}

/// The step is one that may be taken in this state.
fn check_step(spec: &Spec, state: &State, step: &Step) {
    let call = |id: &CallId| {
        state.calls().find(|call| call.call_id == *id).expect("the call is committed")
    };
    match step {
        Step::Stop => assert!(state.status.is_terminal()),
        Step::AbandonAttempt => assert!(state.open.is_some()),
        Step::CallModel { model, turn, attempt, .. } => {
            assert!(spec.agent.model.0.contains(model));
            assert!(state.open.is_none() && state.open_calls().next().is_none());
            assert!(state.turns.iter().all(|done| done.number < *turn), "never asked again");
            assert!(*turn > state.turn || *attempt > state.attempt, "attempts have new numbers");
        }
        Step::CallTools(calls) => {
            assert!(!calls.is_empty());
            for call in calls.iter().map(call) {
                assert!(call.answer.is_none(), "a tool with a result is never started again");
                assert!(call.tries == 0 || call.effect != Effect::Once, "once means once");
            }
        }
        Step::RefuseCalls(calls) => {
            assert!(!calls.is_empty());
            assert!(calls.iter().map(call).all(|call| call.answer.is_none()));
        }
        Step::Finish(ending) => assert!(ending.status.is_terminal()),
    }
}

/// The run can be ended here, and leaves a history that a next run takes.
fn check_ending(spec: &Spec, before: &State, ending: &Ending) {
    let drafts = finish(spec, before, "r", ending, &clocks()[0], None);
    let mut after = before.clone();
    drafts.iter().for_each(|draft| after.apply_draft(draft));
    assert_eq!(after.status, ending.status);
    assert!(after.open.is_none() && after.open_calls().next().is_none());
    let terminal = |draft: &Draft| draft.body.is_terminal();
    assert!(drafts.last().is_some_and(terminal), "the terminal event is the last");
    assert_eq!(drafts.iter().filter(|draft| terminal(draft)).count(), 1);
    let aborts = drafts.iter().position(|one| matches!(one.body, Body::TurnAborted { .. }));
    assert_eq!(aborts, before.open.is_some().then_some(0), "an open attempt is closed first");
    let result = after.result.as_ref().expect("it has ended");
    assert_eq!(result.final_output, after.final_output());
    assert_eq!((&result.usage, result.turn_count), (&after.usage, after.turn_count()));
    let next = Spec { history: after.history(spec), ..spec.clone() };
    let body = serde_json::to_value(&next).expect("plain data");
    let parsed = Spec::parse(&body, &catalog());
    assert_eq!(parsed.as_ref(), Ok(&next), "the history is valid for a next run");
}

/// The laws of a whole log.
fn check_log(events: &[Event]) {
    let mut completed = BTreeSet::new();
    let mut answered = BTreeSet::new();
    let mut once = BTreeSet::new();
    let mut started = BTreeSet::new();
    let mut items: BTreeMap<u32, (u32, u32, bool)> = BTreeMap::new();
    for (place, event) in events.iter().enumerate() {
        assert_eq!(event.seq.0, place as u64 + 1, "a log has no gaps");
        assert!(!event.body.is_terminal() || place + 1 == events.len(), "the last event");
        match &event.body {
            Body::TurnStarted { .. } => {
                assert!(!completed.contains(&event.turn), "a committed turn is not called again");
            }
            Body::TurnCompleted { .. } => assert!(completed.insert(event.turn)),
            Body::ToolStarted { call_id, failed_before, .. } => {
                assert!(!answered.contains(call_id), "an answered call is not started again");
                // Where the try before is known to have failed, it was not a call.
                let is_known = failed_before.is_some();
                assert!(started.insert(call_id.clone()) || !once.contains(call_id) || is_known);
            }
            Body::ToolResult { call_id, .. } => assert!(answered.insert(call_id.clone())),
            Body::Text { item, .. } | Body::Reasoning { item, .. } => {
                let text = matches!(event.body, Body::Text { .. });
                let owner = (event.turn, event.attempt, text);
                assert_eq!(*items.entry(*item).or_insert(owner), owner, "void items stay void");
            }
            Body::ToolCall { item, call_id, effect, .. } => {
                assert!(items.insert(*item, (event.turn, event.attempt, false)).is_none());
                if *effect == Effect::Once {
                    once.insert(call_id.clone());
                }
            }
            Body::RunQueued { .. }
            | Body::Input { .. }
            | Body::RunStarted { .. }
            | Body::TurnAborted { .. }
            | Body::VariablesSet { .. }
            | Body::CancelRequested { .. }
            | Body::RunUpdated { .. }
            | Body::Log { .. }
            | Body::RunCompleted { .. }
            | Body::RunFailed { .. }
            | Body::RunCancelled { .. } => {}
        }
    }
    let numbers: Vec<u32> = items.keys().copied().collect();
    let dense: Vec<u32> = (1..).take(numbers.len()).collect();
    assert_eq!(numbers, dense, "items are numbered densely over the run");
}

fn cases() -> ProptestConfig {
    ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn every_log_keeps_the_laws(tape in tape()) {
        check_log(&World::play(tape).log.events);
    }

    #[test]
    fn every_prefix_of_every_log_is_a_point_to_go_on_from(tape in tape()) {
        let World { spec, log, .. } = World::play(tape);
        each_prefix(&log.events, |_events, state| {
            for clock in clocks() {
                check_step(&spec, state, &decide(&spec, state, &clock));
            }
        });
    }

    #[test]
    fn every_prefix_of_every_log_can_be_ended_with_a_valid_history(tape in tape()) {
        let World { spec, log, .. } = World::play(tape);
        let mut turn = 0;
        each_prefix(&log.events, |_events, state| {
            if !state.status.is_terminal() {
                // One of the three in turn: each meets every kind of prefix over the cases.
                turn += 1;
                check_ending(&spec, state, &endings()[turn % 3]);
            }
        });
    }

    #[test]
    fn ended_attempts_fold_without_their_deltas(tape in tape()) {
        let events = World::play(tape).log.events;
        each_prefix(&events, |prefix, state| {
            assert_eq!(&State::fold(without_old_deltas(prefix)), state);
        });
    }

    #[test]
    fn a_log_folds_in_pieces_and_from_its_stored_text(
        tape in tape(),
        cut in any::<prop::sample::Index>(),
    ) {
        let World { log, .. } = World::play(tape);
        let (first, second) = log.events.split_at(cut.index(log.events.len()));
        let mut state = State::fold(first);
        second.iter().for_each(|event| state.apply(event));
        let whole = State::fold(&log.events);
        prop_assert_eq!(&state, &whole);
        let stored: Vec<Event> = log
            .events
            .iter()
            .map(|event| serde_json::from_str(&stored(event)).expect("it can be read again"))
            .collect();
        prop_assert_eq!(&stored, &log.events);
    }

    #[test]
    fn every_run_ends_however_greedy_its_model(tape in tape()) {
        let world = World::play(tape);
        // Per turn: a call of the model, an abandoned attempt, refused calls, and two rounds of
        // tools.
        let most = world.log.state.limits(&world.spec).max_turns;
        let steps = 5 * (most + 2) + 5;
        prop_assert!(world.ends_with_a_greedy_model(steps));
    }
}

/// An event as the journal stores it.
fn stored(event: &Event) -> String {
    let Event { seq, at, turn, attempt, body } = event.clone();
    format!(r#"{{"seq":{seq},"at":"{at}",{}"#, Draft { turn, attempt, body }.to_text())
}
