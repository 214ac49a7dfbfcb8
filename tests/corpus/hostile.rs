//! A hundred thousand payloads that nobody would send: no reader of them panics.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use runledger::model::replay::Spoken;

use crate::scale::scaled;
use crate::{hostile_body, properties, tools};

/// The seed of all of them.
const SEED: u64 = 13;

/// Reads so many made-up payloads; what went wrong, and how many were read.
fn read<S: Strategy>(
    cases: usize,
    payloads: &S,
    read: impl Fn(S::Value),
) -> (Option<String>, usize) {
    let cases = u32::try_from(cases).expect("they are few");
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    // The default, ChaCha, took more than half of the time in a build for tests.
    let rng = TestRng::from_seed(RngAlgorithm::XorShift, &u128::from(SEED).to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, rng);
    let count = Cell::new(0);
    let ended = runner.run(payloads, |payload| {
        count.set(count.get() + 1);
        read(payload);
        Ok(())
    });
    (ended.err().map(|error| error.to_string()), count.get())
}

/// reliability.md, row 13.
#[test]
fn no_hostile_payload_of_a_model_or_a_tool_panics_its_reader() {
    let each = scaled(100, 25_000);
    let events = |body: Vec<u8>| properties::events(&body);
    let chat = |body: Vec<u8>| drop(properties::answer(Spoken::ChatCompletions, &body));
    let messages = |body: Vec<u8>| drop(properties::answer(Spoken::Messages, &body));
    let types = proptest::sample::select(tools::MEDIA_TYPES.to_vec());
    let answers = (100..600_u16, types, tools::hostile_body());
    let of_tools = |(status, kind, body): (u16, &str, Vec<u8>)| {
        drop(properties::tool_result(status, kind, &body))
    };
    let read = [
        read(each, &hostile_body(), events),
        read(each, &hostile_body(), chat),
        read(each, &hostile_body(), messages),
        read(each, &answers, of_tools),
    ];
    let generated: usize = read.iter().map(|(_, count)| count).sum();
    let found: Vec<&String> = read.iter().filter_map(|(found, _)| found.as_ref()).collect();
    println!(
        "row=13 seed={SEED} faults_fired={generated} ops_ok={generated} value={}",
        found.len()
    );
    assert_eq!(found, Vec::<&String>::new());
    assert!(generated >= 4 * each);
}

/// The control: a reader that can't stand a NUL.
#[test]
fn a_reader_that_panics_is_found() {
    let picky = |body: Vec<u8>| assert!(!body.contains(&0), "a NUL");
    let (found, count) = read(250, &hostile_body(), picky);
    println!("row=13 control=true faults_fired={count} value={}", usize::from(found.is_some()));
    assert!(found.is_some());
}
