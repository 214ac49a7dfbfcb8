//! The trace that a tool is told to continue: the run's own, or the one that its creator named.

use sha2::{Digest, Sha256};

use crate::run::{CallId, RunId};

/// The header `traceparent` (W3C Trace Context) of one try at a call. All calls of a run are of one
/// trace, each try is a span of its own, and the same try always has the same.
pub(super) fn traceparent(
    given: Option<&str>,
    run: RunId,
    is_recorded: bool,
    call: &CallId,
    try_number: u32,
) -> String {
    let digest = Sha256::digest(format!("{call} {try_number}"));
    // A span's id of zeros is none; the lowest bit keeps it from being that.
    let span: String = digest.iter().take(7).map(|byte| format!("{byte:02x}")).collect();
    let span = format!("{span}{:02x}", digest[7] | 1);
    match given.and_then(parts) {
        Some((trace, flags)) => format!("00-{trace}-{span}-{flags}"),
        None => {
            let flags = if is_recorded { "01" } else { "00" };
            format!("00-{}-{span}-{flags}", run.0.simple())
        }
    }
}

/// The trace's id and flags of a `traceparent`, where it is one.
fn parts(given: &str) -> Option<(&str, &str)> {
    let mut parts = given.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_set = |text: &str| text.bytes().any(|byte| byte != b'0');
    let is_right = is_hex(version, 2)
        && version != "ff"
        && is_hex(trace, 32)
        && is_set(trace)
        && is_hex(span, 16)
        && is_set(span)
        && is_hex(flags, 2);
    is_right.then_some((trace, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(given: Option<&str>, try_number: u32) -> String {
        let (run, call) = (RunId(uuid::Uuid::max()), CallId("call_x_1".to_owned()));
        traceparent(given, run, true, &call, try_number)
    }

    #[test]
    fn all_calls_of_a_run_are_of_one_trace_and_each_try_is_a_span() {
        let first = of(None, 1);
        assert!(first.starts_with(&format!("00-{}-", "f".repeat(32))), "{first}");
        assert!(first.ends_with("-01") && first.len() == 55, "{first}");
        assert_eq!(first, of(None, 1));
        assert_ne!(first, of(None, 2));
    }

    #[test]
    fn a_given_trace_is_continued_and_a_broken_one_is_not() {
        let given = format!("00-{}-{}-00", "a1".repeat(16), "b2".repeat(8));
        let told = of(Some(&given), 1);
        assert!(told.starts_with(&format!("00-{}-", "a1".repeat(16))), "{told}");
        assert!(told.ends_with("-00") && !told.contains(&"b2".repeat(8)), "{told}");
        for broken in ["", "00-x-y-00", &given[..50], &given.replace("a1", "00")] {
            assert_eq!(of(Some(broken), 1), of(None, 1), "{broken}");
        }
    }
}
