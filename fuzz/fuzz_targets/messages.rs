//! Any bytes as an answer in the dialect of messages.
#![no_main]

#[path = "../../tests/corpus/properties.rs"]
#[expect(dead_code, reason = "the other targets use the rest")]
mod properties;

use runledger::model::replay::Spoken;

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    properties::answer(Spoken::Messages, body);
});
