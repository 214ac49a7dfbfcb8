//! Answers of tools over HTTP, kept and made up.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use crate::{cases, properties};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/tools")
}

#[test]
fn every_kept_answer_of_a_tool_means_what_it_always_meant() {
    let expected = fs::read_to_string(folder().join("expected.txt")).unwrap_or_default();
    let mut names: Vec<String> = fs::read_dir(folder())
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be read").file_name().into_string().expect("ASCII"))
        .filter(|name| name.ends_with(".body"))
        .collect();
    names.sort();
    assert!(names.len() > 20, "only {} answers are kept", names.len());
    let meant: Vec<String> = names
        .iter()
        .map(|name| {
            let kept = fs::read(folder().join(name)).expect("it can be read");
            let line = kept.iter().position(|byte| *byte == b'\n').expect("it has a head");
            let head = std::str::from_utf8(&kept[..line]).expect("the head is ASCII");
            let (status, media_type) = head.split_once(' ').expect("a status and a type");
            let status = status.parse().expect("it is a status");
            let answer = properties::tool_result(status, media_type, &kept[line + 1..]);
            let shown: String = answer.result.to_string().chars().take(100).collect();
            let is_error = if answer.is_error { "error " } else { "" };
            format!("{}: {is_error}{shown}", name.trim_end_matches(".body"))
        })
        .collect();
    assert_eq!(meant.join("\n"), expected.trim_end(), "\n{}\n", meant.join("\n"));
}

/// Pieces that have broken readers before.
const PIECES: [&str; 16] = [
    "[",
    "]",
    "{\"a\":",
    "}",
    "9",
    "e999",
    "\\u0000",
    "\\ud800",
    "\"",
    "é",
    "\0",
    "{},",
    "null,",
    "{\"result\":",
    "\"variables\":{",
    "\"$serde_json::private::RawValue\":\"[\"",
];

pub fn hostile_body() -> impl Strategy<Value = Vec<u8>> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..100);
    let repeated = (proptest::sample::select(PIECES.to_vec()), 0..400_usize)
        .prop_map(|(piece, times)| piece.repeat(times).into_bytes());
    let few = (proptest::sample::select(PIECES.to_vec()), 0..3_usize)
        .prop_map(|(piece, times)| piece.repeat(times).into_bytes());
    let part = prop_oneof![1 => bytes, 2 => repeated, 4 => few];
    proptest::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

pub const MEDIA_TYPES: [&str; 5] = [
    "",
    "application/json",
    "text/plain",
    "application/vnd.runledger.tool-result+json",
    "text/event-stream",
];

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn whatever_a_tool_answers_can_be_told_and_read_again(
        status in prop_oneof![3 => Just(200), 1 => 100..600_u16],
        media_type in proptest::sample::select(MEDIA_TYPES.to_vec()),
        body in hostile_body(),
    ) {
        properties::tool_result(status, media_type, &body);
    }
}
