//! Any bytes as events of a stream.
#![no_main]

#[path = "../../tests/corpus/properties.rs"]
#[expect(dead_code, reason = "the other targets use the rest")]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::events(bytes));
