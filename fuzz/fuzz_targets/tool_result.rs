//! Any bytes as the answer of a tool over HTTP; the first chooses its head.
#![no_main]

#[path = "../../tests/corpus/properties.rs"]
#[expect(dead_code, reason = "the other targets use the rest")]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((choice, body)) = bytes.split_first() else { return };
    let status = [200, 200, 201, 204, 202, 302, 404, 503][usize::from(choice % 8)];
    let media_type = [
        "",
        "application/json",
        "text/plain",
        "application/vnd.runledger.tool-result+json",
    ][usize::from(choice / 8 % 4)];
    properties::tool_result(status, media_type, body);
});
